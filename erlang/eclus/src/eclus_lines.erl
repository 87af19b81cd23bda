%% @private
%% Reads what epmd says of nodes: the lines of its requests `N' and `W', as docs/protocol.md has
%% them. What epmd passes on comes from anybody on the network.
-module(eclus_lines).

-export([port/0, request/2, parse/1]).

-export_type([line/0, fields/0]).

-type fields() :: #{binary() => binary()}.
-type line() :: {known | gone, fields()} | snapshot_end | other.

%% @doc Returns the port of this host's epmd. Nodes learn it from `ERL_EPMD_PORT'.
-spec port() -> inet:port_number().
port() ->
    case init:get_argument(epmd_port) of
        {ok, [[Port | _] | _]} -> list_to_integer(Port);
        error -> 4369
    end.

%% @doc Returns a request as it is sent, with its length in two bytes before it.
-spec request(char(), binary()) -> binary().
request(Tag, Text) -> <<(1 + byte_size(Text)):16, Tag, Text/binary>>.

%% @doc Reads a line, which may end in a newline. Unknown kinds of line are `other'.
-spec parse(binary()) -> line().
parse(<<"+ ", Fields/binary>>) -> {known, fields(Fields)};
parse(<<"- ", Fields/binary>>) -> {gone, fields(Fields)};
parse(<<"=", _/binary>>) -> snapshot_end;
parse(_) -> other.

fields(Text) ->
    Words = binary:split(Text, [<<" ">>, <<"\n">>], [global, trim_all]),
    maps:from_list([{Key, decode(Value)} || Word <- Words, [Key, Value] <- [binary:split(Word, <<"=">>)]]).

%% Undoes the percent-encoding. What encodes no byte stays as it is.
decode(Value) ->
    case binary:match(Value, <<"%">>) of
        nomatch -> Value;
        _ -> decode(Value, <<>>)
    end.

decode(<<$%, High, Low, Rest/binary>>, Done) ->
    try list_to_integer([High, Low], 16) of
        Byte when Byte >= 0 -> decode(Rest, <<Done/binary, Byte>>);
        _ -> decode(<<High, Low, Rest/binary>>, <<Done/binary, $%>>)
    catch
        error:badarg -> decode(<<High, Low, Rest/binary>>, <<Done/binary, $%>>)
    end;
decode(<<Byte, Rest/binary>>, Done) -> decode(Rest, <<Done/binary, Byte>>);
decode(<<>>, Done) -> Done.
