%% Asks epmds that do what they shouldn't. The port of the node's epmd (-epmd_port) is free.
-module(eclus_epmd_tests).

-include_lib("eunit/include/eunit.hrl").

-define(NODE, "+ node=a@x.local name=a host=x.local address=198.51.100.9 port=4711 type=normal origin=lan").

%% Serves one connection after another. It says what it was asked.
with_epmd(Answer, Test) ->
    persistent_term:erase(eclus_epmd),
    flush(),
    {ok, Registers} = eclus_epmd:start_link(),
    unlink(Registers),
    {ok, Listener} = gen_tcp:listen(eclus_lines:port(), [binary, {active, false}, {ip, {127, 0, 0, 1}}, {reuseaddr, true}]),
    Self = self(),
    Server = spawn_link(fun() -> serve(Listener, Answer, Self) end),
    try Test() after
        unlink(Server),
        exit(Server, kill),
        gen_tcp:close(Listener),
        eclus_epmd:stop()
    end.

flush() -> receive {asked, _} -> flush() after 0 -> ok end.

serve(Listener, Answer, Test) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    case gen_tcp:recv(Socket, 0) of
        {ok, Request} ->
            Test ! {asked, Request},
            Answer(Socket);
        {error, closed} -> ok % it was too late
    end,
    gen_tcp:close(Socket),
    serve(Listener, Answer, Test).

says(Text) -> fun(Socket) -> gen_tcp:send(Socket, [<<0, 0, 17, 17>>, Text]) end.

%% Asks for an address, on a busy machine until the answer comes in time.
address(Host) -> address(Host, inet).
address(Host, Family) ->
    Began = erlang:monotonic_time(millisecond),
    Found = ask(Host, Family),
    case eclus_epmd:is_missed_since("a", Host, Began) of
        false -> Found;
        true ->
            persistent_term:erase(eclus_epmd),
            flush(),
            address(Host, Family)
    end.

ask(Host, Family) -> eclus_epmd:address_please("a", Host, Family).

asked() -> receive {asked, Request} -> Request after 0 -> nothing end.

known_test() ->
    with_epmd(says(?NODE " high=6 low=5\n"), fun() ->
        ?assertEqual({ok, {198, 51, 100, 9}, 4711, 6}, address("x.local")),
        ?assertEqual(<<0, 10, "Na@x.local">>, asked()),
        ?assertMatch({error, _}, address("x.local", inet6))
    end).

%% Without the version, the epmd of its host is asked as ever.
version_test() ->
    with_epmd(says(?NODE "\n"), fun() -> ?assertEqual({ok, {198, 51, 100, 9}}, address("x.local")) end),
    with_epmd(says(?NODE " high=5 low=5\n"), fun() -> ?assertMatch({ok, _, 4711, 5}, address("x.local")) end),
    with_epmd(says(?NODE " high=7 low=6\n"), fun() -> ?assertMatch({ok, _, 4711, 6}, address("x.local")) end).

