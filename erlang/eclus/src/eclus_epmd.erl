%% @doc Has a node reach others by what epmd knows, where no resolver knows their hosts.
%%
%% Start a node with `erl -epmd_module eclus_epmd'. From OTP 27.2 on, the parameter `epmd_module'
%% of `kernel' does the same. A node that is given both does not start. It registers as ever, by
%% `erl_epmd'. It asks the epmd of its host for the address and the port of a node before it
%% connects, in one request. Which names that is done for:
%%
%% <ul>
%% <li>`.local' hosts: epmd is asked first, then the resolver.</li>
%% <li>Hosts without a dot, which short names have: the resolver first, then epmd.</li>
%% <li>Other hosts: the resolver alone. Anybody on the LAN can announce `x@db.example.com', and
%% nobody there may decide where that name leads.</li>
%% <li>Hosts of the domains in `{eclus, [{domains, ["lab.example"]}]}': as `.local'.</li>
%% </ul>
%%
%% In a container, the resolver may say that the name of the container's host is loopback. Then
%% the word of an epmd counts that the container's owner has named (`-peer').
%%
%% `net_kernel' waits for the answer. So epmd has 100 ms. Then, and for a second after, all is as
%% without this module. So it is where the epmd is one that has no such request, as that of
%% Erlang/OTP, or has ended.
-module(eclus_epmd).

-export([start/0, start_link/0, stop/0, register_node/2, register_node/3, listen_port_please/2,
         port_please/2, port_please/3, address_please/3, names/0, names/1, known_nodes/0, is_missed_since/3]).

-define(ADDRESS_TIME, 80). % ms: so that all is over after 100, with what the resolver takes
-define(NAMES_TIME, 3000). % ms
-define(SPARED, 1000). % ms: for how long an epmd is not asked that did not answer
-define(MISSES, 1000). % names that are noted at most, as epmd did not answer
-define(VERSION, 6). % of the distribution protocol: the highest that OTP speaks

%% @private
-spec start() -> {ok, pid()} | ignore | {error, term()}.
start() -> erl_epmd:start().

%% @doc Starts what registers this node. The domains may be given as `-eclus domains LIST', so the
%% application is loaded. A node that is told to use another module too, by a second flag or the
%% parameter of `kernel', does not start: whoever named that one counts on it.
-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    _ = application:load(eclus),
    _ = code:ensure_modules_loaded([eclus_lines, string, unicode_util]), % no time for that later
    Flags = [list_to_atom(Module) || {epmd_module, [Module | _]} <- init:get_arguments()],
    case lists:usort(Flags ++ parameter()) -- [?MODULE] of
        [] ->
            ok = new_missed(),
            erl_epmd:start_link();
        Others -> {error, {more_than_one_epmd_module, [?MODULE | Others]}}
    end.

parameter() ->
    case application:get_env(kernel, epmd_module) of
        {ok, Module} -> [Module];
        undefined -> []
    end.

%% @private
-spec stop() -> term().
stop() -> erl_epmd:stop().

%% @doc Registers this node, as `erl_epmd' does.
-spec register_node(atom() | string(), inet:port_number()) -> {ok, integer()} | {error, term()}.
register_node(Name, Port) -> erl_epmd:register_node(Name, Port).

%% @doc Registers this node, as `erl_epmd' does.
-spec register_node(atom() | string(), inet:port_number(), atom()) -> {ok, integer()} | {error, term()}.
register_node(Name, Port, Driver) -> erl_epmd:register_node(Name, Port, Driver).

%% @doc Returns the port to listen at, as `erl_epmd' does.
-spec listen_port_please(atom() | string(), atom() | string() | inet:ip_address()) -> {ok, inet:port_number()}.
listen_port_please(Name, Host) -> erl_epmd:listen_port_please(Name, Host).

