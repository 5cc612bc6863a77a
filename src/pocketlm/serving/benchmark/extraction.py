"""Structured extraction: short texts, made from templates, whose facts are known; a JSON schema says what to fill in.

Every gold value stands in the text, in the form that the schema asks for, or (booleans, one of a few words) follows
from a word that does. Each text holds a sentence or a clause that no field asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pocketlm.serving.benchmark.task import Task, drawn, one_of

TASKS_PER_TEMPLATE = 16
MAX_TOKENS = 192

FIRST = ("Ada", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Henry", "Ines", "Jonas", "Laura", "Martin")
LAST = ("Adler", "Brook", "Carter", "Dietz", "Ellis", "Fischer", "Grant", "Hansen", "Ivers", "Keller", "Lindt", "Moore")
CITIES = ("Bergen", "Cadiz", "Dover", "Genoa", "Graz", "Lyon", "Malmo", "Porto", "Riga", "Turin")
ARTICLES = ("chairs", "desks", "kettles", "lamps", "mirrors", "pillows", "shelves", "vases")
ROOMS = ("attic", "cellar", "garage", "hall", "kitchen", "library", "office", "workshop")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
LANGUAGES = ("Danish", "English", "French", "German", "Italian", "Polish", "Spanish", "Turkish")
DEPARTMENTS = ("accounts", "catering", "design", "logistics", "sales", "support")
FAULTS = ("printer jam", "broken window", "flickering light", "lost badge", "slow network", "leaking tap")
PRIORITIES: Mapping[str, str] = {
    "low": "There is no hurry.",
    "normal": "This week would be good.",
    "high": "It cannot wait.",
}

INSTRUCTION = "Read the text and fill in the fields. Answer with one JSON object that fits the schema and nothing else."

TEXT = {"type": "string"}

Made = tuple[str, dict[str, Any], dict[str, Any]]
"""A text, the properties of its schema, and the gold fields."""


def extraction_tasks() -> list[Task]:
    """`TASKS_PER_TEMPLATE` tasks of every template."""
    return [_task(template, number) for template in TEMPLATES for number in range(TASKS_PER_TEMPLATE)]


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object with exactly these properties, in the strict form that OpenAI asks for."""
    required = list(properties)
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


def _task(template: str, number: int) -> Task:
    text, properties, gold = TEMPLATES[template](f"{template} {number}")
    schema = object_schema(properties)
    return Task(
        kind="extraction",
        template=template,
        name=f"extraction/{template}/{number}",
        question=text,
        messages=[
            {"role": "user", "content": _prompt(EXAMPLE_SCHEMA, EXAMPLE_TEXT)},
            {"role": "assistant", "content": json.dumps(EXAMPLE_GOLD)},
            {"role": "user", "content": _prompt(schema, text)},
        ],
        schema=schema,
        functions=(),
        gold=gold,
        max_tokens=MAX_TOKENS,
    )


def _prompt(schema: Mapping[str, Any], text: str) -> str:
    return f"{INSTRUCTION}\nSchema: {json.dumps(schema)}\nText: {text}"


def _journey(name: str) -> Made:
    person, city, day = one_of(FIRST, name, 1), one_of(CITIES, name, 2), one_of(DAYS, name, 3)
    text = f"{person} will travel to {city} on {day} and has already packed."
    return text, {"name": TEXT, "city": TEXT}, {"name": person, "city": city}


def _order(name: str) -> Made:
    person, article = f"{one_of(FIRST, name, 1)} {one_of(LAST, name, 2)}", one_of(ARTICLES, name, 3)
    quantity, city, express = 2 + drawn(38, name, 4), one_of(CITIES, name, 5), drawn(2, name, 6) == 1
    way = "by express" if express else "by normal post"
    text = (
        f"{person} has ordered {quantity} {article}. They go to {city}, {way}. "
        f"The last order, {50 + drawn(40, name, 7)} pieces in all, arrived in good order."
    )
    properties = {
        "customer": TEXT,
        "article": TEXT,
        "quantity": {"type": "integer"},
        "city": TEXT,
        "express": {"type": "boolean"},
    }
    gold = {"customer": person, "article": article, "quantity": quantity, "city": city, "express": express}
    return text, properties, gold


def _measurement(name: str) -> Made:
    room, tenths = one_of(ROOMS, name, 1), 141 + drawn(100, name, 2)
    time, other = _clock(name, 3), 2 + drawn(30, name, 4)
    text = f"At {time} the sensor in the {room} showed {tenths / 10} degrees. Its battery is {other} weeks old."
    properties = {"room": TEXT, "degrees": {"type": "number"}, "time": {"type": "string", "description": "HH:MM"}}
    return text, properties, {"room": room, "degrees": tenths / 10, "time": time}


def _contact(name: str) -> Made:
    first, last = one_of(FIRST, name, 1), one_of(LAST, name, 2)
    start, count = drawn(len(LANGUAGES), name, 3), 2 + drawn(2, name, 4)
    languages = [LANGUAGES[(start + 3 * step) % len(LANGUAGES)] for step in range(count)]
    address = f"{first.lower()}.{last.lower()}@example.com"
    spoken = f"{', '.join(languages[:-1])} and {languages[-1]}"
    text = f"Please write to {first} {last} ({address}), who speaks {spoken}. The office is closed in August."
    properties = {"last_name": TEXT, "email": TEXT, "languages": {"type": "array", "items": TEXT}}
    return text, properties, {"last_name": last, "email": address, "languages": languages}


def _ticket(name: str) -> Made:
    person, department = one_of(FIRST, name, 1), one_of(DEPARTMENTS, name, 2)
    fault, room = one_of(FAULTS, name, 3), one_of(ROOMS, name, 4)
    priority = one_of(tuple(PRIORITIES), name, 5)
    text = f"{person} from {department} reports a {fault} in the {room}. {PRIORITIES[priority]} The caretaker knows."
    properties = {
        "problem": TEXT,
        "priority": {
            "type": "string",
            "enum": list(PRIORITIES),
            "description": "low: no hurry; normal: this week; high: cannot wait",
        },
        "reporter": object_schema({"name": TEXT, "department": TEXT}),
    }
    gold = {"problem": fault, "priority": priority, "reporter": {"name": person, "department": department}}
    return text, properties, gold


def _clock(*names: object) -> str:
    return f"{6 + drawn(14, *names, 'hour'):02d}:{5 * drawn(12, *names, 'minute'):02d}"


TEMPLATES: Mapping[str, Callable[[str], Made]] = {
    "journey": _journey,
    "order": _order,
    "measurement": _measurement,
    "contact": _contact,
    "ticket": _ticket,
}

EXAMPLE_SCHEMA = object_schema({"animal": TEXT, "age": {"type": "integer"}})
EXAMPLE_TEXT = "The old horse in the stable is 21 and likes apples."
EXAMPLE_GOLD = {"animal": "horse", "age": 21}
