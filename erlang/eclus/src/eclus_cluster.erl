%% @doc Joins the nodes that the epmd of this host knows, here and on the LAN, if they are listed.
%%
%% The application `eclus' starts it if `join' lists anything:
%%
%% ```
%% {eclus, [{join, ["web*@hosta.local", "web*@hostb.local"]}]}
%% '''
%%
%% A pattern is for the full name and has a host. `*' stands for any characters, `?' for one, but
%% neither for `@'. Nothing is joined by default: with the cookie, a node proves to whoever answers
%% that it may log in there, and anybody on a LAN can announce a node. List hosts that you trust.
%%
%% It leaves alone what is hidden, what can't be reached, and whose full name is a guess. It joins
%% `most' nodes at most (32). The first attempt is within 0.2 s. After one that failed it tries
%% again after 1 s, then 2 s and so on up to a minute. A connection that ends within a minute counts
%% as one that failed: `global' cuts off those who can't reach each other, again and again. If
%% net_kernel got through to the node, the next attempt is after a minute: then the cookie differs,
%% most likely. When epmd ends, it asks the next one.
%%
%% A supervisor starts it without the application, with any name or none:
%%
%% ```
%% #{id => cluster, start => {eclus_cluster, start_link, [#{join => ["web*@hosta.local"]}]}}
%% '''
-module(eclus_cluster).

-behaviour(gen_server).

-export([start_link/0, start_link/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-export_type([options/0]).

-define(TICK, 1000). % ms between looks at what is to be tried
-define(JITTER, 200). % ms at most before a first attempt
-define(MINUTE, 60000). % ms
-define(STEADY, ?MINUTE). % that a connection holds before its end is no failure
-define(AT_ONCE, 8). % attempts
-define(NAMES, 10000). % that are ever made atoms, which are never freed

%% Which nodes to join (`join'), how many at most (`most'), how to connect to one (`connect', by
%% default `net_kernel:connect_node/1'), and what this node is connected to (`connected', by default
%% `nodes(connected)'). `steady' is for how long a connection has to hold before its end is no
%% failure, in ms (a minute).
-type options() :: #{join := [string() | binary()], most => pos_integer(), steady => non_neg_integer(),
                     connect => fun((node()) -> boolean() | ignored), connected => fun(() -> [node()])}.

-record(state, {patterns :: [re:mp()],
                most :: pos_integer(),
                connect :: fun((node()) -> boolean() | ignored),
                connected :: fun(() -> [node()]),
                steady :: non_neg_integer(),
                socket = none :: none | gen_tcp:socket(),
                known = #{} :: #{term() => eclus_lines:fields()}, % that match
                waits = #{} :: #{binary() => {Failed :: non_neg_integer(), NotBefore :: integer()}},
                ups = #{} :: #{node() => Since :: integer()},
                trying = #{} :: #{reference() => binary()},
                named = #{} :: #{binary() => []}}).

%% @doc Starts with the parameters of the application, and registers as `eclus_cluster'.
-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    Options = #{join => application:get_env(eclus, join, []), most => application:get_env(eclus, most, 32)},
    start(Options, fun(Checked) -> gen_server:start_link({local, ?MODULE}, ?MODULE, Checked, []) end).

%% @doc Starts with options of its own. The error says which pattern is none.
-spec start_link(options()) -> {ok, pid()} | {error, {bad_pattern, term()}}.
start_link(Options) -> start(Options, fun(Checked) -> gen_server:start_link(?MODULE, Checked, []) end).

start(#{join := Join} = Options, Start) ->
    case [Pattern || Pattern <- Join, not is_pattern(listed(Pattern))] of
        [Bad | _] -> {error, {bad_pattern, Bad}};
        [] -> Start(Options#{join := [listed(Pattern) || Pattern <- Join]})
    end.

%% Returns a pattern as a list of characters. Elixir's strings are binaries.
listed(Pattern) when is_binary(Pattern) -> unicode:characters_to_list(Pattern);
listed(Pattern) -> Pattern.

%% @private
-spec init(map()) -> {ok, #state{}}.
init(#{join := Join} = Options) ->
    ok = net_kernel:monitor_nodes(true),
    self() ! subscribe,
    self() ! tick,
    {ok, #state{patterns = [compile(Pattern) || Pattern <- Join],
                most = maps:get(most, Options, 32),
                connect = maps:get(connect, Options, fun net_kernel:connect_node/1),
                connected = maps:get(connected, Options, fun() -> nodes(connected) end),
                steady = maps:get(steady, Options, ?STEADY)}}.

%% Reports whether a pattern is one for full names.
is_pattern(Pattern) ->
    io_lib:char_list(Pattern) andalso
        case string:split(Pattern, "@", all) of
            [[_ | _], [_ | _]] -> true;
            _ -> false
        end.

compile(Pattern) ->
    {ok, Compiled} = re:compile(["^", [in_regexp(Char) || Char <- Pattern], "$"], [unicode, dollar_endonly]),
    Compiled.

in_regexp($*) -> "[^@]*";
in_regexp($?) -> "[^@]";
in_regexp(Char) when Char >= $a, Char =< $z; Char >= $A, Char =< $Z; Char >= $0, Char =< $9; Char > 127 -> [Char];
in_regexp(Char) -> [$\\, Char].

%% @private
-spec handle_call(term(), term(), #state{}) -> {reply, {error, unknown}, #state{}}.
handle_call(_, _, State) -> {reply, {error, unknown}, State}.

%% @private
-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_, State) -> {noreply, State}.

%% @private
-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info(subscribe, State) -> {noreply, subscribe(State)};
handle_info(tick, State) ->
    _ = erlang:send_after(?TICK, self(), tick),
    {noreply, try_all(forget(State))};
handle_info(try_all, State) -> {noreply, try_all(State)};
handle_info({tcp, Socket, Line}, #state{socket = Socket} = State) ->
    _ = inet:setopts(Socket, [{active, once}]),
    {noreply, told(eclus_lines:parse(Line), State)};
handle_info({tcp_closed, Socket}, #state{socket = Socket} = State) -> {noreply, lost(State)};
handle_info({tcp_error, Socket, _}, #state{socket = Socket} = State) -> {noreply, lost(State)};
handle_info({'DOWN', Attempt, process, _, Result}, #state{trying = Trying} = State) when is_map_key(Attempt, Trying) ->
    {Node, Left} = maps:take(Attempt, Trying),
    {noreply, tried(Node, Result, State#state{trying = Left})};
handle_info({nodeup, Node}, #state{ups = Ups} = State) -> {noreply, State#state{ups = Ups#{Node => now_ms()}}};
handle_info({nodedown, Node}, State) -> {noreply, down(Node, State)};
handle_info(_, State) -> {noreply, State}.

%% Asks epmd for all nodes and every change.
subscribe(State) ->
    case connect() of
        {ok, Socket} -> State#state{socket = Socket, known = #{}};
        {error, _} -> lost(State)
    end.

connect() ->
    Options = [binary, {active, false}, {buffer, 65536}],
    Connected = case gen_tcp:connect({127, 0, 0, 1}, eclus_lines:port(), [inet | Options], 1000) of
                    {error, _} -> gen_tcp:connect({0, 0, 0, 0, 0, 0, 0, 1}, eclus_lines:port(), [inet6 | Options], 1000);
                    Ok -> Ok
                end,
    case Connected of
        {ok, Socket} ->
            _ = gen_tcp:send(Socket, eclus_lines:request($W, <<>>)),
            watch(Socket, gen_tcp:recv(Socket, 4, 5000)); % the port of epmd; then lines
        Failed -> Failed
    end.

watch(Socket, {ok, _}) ->
    _ = inet:setopts(Socket, [{packet, line}, {active, once}]),
    {ok, Socket};
watch(Socket, Failed) ->
    gen_tcp:close(Socket),
    Failed.

%% The epmd has ended, or has cut us off. What it told counts until the next one tells.
lost(#state{socket = Socket} = State) ->
    _ = [gen_tcp:close(Socket) || Socket =/= none],
    _ = erlang:send_after(1000 + rand:uniform(?JITTER), self(), subscribe),
    State#state{socket = none}.

told({known, Fields}, #state{known = Known} = State) ->
    Key = key(Fields),
    case is_wanted(Fields, State) of
        true when is_map_key(Key, Known) -> State#state{known = Known#{Key => Fields}};
        true -> await(maps:get(<<"node">>, Fields), State#state{known = Known#{Key => Fields}});
        false -> State#state{known = maps:remove(Key, Known)}
    end;
told({gone, Fields}, #state{known = Known} = State) -> State#state{known = maps:remove(key(Fields), Known)};
told(_, State) -> State.

%% Has a new node wait for a moment. All nodes that join hear of it at the same time.
await(Node, State) ->
    Pause = rand:uniform(?JITTER),
    _ = erlang:send_after(Pause, self(), try_all),
    {Failed, _} = maps:get(Node, State#state.waits, {0, none}),
    wait(Node, Failed, Pause, State).

%% Returns by what a node is the same from line to line.
key(Fields) -> {maps:get(<<"name">>, Fields, none), maps:get(<<"host">>, Fields, none), maps:get(<<"epmd">>, Fields, local)}.

is_wanted(#{<<"type">> := <<"normal">>, <<"node">> := Node} = Fields, #state{patterns = Patterns}) ->
    maps:with([<<"sure">>, <<"lan">>], Fields) =:= #{} % which only say "no"
        andalso maps:get(<<"reachable">>, Fields, none) =/= <<"no">>
        andalso lists:any(fun(Pattern) -> re:run(Node, Pattern, [{capture, none}]) =:= match end, Patterns);
is_wanted(_, _) -> false.

%% Tries the nodes that are due, as many as may be.
try_all(State) ->
    Joined = [atom_to_binary(Node, utf8) || Node <- [node() | (State#state.connected)()]],
    Now = now_ms(),
    Names = lists:usort([Node || #{<<"node">> := Node} <- maps:values(State#state.known)]),
    Busy = maps:values(State#state.trying),
    Members = length([Node || Node <- Names, lists:member(Node, tl(Joined))]) + length(Busy),
    Room = min(State#state.most - Members, ?AT_ONCE - length(Busy)),
    Due = [Node || Node <- Names, not lists:member(Node, Joined), not lists:member(Node, Busy),
                   is_due(Node, Now, State), is_of_our_kind(Node), may_be_named(Node, State)],
    lists:foldl(fun attempt/2, State, lists:sublist(shuffled(Due), max(0, Room))).

shuffled(List) -> [Element || {_, Element} <- lists:sort([{rand:uniform(), Element} || Element <- List])].

is_due(Node, Now, #state{waits = Waits}) ->
    case Waits of
        #{Node := {_, NotBefore}} -> Now >= NotBefore;
        _ -> true
    end.

%% Reports whether a node's name is long where ours is, or else short. Others log an error.
is_of_our_kind(Node) -> is_alive() andalso has_dot(atom_to_binary(node(), utf8)) =:= has_dot(Node).

has_dot(Node) ->
    [_, Host] = binary:split(Node, <<"@">>),
    binary:match(Host, [<<".">>, <<":">>]) =/= nomatch.

%% Reports whether a node's name is an atom already or may become one.
may_be_named(Node, #state{named = Named}) -> is_map_key(Node, Named) orelse map_size(Named) < ?NAMES.

attempt(Node, #state{known = Known, trying = Trying, named = Named, connect = Connect} = State) ->
    Where = [{Address, Port} || #{<<"node">> := N, <<"address">> := Address, <<"port">> := Port} <- maps:values(Known), N =:= Node],
    _ = [logger:warning("eclus_cluster: ~b names have been tried, and no other will be", [?NAMES])
         || map_size(Named) =:= ?NAMES - 1, not is_map_key(Node, Named)],
    {_, Attempt} = spawn_monitor(fun() -> exit(join(Connect, binary_to_atom(Node, utf8), Where)) end),
    State#state{trying = Trying#{Attempt => Node}, named = Named#{Node => []}}.

%% Joins a node. It says whether the node has refused that: its port is open, and net_kernel got
%% there in time.
join(Connect, Node, Where) ->
    Began = now_ms(),
    case Connect(Node) of
        true -> joined;
        _ ->
            InTime = now_ms() - Began < setup_time(),
            case InTime andalso is_found(Node, Began) andalso lists:any(fun is_open/1, Where) of
                true -> refused;
                false -> failed
            end
    end.

%% Returns for how long net_kernel tries to connect, in ms.
setup_time() ->
    case application:get_env(kernel, net_setuptime) of
        {ok, Seconds} when is_number(Seconds) -> Seconds * 1000;
        _ -> 7000
    end.

%% Reports whether net_kernel has found the address of the node. If epmd was too slow to tell it,
%% only the resolver had it.
is_found(Node, Began) ->
    [Name, Host] = string:split(atom_to_list(Node), "@"),
    Missed = fun() -> eclus_epmd:is_missed_since(Name, Host, Began) end,
    case Missed() of
        true -> resolves(erl_epmd, Name, Host);
        false -> resolves(resolver(net_kernel:epmd_module()), Name, Host) orelse Missed()
    end.

resolves(Resolver, Name, Host) ->
    lists:any(fun(Family) -> element(1, Resolver:address_please(Name, Host, Family)) =:= ok end, [inet, inet6]).

%% Returns whom net_kernel asks for addresses.
resolver(Module) ->
    case erlang:function_exported(Module, address_please, 3) of
        true -> Module;
        false -> erl_epmd
    end.

is_open({Address, Port}) ->
    Host = binary_to_list(Address),
    Family = case lists:member($:, Host) of
                 true -> inet6;
                 false -> inet
             end,
    case gen_tcp:connect(Host, binary_to_integer(Port), [Family], 3000) of
        {ok, Socket} ->
            gen_tcp:close(Socket),
            true;
        {error, _} -> false
    end.

tried(_, joined, State) -> State; % whether that holds is to be seen
tried(Node, failed, State) -> back_off(Node, State);
tried(Node, _, State) -> wait(Node, 0, ?MINUTE + rand:uniform(?MINUTE div 4), State).

%% Has a node wait that is connected no longer. One that has held for a while begins anew.
down(Node, #state{ups = Ups, waits = Waits, steady = Steady} = State) ->
    Name = atom_to_binary(Node, utf8),
    Left = State#state{ups = maps:remove(Node, Ups)},
    Now = now_ms(),
    case Ups of
        #{Node := Since} when Now - Since < Steady -> back_off(Name, Left);
        _ -> back_off(Name, Left#state{waits = maps:remove(Name, Waits)})
    end.

back_off(Node, #state{waits = Waits} = State) ->
    {Failed, _} = maps:get(Node, Waits, {0, 0}),
    Pause = min(1000 bsl min(Failed, 6), ?MINUTE),
    wait(Node, Failed + 1, Pause * 3 div 4 + rand:uniform(Pause div 2), State).

%% Has a node wait, unless it waits for longer already.
wait(Node, Failed, Pause, #state{waits = Waits} = State) ->
    {_, Until} = maps:get(Node, Waits, {0, now_ms()}),
    State#state{waits = Waits#{Node => {Failed, max(Until, now_ms() + Pause)}}}.

%% Forgets waits that have been over for a while.
forget(#state{waits = Waits} = State) ->
    Before = now_ms() - 2 * ?MINUTE,
    State#state{waits = maps:filter(fun(_, {_, Until}) -> Until > Before end, Waits)}.

now_ms() -> erlang:monotonic_time(millisecond).
