"""How a model behaves, as scored tasks: items are made and answers are judged by rule, without a judge model.

`tasks.TASKS` names them, `run.score_behaviour` asks a model, `figures.summarise_behaviour` makes estimates.
"""
