"""Planted evaluation items: is what should be found, found, and what is only similar, left alone?

A sample of every kind of item is planted in disguise into passages of the run's own documents and looked for with the
index and thresholds of the run; the run's data is not touched. Beside the disguises stand two forms that must *not* be
found: the passage alone, and the item's words in another order.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pocketlm.data.contamination.contamination import find_contamination
from pocketlm.data.contamination.contamination_index import Index, Item
from pocketlm.data.contamination.contamination_settings import ContaminationSettings
from pocketlm.data.passages import passages
from pocketlm.data.text import Text, Tokens, tokens_of

ITEMS_PER_KIND = 40
SHORT_PROBE = 8
"""Probes of fewer words are counted apart: by chance their words stand anywhere."""
REPLACED_WORD = 12


def planted_items(
    texts: Sequence[str], index: Index, settings: ContaminationSettings, per_kind: int = ITEMS_PER_KIND
) -> list[dict[str, Any]]:
    """Plant items of every kind in every form that applies to them.

    Args:
        texts: documents to take passages from; take them before contaminated ones were removed, else the passages
            alone can hold nothing.
        index, settings: what the run looks for, and how.
        per_kind: items of a kind that are planted, evenly spread.

    Returns:
        A row for each kind and form: `planted` and `found` of probes of 8 words or more, `short planted` and `short
        found` of the others, and `leak`: whether they should be found. Found: the document is flagged.
    """
    carriers = [" ".join(words) for words in passages(texts, per_kind)]
    too_short = set(index.too_short)
    rows = []
    for kind in dict.fromkeys(item.kind for item in index.items):
        items = [item for item in index.items if item.kind == kind and item not in too_short]
        items = items[:: max(1, len(items) // per_kind)][:per_kind]
        forms = LITERAL_FORMS if items and items[0].literal else FORMS
        probes = {form: [text for item in items if (text := make(item))] for form, make in forms.items()}
        probes[PASSAGE] = carriers
        rows += [_row(kind, form, probes[form], carriers, index, settings) for form in probes]
    return [row for row in rows if row["planted"] or row["short planted"]]


def _row(
    kind: str,
    form: str,
    probes: Sequence[str],
    carriers: Sequence[str],
    index: Index,
    settings: ContaminationSettings,
) -> dict[str, Any]:
    planted = probes
    if form in INSIDE and carriers:
        planted = [inside(text, carriers[at % len(carriers)]) for at, text in enumerate(probes)]
    short = np.diff(_tokens(probes)[1].offsets) < SHORT_PROBE
    hits = find_contamination(*_tokens(planted), index, settings.threshold, settings.template_threshold)
    found = np.zeros(len(probes), bool)
    found[hits.document] = True
    return {
        "items": kind,
        "form": form,
        "leak": form not in NEGATIVES,
        "planted": int((~short).sum()),
        "found": int((found & ~short).sum()),
        "short planted": int(short.sum()),
        "short found": int((found & short).sum()),
    }


def _tokens(texts: Sequence[str]) -> tuple[Text, Tokens]:
    text = Text.from_arrow(pa.array(texts, pa.large_string()))
    return text, tokens_of(text)


def answered(item: Item) -> str:
    """The question with the right answer, else the longest record."""
    if not item.answer:
        return max(item.records, key=len)
    if "_" in item.records[0] and item.answer in item.choices:  # WinoGrande fills the gap
        return item.records[1 + item.choices.index(item.answer)]
    return f"{item.records[0]} {item.answer}"


def verbatim(item: Item) -> str:
    """Question and all choices as a test prints them; question and answer of an item without choices."""
    return _listed(item, item.choices) if item.choices else answered(item)


def reformatted(item: Item) -> str:
    """Capitals, other punctuation, Markdown, a line for each word."""
    plain = verbatim(item) if item.literal else re.sub(r"[.,;:!?](?!\d)", " -", verbatim(item))
    return "  **" + "\n  ".join(plain.upper().split()) + "**"


def shuffled_choices(item: Item) -> str:
    """The choices in another order; empty for an item without choices."""
    order = list(item.choices)
    random.Random(item.id).shuffle(order)
    if tuple(order) == item.choices:
        order = order[1:] + order[:1]
    return _listed(item, order) if item.choices else ""


def every_twelfth_replaced(item: Item) -> str:
    """Question and answer with each 12th word exchanged; empty where there are fewer."""
    words = answered(item).split()
    for at in range(REPLACED_WORD - 1, len(words), REPLACED_WORD):
        words[at] = f"replaced{at}"
    return " ".join(words) if len(words) >= REPLACED_WORD else ""


def first_half(item: Item) -> str:
    """The first half of the question's words."""
    words = item.records[0].split()
    return " ".join(words[: -(-len(words) // 2)]) if len(item.records) > 1 else ""


def other_order(item: Item) -> str:
    """All words of question and answer, shuffled."""
    words = answered(item).split()
    random.Random(item.id).shuffle(words)
    return " ".join(words)


def _listed(item: Item, choices: Sequence[str]) -> str:
    return "\n".join([item.records[0], *(f"{chr(65 + at)}. {choice}" for at, choice in enumerate(choices))])


def _question(item: Item) -> str:
    return item.records[0] if len(item.records) > 1 else ""


PASSAGE = "nothing planted"
OTHER_ORDER = "words in another order"
LONG_DOCUMENT = "inside a long document"
NEGATIVES = (PASSAGE, OTHER_ORDER)
INSIDE = (LONG_DOCUMENT, OTHER_ORDER)
FORMS: dict[str, Callable[[Item], str]] = {
    "verbatim": verbatim,
    "reformatted": reformatted,
    "question only": _question,
    "question and answer": answered,
    LONG_DOCUMENT: answered,
    "shuffled choices": shuffled_choices,
    "every 12th word replaced": every_twelfth_replaced,
    "first half of the question": first_half,
    OTHER_ORDER: other_order,
}
"""Name of a form -> the text that is planted; empty where the form does not apply to the item."""
LITERAL_FORMS = {form: FORMS[form] for form in ("verbatim", "reformatted", LONG_DOCUMENT)}


def inside(probe: str, carrier: str) -> str:
    """The probe as a paragraph in the middle of a passage."""
    middle = carrier.index(" ", len(carrier) // 2)
    return f"{carrier[:middle]}\n\n{probe}\n\n{carrier[middle:]}"