%% @doc Asks the epmd of a host for the port of a node, as `erl_epmd' does.
-spec port_please(atom() | string(), atom() | string() | inet:ip_address()) ->
          {port, inet:port_number(), non_neg_integer()} | noport | closed | {error, term()}.
port_please(Name, Host) -> erl_epmd:port_please(Name, Host).

%% @doc Asks the epmd of a host for the port of a node, as `erl_epmd' does.
-spec port_please(atom() | string(), atom() | string() | inet:ip_address(), timeout()) ->
          {port, inet:port_number(), non_neg_integer()} | noport | closed | {error, term()}.
port_please(Name, Host, Timeout) -> erl_epmd:port_please(Name, Host, Timeout).

%% @doc Returns where a node is: its address and, where epmd has told that too, its port.
-spec address_please(string(), string() | inet:ip_address(), inet | inet6) ->
          {ok, inet:ip_address()} | {ok, inet:ip_address(), inet:port_number(), non_neg_integer()} | {error, term()}.
address_please(Name, Host, Family) ->
    case by_order(Name, Host, Family) of
        {ok, IP} = Resolved ->
            case is_loopback(IP) andalso is_name(Host) andalso not lists:suffix("localhost", Host) of
                true -> elsewhere(Name, Host, Family, Resolved);
                false -> Resolved
            end;
        Found -> Found
    end.

by_order(Name, Host, Family) ->
    case order(Host) of
        resolver -> erl_epmd:address_please(Name, Host, Family);
        resolver_first ->
            case erl_epmd:address_please(Name, Host, Family) of
                {ok, _} = Resolved -> Resolved;
                Unresolved -> known(ask(Name, Host, Family), Unresolved)
            end;
        epmd_first ->
            case ask(Name, Host, Family) of
                {certain, Where} -> Where;
                Asked -> resolved(erl_epmd:address_please(Name, Host, Family), Asked)
            end
    end.

