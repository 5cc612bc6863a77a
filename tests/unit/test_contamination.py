"""What contamination finds, and what it leaves alone."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pocketlm.data.contamination import Hit, Item, build_index, find_contamination, ngram_size
from pocketlm.data.text import Text, tokens_of
from tests.data_pipeline import prose

QUESTION = (
    "To separate egg whites from the yolk using a water bottle, you should squeeze the water bottle and press it "
    "against the yolk. Release, which creates suction and lifts the yolk."
)
SUM = Item("arithmetic", "sum", ("12+34=", "12+34= 46"))


def hits(texts: list[str], *items: Item, threshold: float = 0.8) -> list[Hit]:
    tokens = tokens_of(Text.from_arrow(pa.array(texts, pa.large_string())))
    return find_contamination(tokens, build_index(items), threshold)


@pytest.mark.parametrize(
    "form",
    [
        QUESTION,
        QUESTION.upper().replace(" ", "\n   "),
        f"{prose(1, 200)}\n\n> {QUESTION}\n\n{prose(2, 200)}",
        QUESTION.replace("squeeze", "gently press"),
        " ".join(QUESTION.split()[3:]),
    ],
)
def test_a_question_is_found_in_every_disguise(form: str) -> None:
    (hit,) = hits([prose(3), form], Item("piqa", "egg", (QUESTION,)))
    assert hit.document == 1
    assert hit.containment >= 0.8


def test_the_hit_names_the_place() -> None:
    text = f"{prose(1)} {QUESTION} {prose(2)}"
    (hit,) = hits([text], Item("piqa", "egg", (QUESTION,)))
    assert text.encode()[hit.start : hit.end].decode() == QUESTION.rstrip(".")
    assert hit.containment == 1.0


def test_words_scattered_over_a_long_document_do_not_count_together() -> None:
    parts = QUESTION.split()
    first, second = " ".join(parts[: len(parts) // 2]), " ".join(parts[len(parts) // 2 :])
    assert not hits([f"{first} {prose(1, 100)} {second}"], Item("piqa", "egg", (QUESTION,)))


@pytest.mark.parametrize("text", [">>> 12 + 34\n46", "so 12+34=46.", "12 + 34 = 46"])
def test_a_sum_with_its_answer_is_found(text: str) -> None:
    assert [hit.containment for hit in hits([text], SUM)] == [1.0]


@pytest.mark.parametrize(
    "text",
    ["12+34", "12+34=47", "12 34 46", "34+12=46", "112+34=46", "12-34 46", "(12+34)+46", "(12 + 34), 46", "12 + 34.46"],
)
def test_another_sum_or_a_bare_one_is_not(text: str) -> None:
    assert hits([text], SUM) == []


def test_items_too_short_to_look_up_are_listed() -> None:
    short = Item("instruction", "say", ("Say cat.", "Say cat. cat"))
    index = build_index([short, SUM])
    assert index.too_short == (short,)
    assert hits(["say cat cat"], short) == []


def test_one_shared_template_is_not_an_item() -> None:
    item = Item("instruction", "first", ("What is the first letter of plum?", "What is the first letter of plum? p"))
    assert not hits(["What is the first letter of cherry?"], item)
    assert hits(["what is the first letter of plum"], item)


def test_the_strongest_item_is_reported() -> None:
    shorter = Item("piqa", "part", (" ".join(QUESTION.split()[:10]) + " " + " ".join(prose(5).split()[:3]),))
    (hit,) = hits([QUESTION], shorter, Item("piqa", "whole", (QUESTION,)), threshold=0.5)
    assert (hit.item, hit.containment) == (1, 1.0)


def test_ngram_sizes() -> None:
    assert [ngram_size(words) for words in (4, 7, 8, 30, 40, 52, 500)] == [4, 7, 8, 8, 10, 13, 13]


def test_no_items_and_no_documents() -> None:
    assert hits([prose(1)]) == []
    assert hits([], SUM) == []
