%% Connects to every node that the epmd of this host knows, here and on the LAN, whenever one comes.
-module(epmd_cluster).
-export([start_link/0, subscribe/0]).

start_link() -> {ok, proc_lib:spawn_link(?MODULE, subscribe, [])}.

subscribe() ->
    Port = list_to_integer(os:getenv("ERL_EPMD_PORT", "4369")),
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}, {buffer, 65536}]) of
        {ok, Socket} ->
            gen_tcp:send(Socket, <<1:16, "W">>),
            read(Socket, gen_tcp:recv(Socket, 4)), % its port; then lines
            gen_tcp:close(Socket);
        {error, _} -> no_epmd
    end,
    timer:sleep(1000),
    subscribe().

read(_, {error, _}) -> epmd_has_gone;
read(Socket, {ok, Line}) ->
    Fields = [binary:split(F, <<"=">>) || F <- binary:split(Line, [<<" ">>, <<"\n">>], [global])],
    join(maps:from_list([{K, V} || [K, V] <- Fields])),
    inet:setopts(Socket, [{packet, line}]),
    read(Socket, gen_tcp:recv(Socket, 0)).

join(#{<<"type">> := <<"normal">>, <<"node">> := Node} = F) when not is_map_key(<<"sure">>, F) ->
    spawn(net_kernel, connect_node, [binary_to_atom(uri_string:percent_decode(Node), utf8)]);
join(_) -> other.