%% Returns where a node is that a named epmd has and this host has not, else what was Resolved.
%% podman gives containers a copy of their host's /etc/hosts. In Debian's, the host's own name is
%% that of 127.0.1.1, which is the container itself there.
elsewhere(Name, Host, Family, Resolved) ->
    Asked = in_time(?ADDRESS_TIME, missed, fun() ->
        Nodes = known_as(Name, Host),
        IsHere = lists:any(fun(Node) -> maps:get(<<"origin">>, Node, none) =:= <<"local">> end, Nodes),
        Where = [Answer || #{<<"named">> := <<"yes">>} = Node <- Nodes, not IsHere, Answer <- answer(Node, Family)],
        hd(Where ++ [Resolved])
    end),
    case Asked of
        missed ->
            miss(Name, Host),
            Resolved;
        _ -> Asked
    end.

is_loopback({127, _, _, _}) -> true;
is_loopback({0, 0, 0, 0, 0, 0, 0, 1}) -> true;
is_loopback({0, 0, 0, 0, 0, 16#FFFF, High, _}) -> High bsr 8 =:= 127;
is_loopback(_) -> false.

%% Where the resolver knows no such host, nobody is harmed by what epmd can only guess.
resolved({ok, _} = Resolved, _) -> Resolved;
resolved(Unresolved, Asked) -> known(Asked, Unresolved).

known({_, Where}, _) -> Where;
known(unknown, Otherwise) -> Otherwise.

%% @doc Lists the nodes of this host, as `erl_epmd' does.
-spec names() -> {ok, [{string(), inet:port_number()}]} | {error, term()}.
names() -> erl_epmd:names().

%% @doc Lists the nodes of a host with their ports. `net_adm:names/1' and `world/0' call it.
-spec names(atom() | string() | inet:ip_address()) ->
          {ok, [{string(), inet:port_number()}]} | noport | {error, term()}.
names(Host) when is_atom(Host) -> names(atom_to_list(Host));
names(Host) -> names(order(Host), Host).

names(resolver, Host) -> erl_epmd:names(Host);
names(resolver_first, Host) ->
    case erl_epmd:names(Host) of
        {ok, _} = Listed -> Listed;
        Failed -> names_or(Failed, Host)
    end;
names(epmd_first, Host) ->
    case names_or(unknown, Host) of
        unknown -> erl_epmd:names(Host);
        Known -> Known
    end.

%% Returns the nodes of a host that epmd knows, or Otherwise if there are none.
names_or(Otherwise, Host) ->
    in_time(?NAMES_TIME, Otherwise, fun() ->
        case [{unicode:characters_to_list(Name), binary_to_integer(Port)}
              || #{<<"name">> := Name, <<"port">> := Port} = Node <- epmd(<<>>), is_of(Node, Host)] of
            [] -> Otherwise;
            Known -> {ok, lists:usort(Known)}
        end
    end).

%% Reports whether a node is of that host, and can be reached.
is_of(#{<<"reachable">> := <<"no">>}, _) -> false;
is_of(#{<<"node">> := Full} = Node, Host) ->
    Wanted = unicode:characters_to_binary(Host),
    maps:get(<<"host">>, Node, none) =:= Wanted orelse tl(binary:split(Full, <<"@">>)) =:= [Wanted];
is_of(_, _) -> false.

%% @doc Lists the nodes that the epmd of this host knows, here and elsewhere, by the keys and values
%% of its lines (see docs/protocol.md). There are none if it does not answer within 3 s.
-spec known_nodes() -> [#{binary() => binary()}].
known_nodes() -> in_time(?NAMES_TIME, [], fun() -> epmd(<<>>) end).

%% Returns who is asked for the address of a host, and in which order.
order(Host) when is_tuple(Host) -> resolver;
order(Host) ->
    Lower = string:lowercase(string:trim(Host, trailing, ".")),
    Domains = ["local" | application:get_env(eclus, domains, [])],
    case {is_name(Lower), lists:member($., Lower)} of
        {false, _} -> resolver;
        {true, false} -> resolver_first;
        _ ->
            case lists:any(fun(Domain) -> lists:suffix([$. | Domain], Lower) end, Domains) of
                true -> epmd_first;
                false -> resolver
            end
    end.

%% Reports whether a host is given by its name and not by its address.
is_name(Host) -> is_list(Host) andalso element(1, inet:parse_strict_address(Host)) =:= error.

%% Asks epmd where a node is. That is certain if the node belongs to the host of its name. Others
%% only claim to be that node.
ask(Name, Host, Family) ->
    Asked = in_time(?ADDRESS_TIME, missed, fun() ->
        {Certain, Claimed} = lists:partition(fun(Node) -> is_certain(Node, Host) end, known_as(Name, Host)),
        Where = [{Kind, Answer} || {Kind, All} <- [{certain, Certain}, {claimed, Claimed}],
                                   Node <- All, Answer <- answer(Node, Family)],
        hd(Where ++ [unknown])
    end),
    case Asked of
        missed ->
            miss(Name, Host),
            unknown;
        _ -> Asked
    end.

%% Returns the nodes of a full name that epmd knows, the best first.
known_as(Name, Host) ->
    Full = unicode:characters_to_binary([Name, $@, Host]),
    lists:sort(fun better/2, [Node || #{<<"node">> := Known} = Node <- epmd(Full), Known =:= Full]).

is_certain(#{<<"sure">> := <<"no">>} = Node, Host) ->
    maps:get(<<"host">>, Node, none) =:= unicode:characters_to_binary(Host);
is_certain(_, _) -> true.

better(A, B) -> rank(A) =< rank(B).

rank(Node) ->
    {maps:get(<<"sure">>, Node, yes) =:= <<"no">>,
     maps:get(<<"origin">>, Node, none) =/= <<"local">>,
     maps:get(<<"reachable">>, Node, none) =/= <<"yes">>,
     maps:get(<<"via">>, Node, none) =/= <<"epmd">>}.

%% Returns where a node is, in the form of address_please/3. There is none if it can't be reached,
%% or has no address of that family. Erlang has no zones, so link-local addresses of IPv6 lead
%% nowhere.
answer(#{<<"reachable">> := <<"no">>}, _) -> [];
answer(#{<<"port">> := Port} = Node, Family) ->
    All = maps:get(<<"addresses">>, Node, maps:get(<<"address">>, Node, <<>>)),
    IPs = [IP || Text <- string:lexemes(binary_to_list(All), ","),
                 {ok, IP} <- [parse(Text, Family)], not is_link_local(IP)],
    [located(IP, binary_to_integer(Port), Node) || IP <- lists:sublist(IPs, 1)];
answer(_, _) -> [].

parse(Text, inet) -> inet:parse_ipv4strict_address(Text);
parse(Text, inet6) -> inet:parse_ipv6strict_address(Text).

is_link_local(IP) -> tuple_size(IP) =:= 8 andalso element(1, IP) band 16#FFC0 =:= 16#FE80.

%% Says the port where the version is known. Otherwise the epmd of the node's host is asked.
located(IP, Port, #{<<"high">> := High}) -> {ok, IP, Port, min(binary_to_integer(High), ?VERSION)};
located(IP, _, _) -> {ok, IP}.

%% Returns what Ask does, or Otherwise if it takes longer or fails. Another process does it: the
%% caller may be net_kernel, with which the node would end. An epmd that was too slow is spared.
in_time(Time, Otherwise, Ask) ->
    Now = erlang:monotonic_time(millisecond),
    case persistent_term:get(?MODULE, Now) of % of negative times, too
        Until when Now < Until -> Otherwise;
        _ ->
            {Pid, Asking} = spawn_opt(fun() -> exit({answer, Ask()}) end, [monitor, {priority, high}]),
            receive
                {'DOWN', Asking, process, Pid, {answer, Answer}} -> Answer;
                {'DOWN', Asking, process, Pid, _} -> Otherwise
            after Time ->
                exit(Pid, kill),
                erlang:demonitor(Asking, [flush]),
                persistent_term:put(?MODULE, Now + Time + ?SPARED),
                Otherwise
            end
    end.

%% Makes the table of nodes whose address was missed, with the time of the last miss. It is the
%% supervisor's who starts us.
new_missed() ->
    _ = [ets:new(?MODULE, [named_table, public]) || ets:whereis(?MODULE) =:= undefined],
    ok.

%% Notes that epmd was too slow to say where a node is.
miss(Name, Host) ->
    _ = [ets:delete_all_objects(?MODULE) || ets:info(?MODULE, size) >= ?MISSES],
    _ = [ets:insert(?MODULE, {{Name, Host}, erlang:monotonic_time(millisecond)}) || ets:whereis(?MODULE) =/= undefined],
    ok.

%% @private
%% @doc Reports whether epmd was too slow to say where a node is, since that time. It is in ms, as
%% of `erlang:monotonic_time/1'.
-spec is_missed_since(string(), string(), integer()) -> boolean().
is_missed_since(Name, Host, Time) ->
    ets:whereis(?MODULE) =/= undefined andalso
        lists:any(fun({_, At}) -> At >= Time end, ets:lookup(?MODULE, {Name, Host})).

%% Returns what the epmd of this host tells of the nodes of a name, or of all.
epmd(Name) ->
    Port = eclus_lines:port(),
    Connected = case gen_tcp:connect({127, 0, 0, 1}, Port, [inet, binary, {active, false}]) of
                    {error, _} -> gen_tcp:connect({0, 0, 0, 0, 0, 0, 0, 1}, Port, [inet6, binary, {active, false}]);
                    Ok -> Ok
                end,
    case Connected of
        {ok, Socket} ->
            _ = gen_tcp:send(Socket, eclus_lines:request($N, Name)),
            read(read_all(Socket, []));
        {error, _} -> []
    end.

%% Reads until the end. An epmd that does not know the request may reset the connection.
read_all(Socket, Read) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Bytes} -> read_all(Socket, [Read | Bytes]);
        {error, _} -> iolist_to_binary(Read)
    end.

%% Reads an answer: the port of epmd in four bytes, then lines.
read(<<_:32, Lines/binary>>) ->
    [Node || Line <- binary:split(Lines, <<"\n">>, [global]), {known, Node} <- [eclus_lines:parse(Line)]];
read(_) -> [].
