"""Tool calls: a question that one of a few offered functions answers; the right call is known.

Three or four functions are offered, in a drawn order, the needed one among them. The numbers, dates and words of the
right call stand in the question, dates and units in the form that the function asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

from pocketlm.serving.benchmark.functions import FUNCTIONS, STOCK
from pocketlm.serving.benchmark.task import Task, drawn, one_of, shuffled

TASKS_PER_TEMPLATE = 16
MAX_TOKENS = 128

INSTRUCTION = """\
Choose the function that answers the question, and fill in its arguments. Answer with one JSON object \
{"name": ..., "arguments": {...}} and nothing else."""

Made = tuple[str, str, dict[str, Any]]
"""A question, the name of the function, its arguments."""

SAME_KIND = (("centimetre", "metre", "kilometre"), ("inch", "foot", "mile"), ("gram", "kilogram"))
PLURAL = {"inch": "inches", "foot": "feet"}
FIELDS = {
    "price": "What does a {} cost in the shop?",
    "stock": "How many pieces of the article {} are in stock?",
    "aisle": "In which aisle of the shop does the article {} stand?",
}


def call_tasks() -> list[Task]:
    """`TASKS_PER_TEMPLATE` tasks of every template."""
    return [_task(template, number) for template in TEMPLATES for number in range(TASKS_PER_TEMPLATE)]


def _task(template: str, number: int) -> Task:
    name = f"{template} {number}"
    question, function, arguments = TEMPLATES[template](name)
    others = shuffled([other for other in FUNCTIONS if other != function], name, "others")
    offered = shuffled([function, *others[: 2 + drawn(2, name, "number of others")]], name, "order")
    return Task(
        kind="tool_call",
        template=template,
        name=f"tool_call/{template}/{number}",
        question=question,
        messages=[{"role": "user", "content": _prompt(offered, question)}],
        schema={},
        functions=offered,
        gold={"name": function, "arguments": arguments},
        max_tokens=MAX_TOKENS,
    )


def _prompt(offered: tuple[str, ...], question: str) -> str:
    lines = [
        json.dumps({"name": name, "description": FUNCTIONS[name].description, "parameters": FUNCTIONS[name].parameters})
        for name in offered
    ]
    return "\n".join([INSTRUCTION, "Functions:", *lines, f"Question: {question}"])


def _arithmetic(name: str) -> Made:
    one, two, three = (2 + drawn(97, name, place) for place in range(3))
    expression = one_of(
        (f"{one} + {two} * {three}", f"({one} + {two}) * {three}", f"{one} * {two} - {three}", f"{one} + {two}"),
        name,
        "form",
    )
    return f"What is {expression}?", "calculate", {"expression": expression}


def _conversion(name: str) -> Made:
    units = SAME_KIND[drawn(len(SAME_KIND), name, "kind")]
    start, goal = shuffled(units, name, "units")[:2]
    value = 2 + drawn(400, name, "value")
    question = f"How many {PLURAL.get(goal, goal + 's')} are {value} {PLURAL.get(start, start + 's')}?"
    return question, "convert_unit", {"value": value, "from_unit": start, "to_unit": goal}


def _later(name: str) -> Made:
    day, days = _day(name, "day"), 3 + drawn(90, name, "days")
    return f"Which date is {days} days after {day}?", "add_days", {"date": str(day), "days": days}


def _between(name: str) -> Made:
    start = _day(name, "start")
    end = start + timedelta(days=3 + drawn(300, name, "days"))
    question = f"How many days are there from {start} to {end}?"
    return question, "days_between", {"start": str(start), "end": str(end)}


def _shop(name: str) -> Made:
    article, asked = one_of(tuple(STOCK), name, "article"), one_of(tuple(FIELDS), name, "field")
    return FIELDS[asked].format(article), "look_up_article", {"article": article, "field": asked}


def _day(*names: object) -> date:
    return date(2020, 1, 1) + timedelta(days=drawn(3650, *names))


TEMPLATES: Mapping[str, Callable[[str], Made]] = {
    "arithmetic": _arithmetic,
    "conversion": _conversion,
    "later": _later,
    "between": _between,
    "shop": _shop,
}
