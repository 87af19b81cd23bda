-module(eclus_lines_tests).

-include_lib("eunit/include/eunit.hrl").

parse_test_() ->
    [?_assertEqual(Want, eclus_lines:parse(Line)) || {Line, Want} <- [
        {<<"+ node=a@b name=a\n">>, {known, #{<<"node">> => <<"a@b">>, <<"name">> => <<"a">>}}},
        {<<"+ node=a@b">>, {known, #{<<"node">> => <<"a@b">>}}},
        {<<"+ x=%20%25%c3%B6 y=%zz z=% word =a b=">>,
         {known, #{<<"x">> => <<" %", 195, 182>>, <<"y">> => <<"%zz">>, <<"z">> => <<"%">>, <<>> => <<"a">>, <<"b">> => <<>>}}},
        {<<"+ a=b=c">>, {known, #{<<"a">> => <<"b=c">>}}},
        {<<"- name=a">>, {gone, #{<<"name">> => <<"a">>}}},
        {<<"= nodes=1 lan=on">>, snapshot_end},
        {<<"* eclus=1">>, other},
        {<<"+node=a">>, other},
        {<<>>, other}]].

request_test() ->
    ?assertEqual(<<0, 4, "Na@b">>, eclus_lines:request($N, <<"a@b">>)),
    ?assertEqual(<<0, 1, "W">>, eclus_lines:request($W, <<>>)).

%% Each function of OTP that the application calls exists in this release. The oldest and the newest
%% with which these tests are run have between them what the others have.
imports_test_() ->
    [{atom_to_list(Module), fun() -> ?assertEqual([], [Call || Call <- imports(Module), not exists(Call)]) end}
     || Module <- [eclus_app, eclus_cluster, eclus_epmd, eclus_lines]].

imports(Module) ->
    {ok, {_, [{imports, Calls}]}} = beam_lib:chunks(code:which(Module), [imports]),
    Calls.

exists({Module, Function, Arity}) ->
    erlang:is_builtin(Module, Function, Arity) orelse
        code:ensure_loaded(Module) =:= {module, Module} andalso erlang:function_exported(Module, Function, Arity).
