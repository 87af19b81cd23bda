%% Connects to the nodes that Join names, such as ["web*@hosta.local"], whenever the epmd of this host knows one.
-module(epmd_cluster).
-export([start_link/0, start_link/1]).
start_link() -> start_link([]).
start_link(Join) -> {ok, proc_lib:spawn_link(fun() -> subscribe(Join) end)}.

subscribe(Join) ->
    Port = list_to_integer(os:getenv("ERL_EPMD_PORT", "4369")),
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}, {buffer, 65536}]) of
        {ok, Socket} ->
            gen_tcp:send(Socket, <<1:16, "W">>),
            read(Join, Socket, gen_tcp:recv(Socket, 4)), % its port; then lines
            gen_tcp:close(Socket);
        {error, _} -> no_epmd
    end,
    timer:sleep(1000),
    subscribe(Join).

read(_, _, {error, _}) -> epmd_has_gone;
read(Join, Socket, {ok, Line}) ->
    Fields = [binary:split(F, <<"=">>) || F <- binary:split(Line, [<<" ">>, <<"\n">>], [global])],
    join(Join, maps:from_list([{K, V} || [K, V] <- Fields])),
    inet:setopts(Socket, [{packet, line}]),
    read(Join, Socket, gen_tcp:recv(Socket, 0)).

join(Join, #{<<"type">> := <<"normal">>, <<"node">> := Encoded} = F) when not is_map_key(<<"sure">>, F) ->
    Node = uri_string:percent_decode(Encoded),
    Is = fun(P) -> re:run(Node, ["^\\Q", string:replace(P, "*", "\\E[^@]*\\Q", all), "\\E\\z"], [unicode]) =/= nomatch end,
    [spawn(net_kernel, connect_node, [binary_to_atom(Node, utf8)]) || lists:any(Is, Join)];
join(_, _) -> other.
