"""Agentic metrics of an OpenAI-compatible endpoint: structured extraction and tool calls, with and without constraints.

`tasks.task_set` makes the tasks, `asking` puts them to an endpoint, `judging.judge` judges an answer by rule, `figures`
makes estimates, `curve` the trade-off of a router, `command` joins them. docs/bench_serve.md has the formulas.
"""
