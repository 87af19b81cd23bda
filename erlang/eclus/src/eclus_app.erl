%% @private
%% Starts eclus_cluster if there is anything to join.
-module(eclus_app).

-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_, _) -> supervisor:start_link(?MODULE, application:get_env(eclus, join, [])).

-spec stop(term()) -> ok.
stop(_) -> ok.

-spec init([string()]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) -> {ok, {#{}, []}};
init(_) -> {ok, {#{}, [#{id => eclus_cluster, start => {eclus_cluster, start_link, []}}]}}.
