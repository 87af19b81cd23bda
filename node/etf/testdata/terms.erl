%% Speaks with the test of external terms over standard input and output, in frames of a 4-byte length and one
%% term: makes random terms, and takes and gives terms in encoded form.
-module(terms).
-export([main/0]).

main() ->
    port(open_port({fd, 0, 1}, [{packet, 4}, binary, eof]), []).

%% Made holds what was generated last: {Term, Options} each.
port(Port, Made) ->
    receive
        {Port, {data, Frame}} ->
            {Answer, Next} = answer(binary_to_term(Frame), Made),
            port_command(Port, term_to_binary(Answer)),
            port(Port, Next);
        {Port, eof} ->
            halt(0)
    end.

answer({seed, Seed}, _) ->
    rand:seed(exsss, Seed),
    put(atoms, list_to_tuple([random_atom() || _ <- lists:seq(1, 500)])),
    {list_to_integer(erlang:system_info(otp_release)), []};
answer({echo, Bins}, Made) ->
    {[term_to_binary(binary_to_term(B), [{minor_version, 2}]) || B <- Bins], Made};
answer({generate, N}, _) ->
    Made = [{term(rand:uniform(6)), options()} || _ <- lists:seq(1, N)],
    {[term_to_binary(T, O) || {T, O} <- Made], Made};
answer({compare, Bins}, Made) ->
    {lists:append(lists:zipwith(fun differs/2, Made, Bins)), []}.

%% A term must come back identical, and byte for byte where it was sent as we encode it ourselves, unless it has a port:
%% from OTP 26 on each has the form that was once for large ones.
differs({T, Options}, Bin) ->
    Exactly = lists:member({minor_version, 2}, Options) andalso not has_port(T),
    Sent = term_to_binary(T, [{minor_version, 2}]),
    case binary_to_term(Bin) of
        T when not Exactly; Sent =:= Bin -> [];
        T -> [say("~0tp was sent as ~0p and came back as ~0p", [T, Sent, Bin])];
        Other -> [say("~0tp came back as ~0tp", [T, Other])]
    end.

has_port(T) when is_port(T) -> true;
has_port([H | T]) -> has_port(H) orelse has_port(T);
has_port(T) when is_tuple(T) -> has_port(tuple_to_list(T));
has_port(T) when is_map(T) -> has_port(maps:to_list(T));
has_port(T) when is_function(T) -> {env, Env} = erlang:fun_info(T, env), has_port(Env);
has_port(_) -> false.

say(Format, Args) -> unicode:characters_to_binary(io_lib:format(Format, Args)).

options() ->
    pick({[], [{minor_version, 0}], [{minor_version, 1}], [{minor_version, 2}], [{minor_version, 2}],
          [compressed, {minor_version, 2}]}).

pick(Tuple) -> element(rand:uniform(tuple_size(Tuple)), Tuple).

below(N) -> rand:uniform(N) - 1.

random_bytes(N) -> << <<(below(256))>> || _ <- lists:seq(1, N) >>.

%% A random term at most Depth deep, or one that is very deep.
term(0) -> flat(below(15));
term(Depth) ->
    case below(12) of
        0 -> terms(Depth);
        1 -> list_to_tuple(terms(Depth));
        2 -> [term(Depth - 1) | terms(Depth)] ++ flat(below(15));
        3 -> maps:from_list([{term(Depth - 1), T} || T <- terms(Depth)]);
        4 -> Free = term(Depth - 1), fun(X) -> {X, Free} end;
        5 -> wrap(below(300), flat(below(15)));
        6 -> large(below(500));
        _ -> flat(below(15))
    end.

terms(Depth) -> [term(Depth - 1) || _ <- lists:seq(1, below(6))].

wrap(0, T) -> T;
wrap(N, T) -> wrap(N - 1, pick({[T], {T}, [a | T], #{k => T}, #{T => v}, {1, T, 2}})).

large(0) -> list_to_tuple([flat(below(15)) || _ <- lists:seq(1, 300)]);
large(1) -> [below(256) || _ <- lists:seq(1, 70000)];
large(2) -> maps:from_list([{flat(below(15)), I} || I <- lists:seq(1, 100)]);
large(_) -> [].

flat(0) -> below(300);
flat(1) -> integer(64);
flat(2) -> integer(6000);
flat(3) -> integer(34);
flat(4) -> float();
flat(5) -> pick(get(atoms));
flat(6) -> pick({true, false, undefined, '', ok, 'EXIT', nonode@nohost});
flat(7) -> random_bytes(below(40));
flat(8) -> N = below(100), <<Bits:N/bitstring, _/bitstring>> = random_bytes(13), Bits;
flat(9) -> [below(256) || _ <- lists:seq(1, below(30))];
flat(10) -> [below(16#d800) || _ <- lists:seq(1, below(10))];
flat(11) -> pick({self(), remote(<<88>>, <<(word()):32, (word()):32, (word()):32>>)});
flat(12) -> pick({make_ref(), reference(2 + below(4))}); % OTP 25 can't find a key that is one of a single word
flat(13) -> pick({hd(erlang:ports()), remote(<<89>>, <<(below(1 bsl 28)):32, (word()):32>>),
                  remote(<<120>>, <<(word()):32, (word()):32, (word()):32>>)});
flat(14) -> pick({fun lists:map/2, fun erlang:'+'/2, fun no:such/255, fun terms/1, fun() -> ok end}).

integer(Bits) ->
    N = 1 + below(Bits),
    <<I:N, _/bitstring>> = random_bytes(N div 8 + 1),
    pick({I, -I}).

float() ->
    case random_bytes(8) of
        <<F/float>> -> F;
        _ -> float()
    end.

word() -> pick({0, 1, below(1 bsl 15), below(1 bsl 32)}).

reference(Len) -> remote(<<90, Len:16>>, random_bytes(4 + 4 * Len)).

%% An identifier of another node, or one of our own in place of what OTP before 24 does not take.
remote(Head, Tail) ->
    Node = <<"n", (integer_to_binary(below(50)))/binary, "@", (unicode:characters_to_binary([below(16#800)]))/binary>>,
    try binary_to_term(<<131, Head/binary, 119, (byte_size(Node)), Node/binary, Tail/binary>>)
    catch error:badarg -> self()
    end.

random_atom() ->
    Most = pick({16#7f, 16#ff, 16#7ff, 16#d7ff}),
    list_to_atom([below(Most + 1) || _ <- lists:seq(1, pick({1, 3, 10, 40, 255}))]).
