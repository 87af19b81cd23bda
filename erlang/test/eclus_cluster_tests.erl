-module(eclus_cluster_tests).

-include_lib("eunit/include/eunit.hrl").

%% A pattern needs a host.
pattern_test_() ->
    [{Bad, fun() ->
        ?assertEqual({error, {bad_pattern, Bad}}, eclus_cluster:start_link(#{join => ["web*@hosta.local", Bad]}))
    end} || Bad <- ["web*", "@hosta.local", "web*@", "", "a@b@c"]].

no_text_test() ->
    ?assertEqual({error, {bad_pattern, web}}, eclus_cluster:start_link(#{join => [web]})).