addresses_test() ->
    All = "+ node=a@x.local name=a host=x.local addresses=fe80::1%25eth0,198.51.100.9,2001:db8::9 port=1 high=6\n",
    with_epmd(says(All), fun() ->
        ?assertEqual({ok, {198, 51, 100, 9}, 1, 6}, address("x.local")),
        ?assertEqual({ok, {16#2001, 16#db8, 0, 0, 0, 0, 0, 9}, 1, 6}, address("x.local", inet6))
    end).

%% Nobody on the LAN decides where a name leads that is the resolver's.
order_test_() ->
    [{Host, fun() ->
        with_epmd(says(["+ node=a@", Host, " name=a host=x.local address=198.51.100.9 port=1 high=6\n"]), fun() ->
            Found = address(Host),
            ?assertEqual(Want, {asked() =/= nothing, Found =:= {ok, {198, 51, 100, 9}, 1, 6}})
        end)
    end} || {Host, Want} <- [
        {"x.local", {true, true}}, {"X.LOCAL", {true, true}}, {"x.lab.example", {true, true}}, {"lab.example", {false, false}},
        {"db.example.invalid", {false, false}}, {"local", {true, true}}, {"localhost", {false, false}},
        {"notlocal.invalid", {false, false}}, {"198.51.100.1", {false, false}}, {"nowhere-at-all", {true, true}}]].

%% The resolver may say that a host is loopback. A named epmd knows better, unless the node is here.
loopback_test_() ->
    Lookup = inet_db:res_option(lookup),
    {setup,
     fun() ->
        inet_db:set_lookup([file]),
        inet_db:add_host({127, 0, 1, 1}, ["shared", "shared.example"])
     end,
     fun(_) ->
        inet_db:del_host({127, 0, 1, 1}),
        inet_db:set_lookup(Lookup)
     end,
     [{Name ++ ", " ++ Host, fun() ->
        with_epmd(says([["+ node=a@", Host, " name=a address=198.51.100.9 port=1 high=6", Line, "\n"] || Line <- Lines]), fun() ->
            ?assertEqual(Want, address(Host))
        end)
      end} || {Name, Lines, Want} <- [
        {"named", [" origin=peer named=yes"], {ok, {198, 51, 100, 9}, 1, 6}},
        {"announced", [" origin=lan"], {ok, {127, 0, 1, 1}}},
        {"gone", [" origin=peer named=yes reachable=no"], {ok, {127, 0, 1, 1}}},
        {"here too", [" origin=peer named=yes", " origin=local"], {ok, {127, 0, 1, 1}}}],
        Host <- ["shared", "shared.example"]]}.

%% A node may claim a host that another one announces. It is not taken for that host's.
impostor_test() ->
    Claims = "+ node=a@x.local name=a host=evil.local address=203.0.113.6 port=1 high=6 sure=no\n",
    Real = "+ node=a@x.local name=a host=x.local address=198.51.100.9 port=2 high=6\n",
    Made = "+ node=a@x.local name=a host=x.local address=198.51.100.9 port=3 high=6 sure=no\n",
    with_epmd(says([Claims, Real]), fun() -> ?assertMatch({ok, _, 2, 6}, address("x.local")) end),
    with_epmd(says([Claims, Made]), fun() -> ?assertMatch({ok, _, 3, 6}, address("x.local")) end).

unreachable_test() ->
    with_epmd(says(?NODE " reachable=no high=6\n"), fun() -> ?assertMatch({error, _}, address("x.local")) end).

%% An epmd that is slow, closes, resets, lies or answers without end costs 0.1 s, and nothing else.
faults_test_() ->
    [{Name, fun() ->
        with_epmd(Answer, fun() ->
            {Took, Found} = timer:tc(fun() -> ask("x.local", inet) end),
            ?assertMatch({error, _}, Found),
            ?assert(Took < 5000000), % the resolver's time is part of it
            ?assertEqual([], [M || {'DOWN', _, _, _, _} = M <- element(2, process_info(self(), messages))])
        end)
    end} || {Name, Answer} <- [
        {"closes", fun(_) -> ok end},
        {"resets", fun(Socket) -> inet:setopts(Socket, [{linger, {true, 0}}]) end},
        {"silent", fun(_) -> timer:sleep(3000) end},
        {"half a port", fun(Socket) -> gen_tcp:send(Socket, <<0, 0>>) end},
        {"another node", says("+ node=b@x.local address=198.51.100.9 port=1 high=6\n")},
        {"no port", says("+ node=a@x.local address=198.51.100.9 high=6\n")},
        {"port that is none", says("+ node=a@x.local address=198.51.100.9 port=x high=6\n")},
        {"address that is none", says("+ node=a@x.local address=198.51.100 port=1 high=6\n")},
        {"a host as address", says("+ node=a@x.local address=localhost port=1 high=6\n")},
        {"text beyond UTF-8", says(<<"+ node=a@x.local address=", 255, " port=1 high=6\n">>)},
        {"endless", fun endless/1}]].

endless(Socket) ->
    case gen_tcp:send(Socket, binary:copy(<<"+ node=x\n">>, 1000)) of
        ok -> endless(Socket);
        Error -> Error
    end.

%% A wedged epmd is not asked again for a second. Both addresses count as missed. On a machine that
%% stops for a while the second may be over, so a few rounds are tried.
spared_test_() ->
    {timeout, 60, fun() ->
        with_epmd(fun(_) -> timer:sleep(500) end, fun() ->
            ?assert(lists:any(fun(_) -> is_spared() end, lists:seq(1, 5)))
        end)
    end}.

is_spared() ->
    persistent_term:erase(eclus_epmd),
    flush(),
    Began = erlang:monotonic_time(millisecond),
    ok = ask_until_asked(),
    _ = eclus_epmd:address_please("b", "x.local", inet),
    Asked = receive {asked, Request} -> Request after 700 -> nothing end, % the server is busy for 500 ms
    ?assertEqual([true, true, false], [eclus_epmd:is_missed_since(Name, "x.local", Began) || Name <- ["a", "b", "c"]]),
    ?assertNot(eclus_epmd:is_missed_since("a", "x.local", erlang:monotonic_time(millisecond) + 1)),
    Asked =:= nothing.

%% Asks until epmd has got the request. On a busy machine the time is over before that.
ask_until_asked() ->
    _ = ask("x.local", inet),
    receive {asked, _} -> ok
    after 300 ->
        persistent_term:erase(eclus_epmd),
        ask_until_asked()
    end.

names_test() ->
    with_epmd(says([?NODE "\n", "+ node=b@x name=b host=x.local port=2\n", "+ node=c@y.local name=c host=y.local port=3\n",
                    "+ node=d@x.local name=d host=x.local port=4 reachable=no\n"]), fun() ->
        ?assertEqual({ok, [{"a", 4711}, {"b", 2}]}, eclus_epmd:names('x.local')),
        ?assertEqual(<<0, 1, "N">>, asked()),
        ?assertMatch({error, _}, eclus_epmd:names("z.local"))
    end).
