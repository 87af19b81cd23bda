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
