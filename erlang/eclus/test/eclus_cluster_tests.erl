%% Joins nodes that an epmd tells of. There is nothing behind their names: what counts here is who is
%% tried, and when. The port of the node's epmd (-epmd_port) is free.
-module(eclus_cluster_tests).

-include_lib("eunit/include/eunit.hrl").

-define(LONG, 20000). % ms: until what must come

%% A pattern needs a host.
pattern_test_() ->
    [{lists:flatten(io_lib:format("~p", [Bad])), fun() ->
        ?assertEqual({error, {bad_pattern, Bad}}, eclus_cluster:start_link(#{join => ["web*@hosta.local", Bad]}))
    end} || Bad <- ["web*", "@hosta.local", "web*@", "", "a@b@c", <<"web*">>, web, <<255>>]].

pace_test_() ->
    {setup, fun alive/0, fun stop_node/1,
     [{Name, {timeout, 60, Test}} || {Name, Test} <- [
         {"leaves alone", fun leaves_alone/0}, {"at most 32", fun at_most/0}, {"jitter", fun jitter/0},
         {"back-off", fun back_off/0}, {"cut off", fun cut_off/0}]]}.

%% Gives this node a name, as only such a node connects to others. It returns what is its epmd.
alive() ->
    {ok, Listener} = listen(eclus_lines:port()),
    Epmd = spawn(fun() ->
        {ok, Socket} = gen_tcp:accept(Listener),
        {ok, _} = gen_tcp:recv(Socket, 0),
        ok = gen_tcp:send(Socket, <<118, 0, 1:32>>), % ALIVE2_X_RESP
        receive stop -> ok end
    end),
    ok = gen_tcp:controlling_process(Listener, Epmd),
    {ok, _} = net_kernel:start(['eclus_tests@hosta.local', longnames]),
    Epmd ! close,
    gen_tcp:close(Listener),
    Epmd.

stop_node(Epmd) ->
    ok = net_kernel:stop(),
    Epmd ! stop.

listen(Port) -> gen_tcp:listen(Port, [binary, {active, false}, {ip, {127, 0, 0, 1}}, {reuseaddr, true}]).

%% What is not of this kind is tried: normal, sure, to be reached, on a host that is listed.
leaves_alone() ->
    with_cluster(#{}, fun(_) -> true end, fun(Epmd) ->
        tell(Epmd, [line(Name ++ "@hostb.local", More) || {Name, More} <- [
            {"guess", " sure=no"}, {"unseen", " lan=no why=loopback"}, {"away", " reachable=no"}, {"good", " reachable=yes"}]]),
        tell(Epmd, ["+ node=hidden@hostb.local name=hidden host=hostb.local address=127.0.0.1 port=1 type=hidden origin=lan\n",
                    line("web@hostb", ""), line("web@hosta.local", ""), line("web@hostb.local.evil.example", "")]),
        ?assertEqual(['good@hostb.local'], names(tried(1, 3000)))
    end).

%% Of 40 nodes, 32 are joined. When one has gone, another takes its place.
at_most() ->
    with_cluster(#{}, fun(_) -> true end, fun(Epmd) ->
        tell(Epmd, [line(io_lib:format("n~b@hostb.local", [I]), "") || I <- lists:seq(1, 40)]),
        Joined = names(tried(32, 2500)),
        ?assertEqual(32, length(lists:usort(Joined))),
        ?assertEqual(32, length(Joined)),
        left(hd(Joined)),
        ?assertEqual(1, length(tried(1, 2000)))
    end).

%% Not all who hear of a node connect to it at the same moment. On a machine that stops for a while
%% all waits may end at once, so a few rounds are tried.
jitter() ->
    with_cluster(#{}, fun(_) -> true end, fun(Epmd) ->
        ?assert(lists:any(fun(Round) -> is_spread(Epmd, Round) end, lists:seq(1, 5)))
    end).

%% Reports whether six new nodes are joined within a second, but not all in the same 20 ms.
is_spread(Epmd, Round) ->
    Told = now_ms(),
    tell(Epmd, [line(io_lib:format("j~b.~b@hostb.local", [Round, I]), "") || I <- lists:seq(1, 6)]),
    Times = [At - Told || {_, At} <- tried(6, 0)],
    lists:max(Times) - lists:min(Times) >= 20 andalso lists:min(Times) < 1000.

%% A node whose port is closed is tried after a second, then two, then four. So is one whose port is
%% open, if net_kernel could not get there: no resolver knows its host, or epmd was too slow, or it
%% took too long. Any other one has another cookie, most likely. It is tried once, even if it comes
%% back under its name.
back_off() ->
    {ok, Open} = listen(0),
    {ok, Port} = inet:port(Open),
    At = fun(Node) -> at_port(Node, Port) end,
    ok = application:set_env(kernel, net_setuptime, 0.5),
    with_cluster(#{}, fun connects_badly/1, fun(Epmd) ->
        Foreign = At("foreign@127.0.0.1"),
        tell(Epmd, [line("closed@hostb.local", ""), ["+ ", Foreign] | [["+ ", At(Node)] || Node <- ["unresolved@hostb.local", "slow@127.0.0.1"]]]),
        First = tried(13, 0),
        tell(Epmd, ["- ", Foreign]),
        tell(Epmd, ["+ ", Foreign]),
        All = First ++ tried(0, 2000),
        ?assertEqual(1, length([Node || {'foreign@127.0.0.1' = Node, _} <- All])),
        [begin
            [A, B, C, D | _] = [Time || {N, Time} <- All, N =:= Node],
            ?assert(B - A >= 750),
            ?assert(C - B >= 1500),
            ?assert(D - C >= 3000)
        end || Node <- ['closed@hostb.local', 'unresolved@hostb.local', 'slow@127.0.0.1']]
    end),
    ok = application:unset_env(kernel, net_setuptime),
    gen_tcp:close(Open).

connects_badly('slow@127.0.0.1') ->
    timer:sleep(600),
    false;
connects_badly(_) -> false.

%% A node that is connected and then cut off again, as global does, is joined after a second, then two,
%% then four. Once it has held, it is joined within a second or two again.
cut_off() ->
    Steady = 3000,
    with_cluster(#{steady => Steady}, fun(_) -> true end, fun(Epmd) ->
        tell(Epmd, [line("cut@hostb.local", "")]),
        [A, B, C] = [cut_after(0) || _ <- lists:seq(1, 3)],
        Held = Steady + 1000, % it may hear a moment late of what is up
        D = cut_after(Held),
        [{_, E}] = tried(1, 0),
        ?assert(B - A >= 750),
        ?assert(C - B >= 1500),
        ?assert(D - C >= 3000),
        ?assert(E - D - Held < 5500) % six and more, had it not begun anew
    end).

%% Waits until the node is joined, and cuts it off after so many ms. It returns when it was joined.
cut_after(Held) ->
    [{Node, At}] = tried(1, 0),
    ok = joined(Node, now_ms() + ?LONG),
    get(cluster) ! {nodeup, Node},
    receive after Held -> ok end,
    left(Node),
    get(cluster) ! {nodedown, Node},
    At.

joined(Node, Until) ->
    case {ets:member(get(joined), Node), now_ms() < Until} of
        {true, _} -> ok;
        {false, true} ->
            erlang:yield(),
            joined(Node, Until)
    end.

line(Node, More) -> ["+ ", string:trim(at_port(Node, 1)), More, "\n"].

at_port(Node, Port) ->
    [Name, Host] = string:split(lists:flatten(Node), "@"),
    io_lib:format("node=~s name=~s host=~s address=127.0.0.1 port=~b type=normal origin=lan~n", [Node, Name, Host, Port]).

%% Has nodes of hostb joined. Connects says what comes of an attempt. The test gets the epmd.
with_cluster(Options, Connects, Test) ->
    {ok, Listener} = listen(eclus_lines:port()),
    Self = self(),
    Joined = ets:new(joined, [public]),
    Connect = fun(Node) ->
        Self ! {tried, Node, now_ms()},
        Connects(Node) andalso ets:insert(Joined, {Node})
    end,
    put(joined, Joined),
    {ok, Cluster} = eclus_cluster:start_link(Options#{join => ["*@hostb.local", <<"*@hostb">>, "*@127.0.0.1"], connect => Connect,
                                                     connected => fun() -> [Node || {Node} <- ets:tab2list(Joined)] end}),
    put(cluster, Cluster),
    {ok, Epmd} = gen_tcp:accept(Listener, ?LONG),
    {ok, <<0, 1, "W">>} = gen_tcp:recv(Epmd, 0, ?LONG),
    ok = gen_tcp:send(Epmd, <<4369:32>>),
    try Test(Epmd) after
        unlink(Cluster),
        Stopped = monitor(process, Cluster),
        exit(Cluster, kill),
        receive {'DOWN', Stopped, process, _, _} -> ok end,
        gen_tcp:close(Epmd),
        gen_tcp:close(Listener)
    end.

tell(Epmd, Lines) -> ok = gen_tcp:send(Epmd, Lines).

left(Node) -> ets:delete(get(joined), Node).

%% Returns the attempts: so many, and those of the time after them, in ms.
tried(0, Quiet) -> quiet(now_ms() + Quiet);
tried(Least, Quiet) ->
    receive {tried, Node, At} -> [{Node, At} | tried(Least - 1, Quiet)]
    after ?LONG -> error(not_tried)
    end.

quiet(Until) ->
    receive {tried, Node, At} -> [{Node, At} | quiet(Until)]
    after max(0, Until - now_ms()) -> []
    end.

names(Tried) -> [Node || {Node, _} <- Tried].

now_ms() -> erlang:monotonic_time(millisecond).
