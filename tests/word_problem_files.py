"""A small file of GSM8K's form, written for the tests: each form that the readers have to know, and its traps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

ITEMS: Sequence[tuple[str, str]] = (
    (
        "Rosa picked 36 plums on Friday and a third as many on Sunday. How many plums did Rosa pick in all?",
        "On Sunday Rosa picked 36/3 = <<36/3=12>>12 plums.\nIn all she picked 36+12 = <<36+12=48>>48 plums.\n#### 48",
    ),
    (
        "A bakery sells 1,250 rolls a week for $0.40 each and pays $140 for flour. What is left?",
        "The rolls bring 1250 * $0.40 = $<<1250*.4=500.00>>500.00.\nSo $500 - $140 = $360 is left.\n#### 360",
    ),
    (
        "Tom has seven marbles. Ann has 4 times as many, and Ben has 9 fewer than Ann. How many does Ben have?",
        "Ann has 7 * 4 = <<7*4=28>>28 marbles.\nSo Ben has 28 - 9 = <<28-9=19>>19 marbles.\n#### 19",
    ),
    (
        "A coat for $80 is sold with 20% off. What does it cost now?",
        "The discount is 80 * .2 = $<<80*.2=16>>16.\nThe coat costs $80 - $16 = $<<80-16=64>>64.\n#### 64",
    ),
    (
        "A tank of 220 liters loses 15 liters an hour. How many liters are left after 6 hours?",
        "It loses 15 * 6 = <<15*6=90>>90 liters.\nThere are 220 - 90 = <<220-90=130>>130 liters left.\n#### 130",
    ),
    (
        "Mia reads 18 pages a day. Her book has 450 pages. How many days does she need?",
        "She needs 450 / 18 = <<450/18=25>>25 days.\n#### 25",
    ),
)
"""Items that both forms and a template can be made of."""

TRAPS: Mapping[str, tuple[str, str]] = {
    "a number from nowhere": (
        "Nora bought pens for $33 and a ruler for $9. What did she pay with her voucher?",
        "Together they cost 33 + 9 = <<33+9=42>>42.\nShe paid 42 - 17 = <<42-17=25>>25 dollars.\n#### 25",
    ),
    "a number with two sources": (
        "Ivan has 14 pears and buys 5 bags of 11 pears. He puts 55 pears in a box. How many has he in all and outside?",
        "He buys 5*11 = <<5*11=55>>55 pears.\nHe has 14+55 = <<14+55=69>>69, so 69-55 = <<69-55=14>>14.\n#### 14",
    ),
    "the last note is not the answer": (
        "Lea runs 31 km and 16 km. How far is it in whole tens?",
        "She runs 31+16 = <<31+16=47>>47 km, about five tens.\n#### 50",
    ),
    "no calculator note": ("What is half of eighty-four?", "It is forty-two.\n#### 42"),
}
"""Reason -> an item that no program and no template can be made of."""

BROKEN: Mapping[str, tuple[str, str]] = {
    "no final answer that is a number": ("How many?", "There are 3+4 = <<3+4=7>>7.\n#### seven"),
    "a note with a wrong value": ("How many are 3 and 4?", "There are 3+4 = <<3+4=8>>8.\n#### 8"),
    "a note that is no arithmetic": ("How many are x and 4?", "There are x+4 = <<x+4=8>>8.\n#### 8"),
    "a note that is not closed": ("How many are 3 and 5?", "There are 3+5 = <<3+5=8 in all.\n#### 8"),
    "a value that is not written exactly": ("Share 10 among 3.", "Each gets 10/3 = <<10/3=3.33>>3.33.\n#### 3.33"),
    "an empty question": ("  ", "There are 3+4 = <<3+4=7>>7.\n#### 7"),
    "a number of more than 40 digits": (f"How many are 3 and {'1' * 5000}?", "There are 3+4 = <<3+4=7>>7.\n#### 7"),
    "half of a surrogate pair": ("How many are 3 and 4?", "There are \ud800 3+4 = <<3+4=7>>7.\n#### 7"),
    "more than 20,000 characters": ("How many are 3 and 4?", f"{'3  +  ' * 40_000}3+4 = <<3+4=7>>7.\n#### 7"),
    "several final answers": ("How many are 30 and 4?", "There are 30+4 = <<30+4=34>>34.\n#### 34\n#### 34"),
}
"""Reason -> an item that cannot be read."""


def write_items(path: Path, items: Sequence[tuple[str, str]]) -> Path:
    """JSONL with the columns of GSM8K."""
    rows = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in items]
    path.write_text("".join(rows), encoding="utf-8")
    return path
