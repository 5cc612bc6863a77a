"""Putting the tasks to an endpoint, both ways, and finding out first whether it can be constrained at all.

Two ways: `constrained` asks for the form with `response_format` (JSON schema, strict) or `tools` with `tool_choice`
"required"; `prompt_only` describes the form in the message. An extraction has the same messages both ways. Of a tool
call the functions stand either in `tools` or in the message, as a client would do it.

Load is a closed loop: so many streams, each sends its next request when the last answer has come. The tasks are asked
in two halves, and the second half goes the other way first, so that neither way gains from warm caches or the hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from pocketlm.pipeline.environment import EnergyMeter
from pocketlm.serving.benchmark.client import Answer, ask
from pocketlm.serving.benchmark.functions import as_tool
from pocketlm.serving.benchmark.judging import Judgement, fits_schema, judge
from pocketlm.serving.benchmark.task import Kind, Task
from pocketlm.serving.endpoint import Endpoint

Way = Literal["constrained", "prompt_only"]
WAYS: tuple[Way, ...] = ("constrained", "prompt_only")

REFUSALS = range(400, 500)


@dataclass(frozen=True)
class Target:
    """Whom to ask, and how.

    Attributes:
        streams: requests at the same time.
        timeout: seconds for one request.
    """

    endpoint: Endpoint
    model: str
    streams: int
    timeout: float


@dataclass(frozen=True)
class Support:
    """Whether an endpoint follows a constraint: `enforced`, `ignored`, `refused` (with its message) or `failed`."""

    state: Literal["enforced", "ignored", "refused", "failed"]
    message: str = ""

    @property
    def usable(self) -> bool:
        """Whether tasks can be asked with it. A constraint that is ignored can be sent; what comes back is measured."""
        return self.state in ("enforced", "ignored")


@dataclass(frozen=True)
class Record:
    """One task asked one way, with the judgement of its answer."""

    task: Task
    way: Way
    answer: Answer
    judgement: Judgement


@dataclass(frozen=True)
class Round:
    """Tasks that were asked one way in one go.

    Attributes:
        seconds: from the first request until the last answer.
        joules: of this machine's counters meanwhile; None where there are none, or the server is elsewhere.
    """

    way: Way
    records: Sequence[Record]
    seconds: float
    joules: float | None


def request_body(task: Task, way: Way, model: str) -> dict[str, Any]:
    """The chat completion that a task is asked with."""
    body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": task.max_tokens}
    if way == "prompt_only":
        return {**body, "messages": list(task.messages)}
    if task.kind == "extraction":
        return {**body, "messages": list(task.messages), "response_format": _format(task.schema)}
    question = [{"role": "user", "content": task.question}]
    return {**body, "messages": question, **_tools([as_tool(name) for name in task.functions])}


def ask_tasks(
    target: Target,
    tasks: Sequence[Task],
    way: Way,
    answered: Callable[[], None],
    log_probabilities: bool = False,
    meter: bool = False,
) -> Round:
    """Ask all tasks one way, `target.streams` at a time.

    Args:
        answered: called after each answer, in the order of the tasks.
        log_probabilities: ask for those of the answers' tokens as well.
        meter: read this machine's energy counters.
    """
    extra = {"logprobs": True} if log_probabilities else {}

    def one(task: Task) -> Answer:
        return ask(target.endpoint, {**request_body(task, way, target.model), **extra}, target.timeout)

    energy = EnergyMeter() if meter else None
    began = perf_counter()
    pool = ThreadPoolExecutor(target.streams)
    try:
        answers = []
        for answer in pool.map(one, tasks):
            answers.append(answer)
            answered()
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the whole list
    seconds = perf_counter() - began
    joules = energy.joules() if energy is not None else None
    records = [Record(task, way, answer, judge(task, answer)) for task, answer in zip(tasks, answers, strict=True)]
    return Round(way, records, seconds, joules)


def ask_both_ways(
    target: Target, tasks: Sequence[Task], constrained: Sequence[Kind], answered: Callable[[], None], meter: bool
) -> list[Round]:
    """Ask every task without constraints, and those of the kinds in `constrained` with them; in halves, as above."""
    rounds = []
    for half, ways in ((tasks[::2], WAYS), (tasks[1::2], WAYS[::-1])):
        for way in ways:
            asked = [task for task in half if way == "prompt_only" or task.kind in constrained]
            if asked:
                rounds.append(ask_tasks(target, asked, way, answered, meter=meter))
    return rounds


def find_support(target: Target, log_probabilities: bool = False) -> dict[Kind, Support]:
    """Ask for something that no model says unless it must: a field with a meaningless name and value.

    An answer of that form shows that the constraint acts. A 4xx is a refusal. Any other answer that ended by itself
    shows that it was ignored; one that was cut shows nothing, and counts as ignored too.

    Args:
        log_probabilities: whether the constraint is followed together with `logprobs`, and these come.
    """
    greeting = [{"role": "user", "content": "Say hello."}]
    body = {"model": target.model, "temperature": 0, "max_tokens": 96, "messages": greeting}
    body |= {"logprobs": True} if log_probabilities else {}
    function = {"name": ODD_NAME, "description": "Never needed.", "parameters": ODD_SCHEMA}
    return {
        "extraction": _support(target, {**body, "response_format": _format(ODD_SCHEMA)}),
        "tool_call": _support(target, {**body, **_tools([{"type": "function", "function": function}])}),
    }


ODD_NAME = "zq7_vx4"
ODD_SCHEMA = {
    "type": "object",
    "properties": {"zq7": {"type": "string", "enum": ["vx-4913"]}},
    "required": ["zq7"],
    "additionalProperties": False,
}


def _support(target: Target, body: dict[str, Any]) -> Support:
    from pocketlm.evaluation.behaviour.json_objects import strict_object

    answer = ask(target.endpoint, body, target.timeout)
    if answer.fault:
        return Support("refused" if answer.status in REFUSALS and answer.status != 429 else "failed", answer.fault)
    if "logprobs" in body and answer.log_probabilities is None:
        return Support("refused", "no log-probabilities come with it")
    texts = [arguments for name, arguments in answer.calls if name == ODD_NAME] if "tools" in body else [answer.text]
    found, fault = strict_object(texts[0]) if texts else ({}, "no call")
    return Support("ignored" if fault or not fits_schema(found, ODD_SCHEMA) else "enforced")


def _format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _tools(tools: list[dict[str, Any]]) -> dict[str, Any]:
    return {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
