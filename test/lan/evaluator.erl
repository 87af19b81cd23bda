%% Evaluates the lines of standard input in a process of its own, answers each with a line that starts with
%% "=lan" and its number, and ends the node when standard input ends. For file:script/1.
spawn(fun() ->
    io:setopts([{encoding, unicode}]),
    Answer = fun(Number, Tag, Term) ->
        io:format("~n=lan ~b ~s ~0tp~n", [Number, Tag, Term])
    end,
    Loop = fun Loop(Number) ->
        case io:get_line('') of
            Line when is_list(Line); is_binary(Line) -> % binaries once Elixir has been started
                try
                    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Line)),
                    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
                    {value, Value, _} = erl_eval:exprs(Expressions, []),
                    Answer(Number, ok, Value)
                catch
                    Class:Reason -> Answer(Number, error, {Class, Reason})
                end,
                Loop(Number + 1);
            _ ->
                halt()
        end
    end,
    Answer(0, up, node()),
    Loop(1)
end).
