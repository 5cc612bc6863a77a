"""Planted items: what should be found is, what only looks alike is not, and the figures can fall."""

from __future__ import annotations

from pocketlm.data.contamination.contamination import build_index
from pocketlm.data.contamination.contamination_index import Item
from pocketlm.data.contamination.contamination_settings import ContaminationSettings
from pocketlm.data.contamination.planted_items import NEGATIVES, planted_items
from tests.data_pipeline import prose

SETTINGS = ContaminationSettings()
TEXTS = [prose(seed, 60) for seed in range(50)]


def question(seed: int) -> Item:
    asked = " ".join(prose(seed, 3).split()[:24])
    choices = tuple(" ".join(prose(seed + 5000 + 10 * at, 1).split()[:6]) for at in range(4))
    return Item("arc", str(seed), (asked, *(f"{asked} {choice}" for choice in choices)), choices, choices[2])


ITEMS = [
    *(question(seed) for seed in range(1000, 1060)),
    *(Item("cloze", str(seed), (prose(seed, 4),)) for seed in range(2000, 2030)),
    *(Item("sum", str(n), (f"{n}+{n + 7}=", f"{n}+{n + 7}= {2 * n + 7}"), literal=True) for n in range(10, 60)),
]


def test_every_form_is_found_and_negatives_are_not() -> None:
    rows = planted_items(TEXTS, build_index(ITEMS), SETTINGS)
    forms = {(row["items"], row["form"]) for row in rows}
    assert ("arc", "shuffled choices") in forms
    assert ("cloze", "every 12th word replaced") in forms
    assert ("sum", "reformatted") in forms
    assert not {("cloze", "shuffled choices"), ("cloze", "question only"), ("sum", "question only")} & forms
    for row in rows:
        planted, found = row["planted"] + row["short planted"], row["found"] + row["short found"]
        assert planted in (30, 40)
        assert found == (planted if row["leak"] else 0), row
        assert row["leak"] == (row["form"] not in NEGATIVES)
    assert rows == planted_items(TEXTS, build_index(ITEMS), SETTINGS)


def test_short_probes_are_counted_apart() -> None:
    (row,) = (
        row for row in planted_items(TEXTS, build_index(ITEMS), SETTINGS) if row["items"] == "sum" and row["leak"]
        and row["form"] == "verbatim"
    )  # fmt: skip
    assert (row["planted"], row["short planted"], row["short found"]) == (0, 40, 40)


def test_carriers_that_are_contaminated_are_counted() -> None:
    leaked = [f"{ITEMS[at].records[1]} {text}" for at, text in enumerate(TEXTS)]
    rows = planted_items(leaked, build_index(ITEMS), SETTINGS)
    found = next(row["found"] for row in rows if row["form"] == "nothing planted")
    assert found == 40


def test_nothing_to_plant() -> None:
    assert planted_items(TEXTS, build_index([]), SETTINGS) == []
    rows = planted_items([], build_index(ITEMS), SETTINGS)
    assert all(row["form"] != "nothing planted" for row in rows)
