"""JSON objects with given keys and values, parsed strictly.

Right is an answer that is, as a whole, the JSON object: keys, types and values as asked, nothing before and nothing
behind. NaN, Infinity and a key that stands twice are refused, and 1 is not true. What is right once a code fence
around the whole answer is taken off is measured apart.

A solved example stands before each question, as an earlier turn: without one, small models that have seen much code
answer with a program that makes the object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pocketlm.evaluation.behaviour.task import Row, Verdict, asked, drawn, in_hash_order, verdict
from pocketlm.pipeline.storage import canonical_json

TEXTS: Mapping[str, tuple[str, ...]] = {
    "name": ("Mia", "Tom", "Nora", "Leo", "Ada", "Max", "Lena", "Paul"),
    "city": ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo", "Dublin", "Quito"),
    "colour": ("red", "green", "blue", "yellow", "black", "white", "brown", "pink"),
    "animal": ("cat", "dog", "horse", "owl", "fox", "goat", "duck", "bee"),
    "fruit": ("apple", "pear", "plum", "melon", "lemon", "grape", "banana", "cherry"),
}
NUMBERS = ("age", "count", "year", "page", "price")
FLAGS = ("open", "happy", "new", "ready", "round")
LISTS = ("colours", "animals", "fruits")

LEVELS: Mapping[str, str] = {
    "1 key": "t",
    "2 keys": "tn",
    "3 keys": "tnb",
    "4 keys": "tntb",
    "list": "tl",
    "nested": "no",
}
"""Level -> the types of its values: text, number, boolean, list of texts, object with a text."""

ITEMS_PER_LEVEL = 36
EXAMPLE: Mapping[str, Any] = {"size": "big", "floor": 3}
FENCED = re.compile(r"\A\s*```(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)


def items() -> list[Row]:
    """`ITEMS_PER_LEVEL` different objects of every level."""
    rows: list[Row] = []
    for level, types in LEVELS.items():
        made: dict[str, Row] = {}
        attempt = 0
        while len(made) < ITEMS_PER_LEVEL:
            value = _object(types, f"{level} {attempt}")
            text = canonical_json(value)
            made.setdefault(text, {"id": f"json/{level}/{text}", "level": level, "value": value})
            attempt += 1
        rows += made.values()
    return in_hash_order(
        {**row, "messages": [*_solved(EXAMPLE), *asked(_prompt(row["value"]))], "answer": json.dumps(row["value"])}
        for row in rows
    )


def check(row: Row, output: str, finish: str) -> Verdict:
    """Judge the whole answer; measures: valid_json, valid_json_unfenced, right_keys, right_unfenced."""
    value, fault = strict_object(output)
    unfenced, unfenced_fault = strict_object(FENCED.sub(r"\1", output))
    measures = {
        "valid_json": float(not fault),
        "valid_json_unfenced": float(not unfenced_fault),
        "right_keys": float(not fault and value.keys() == row["value"].keys()),
        "right_unfenced": float(not unfenced_fault and _same(unfenced, row["value"])),
    }
    if fault:
        return verdict(fault, measures)
    if value.keys() != row["value"].keys():
        return verdict("the keys are not those asked for", measures)
    return verdict("" if _same(value, row["value"]) else "a value is not the one asked for", measures)


def strict_object(text: str) -> tuple[dict[str, Any], str]:
    """The JSON object that a whole text is, and what is wrong with it: empty if nothing is."""
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # brackets may be nested deeper than Python's stack
        return {}, f"no JSON: {error}"
    return (value, "") if isinstance(value, dict) else ({}, "JSON, but no object")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _same(value: Any, wanted: Any) -> bool:
    """Equal in type and value, all the way down; the order of keys does not count."""
    if type(value) is not type(wanted):
        return False
    if isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(_same(value[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_same, value, wanted))
    return bool(value == wanted)


def _object(types: str, name: str) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for place, kind in enumerate(types):
        draw = (name, place)
        if kind == "n":
            value[NUMBERS[drawn(len(NUMBERS), *draw)]] = 2 + drawn(98, *draw, "value")
        elif kind == "b":
            value[FLAGS[drawn(len(FLAGS), *draw)]] = drawn(2, *draw, "value") == 1
        elif kind == "l":
            key = LISTS[drawn(len(LISTS), *draw)]
            start = drawn(8, *draw, "value")
            value[key] = [
                TEXTS[key.removesuffix("s")][(start + step) % 8] for step in range(2 + drawn(2, *draw, "length"))
            ]
        elif kind == "o":
            value["owner"] = _object("t", f"{name} {place}")
        else:
            # Keys of one object differ: the texts take turns from a drawn start.
            keys = list(TEXTS)
            key = keys[(drawn(len(keys), name) + place) % len(keys)]
            value[key] = TEXTS[key][drawn(8, *draw, "value")]
    return value


def _solved(value: Mapping[str, Any]) -> list[dict[str, str]]:
    return [*asked(_prompt(value)), {"role": "assistant", "content": json.dumps(value)}]


def _prompt(value: Mapping[str, Any]) -> str:
    keys = "this key" if len(value) == 1 else "these keys"
    return f"Write a JSON object with exactly {keys}: {_described(value)}. Answer with the JSON object only."


def _described(value: Mapping[str, Any]) -> str:
    return ", ".join(f'"{key}" with {_value_in_words(item)}' for key, item in value.items())


def _value_in_words(value: Any) -> str:
    if isinstance(value, bool):
        return f"the value {str(value).lower()}"
    if isinstance(value, int):
        return f"the number {value}"
    if isinstance(value, list):
        return f"a list of the texts {', '.join(map(_quoted, value))}"
    if isinstance(value, dict):
        return f"an object that has the key {_described(value)}"
    return f"the text {_quoted(value)}"


def _quoted(text: str) -> str:
    return f'"{text}"'
