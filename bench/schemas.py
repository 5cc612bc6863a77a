"""Twenty JSON schemas of the kinds that services ask for, each with a request that it answers.

Between them: nested objects, arrays, enums, bounds of numbers, multiples, patterns, lengths, formats, unions, tagged
unions, constants, references, recursion, optional fields, maps, tuples, anything at all, and the arguments of a tool.
Some bound every length, as `max_tokens` users do, and some bound nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is asked, and the schema of the answer."""

    name: str
    request: str
    schema: Schema


def fields(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object with required and optional properties, and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def text(most: int | None = None, **more: Any) -> Schema:
    """A string, of at most so many characters."""
    return {"type": "string", **({} if most is None else {"maxLength": most}), **more}


def number(low: float, high: float, kind: str = "integer", **more: Any) -> Schema:
    """A number between bounds, both included."""
    return {"type": kind, "minimum": low, "maximum": high, **more}


def several(items: Schema, most: int | None = None, least: int = 0) -> Schema:
    """An array."""
    return {"type": "array", "items": items, "minItems": least, **({} if most is None else {"maxItems": most})}


PERSON = fields({"name": text(40), "age": number(0, 120), "email": text(format="email")}, nickname=text(20))
ADDRESS = fields(
    {
        "street": text(40),
        "city": text(30),
        "postcode": text(pattern="^[0-9]{5}$"),
        "country": text(pattern="^[A-Z]{2}$"),
    }
)
ORDER = fields(
    {
        "id": text(pattern="^ORD-[0-9]{6}$"),
        "customer": {"$ref": "#/$defs/customer"},
        "lines": several({"$ref": "#/$defs/line"}, 4, 1),
        "status": {"enum": ["open", "paid", "shipped", "cancelled"]},
    },
    note={"anyOf": [text(60), {"type": "null"}]},
) | {
    "$defs": {
        "customer": fields({"name": text(40), "address": {"$ref": "#/$defs/address"}}),
        "address": ADDRESS,
        "line": fields({"product": text(30), "quantity": number(1, 99), "price": number(0, 9999, "number")}),
    }
}
SHAPE = {
    "oneOf": [
        fields({"kind": {"const": "circle"}, "radius": number(0, 1000, "number")}),
        fields({"kind": {"const": "rectangle"}, "width": number(0, 1000), "height": number(0, 1000)}),
        fields({"kind": {"const": "label"}, "text": text(50), "bold": {"type": "boolean"}}),
    ]
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": fields({"value": number(-100, 100), "children": several({"$ref": "#/$defs/node"}, 3)})},
}
BOOKING = fields(
    {
        "flight": text(pattern="^[A-Z]{2}[0-9]{3,4}$"),
        "departure": text(format="date-time"),
        "passengers": several(fields({"name": text(30), "born": text(format="date")}), 3, 1),
        "class": {"enum": ["economy", "business"]},
    },
    seat=text(pattern="^[1-9][0-9]?[A-F]$"),
)
DEVICE = fields(
    {
        "id": text(format="uuid"),
        "address": {"anyOf": [text(format="ipv4"), text(format="ipv6")]},
        "readings": several(number(-40, 125, "number", multipleOf=0.5), 6, 2),
        "online": {"type": "boolean"},
    }
)
RECIPE = fields(
    {
        "title": text(),
        "servings": number(1, 12),
        "ingredients": several(fields({"item": text(), "amount": {"type": ["number", "null"]}}), None, 1),
        "steps": several(text(), None, 1),
    }
)
FREE_FORM = {"type": "object", "properties": {"summary": {"type": "string"}, "score": {"type": "number"}}}

CASES = (
    Case("person", "Invent a person.", PERSON),
    Case("address", "Give a postal address in France.", ADDRESS),
    Case("order", "Make up an order of a web shop.", ORDER),
    Case("tagged_union", "Describe one element of a drawing.", SHAPE),
    Case("tree", "Give a small tree of numbers.", TREE),
    Case("booking", "Make up the booking of a flight.", BOOKING),
    Case("device", "Report what a temperature sensor measured.", DEVICE),
    Case("unbounded_recipe", "Give a recipe for pancakes.", RECIPE),
    Case("free_form", "Judge this sentence: the film was long, but I loved it.", FREE_FORM),
    Case("any_object", "Describe Paris as a JSON object.", {"type": "object"}),
    Case("enum", "Is the review positive? I would not buy it again.", {"enum": ["positive", "neutral", "negative"]}),
    Case(
        "keywords",
        "List keywords of a text about bees.",
        fields({"keywords": several(text(20, pattern="^[a-z]+( [a-z]+)*$"), 8, 3)}),
    ),
    Case(
        "entities",
        "Which names stand in: Marie Curie worked in Paris and Warsaw?",
        fields(
            {"entities": several(fields({"text": text(30), "label": {"enum": ["person", "place", "organisation"]}}), 6)}
        ),
    ),
    Case(
        "prices", "Give prices of three fruits.", {"type": "object", "additionalProperties": number(0, 100, "number")}
    ),
    Case(
        "tuple",
        "Give a place as latitude, longitude and name.",
        {
            "type": "array",
            "prefixItems": [number(-90, 90, "number"), number(-180, 180, "number"), text(30)],
            "minItems": 3,
            "items": False,
        },
    ),
    Case(
        "quiz",
        "Write a question with four answers about planets.",
        fields({"question": text(120), "answers": several(text(40), 4, 4), "correct": number(0, 3)}),
    ),
    Case(
        "optional_only",
        "Which filters fit: cheap red shoes?",
        fields({}, colour={"enum": ["red", "green", "blue"]}, highest_price=number(0, 1000), size=number(30, 50)),
    ),
    Case(
        "union",
        "How old is the universe?",
        fields({"answer": {"anyOf": [{"type": "integer"}, text(60), {"type": "null"}]}, "sure": {"type": "boolean"}}),
    ),
    Case(
        "tool_arguments",
        "What will the weather be in Oslo tomorrow?",
        fields(
            {"location": text(description="City and country"), "date": text(format="date")},
            unit={"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            hours=several(number(0, 23), 4),
        ),
    ),
    Case(
        "all_of",
        "Describe an event.",
        {
            "allOf": [
                {"type": "object", "properties": {"title": text(60)}, "required": ["title"]},
                {
                    "type": "object",
                    "properties": {"starts": text(format="time"), "guests": number(1, 500)},
                    "required": ["starts", "guests"],
                },
            ]
        },
    ),
)
