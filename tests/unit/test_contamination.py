"""What contamination finds, and what it leaves alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.contamination.contamination import Hits, Item, build_index, find_contamination
from pocketlm.data.contamination.contamination_index import SEED_WORDS, SHORTEST_RECORD, Index
from pocketlm.data.contamination.evaluation_items import problem_items
from pocketlm.data.text import Text, tokens_of
from tests.data_pipeline import prose

QUESTION = (
    "To separate egg whites from the yolk using a water bottle, you should squeeze the water bottle and press it "
    "against the yolk. Release, which creates suction and lifts the yolk."
)
SUM = Item("arithmetic", "sum", ("12+34=", "12+34= 46"), literal=True)


@dataclass(frozen=True)
class Hit:
    """One row of `Hits`."""

    document: int
    item: int
    containment: float
    evidence: float
    start: int
    end: int


def text_of(texts: list[str]) -> Text:
    return Text.from_arrow(pa.array(texts, pa.large_string()))


def scanned(text: Text, index: Index, threshold: float = 0.8) -> Hits:
    return find_contamination(text, tokens_of(text), index, threshold, 0.5)


def found(texts: list[str], *items: Item, threshold: float = 0.8) -> Hits:
    return scanned(text_of(texts), build_index(items), threshold)


def hits(texts: list[str], *items: Item, threshold: float = 0.8) -> list[Hit]:
    strongest = found(texts, *items, threshold=threshold).strongest()
    columns = (getattr(strongest, field.name).tolist() for field in fields(strongest))
    return [Hit(*row) for row in zip(*columns, strict=True)]


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
    pieces = [" ".join(parts[at : at + 7]) for at in range(0, len(parts), 7)]
    assert not hits([f" {prose(1, 100)} ".join(pieces)], Item("piqa", "egg", (QUESTION,)))


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
    short = Item("instruction", "say", ("Say cat.", "Say cat. cat"), literal=True)
    index = build_index([short, SUM])
    assert index.too_short == (short,)
    assert hits(["say cat cat"], short) == []


def test_one_shared_template_is_not_an_item() -> None:
    records = ("What is the first letter of plum?", "What is the first letter of plum? p")
    item = Item("instruction", "first", records, literal=True)
    assert not hits(["What is the first letter of cherry?"], item)
    assert hits(["what is the first letter of plum"], item)


def test_the_strongest_item_is_reported() -> None:
    shorter = Item("piqa", "part", (" ".join(QUESTION.split()[:10]) + " " + " ".join(prose(5).split()[:3]),))
    (hit,) = hits([QUESTION], shorter, Item("piqa", "whole", (QUESTION,)), threshold=0.5)
    assert (hit.item, hit.containment) == (1, 1.0)


def test_a_template_of_many_items_is_no_evidence_and_a_rare_question_is() -> None:
    things = [" ".join(prose(seed, 1).split()[:4]) for seed in range(60)]
    items = [Item("arc", thing, (f"Which of the following is the best example of {thing}",)) for thing in things]
    template = "Which of the following is the best example of"
    assert not hits([f"{template} an answer that pays", template], *items, threshold=0.5)
    assert [hit.item for hit in hits([items[7].records[0]], *items)] == [7]


def test_numbers_written_numbers_labels_and_articles_do_not_hide_an_item() -> None:
    item = Item("gsm8k", "eggs", ("Each duck of the farmer lays two eggs daily and he sells 16 of them at the market",))
    (hit,) = hits(["A. Each duck of a farmer lays 3 eggs daily (b) and he sells twenty of them at a market"], item)
    assert hit.containment > 0.8


def test_a_long_question_with_exchanged_names_is_found_and_its_answer_alone_is_not() -> None:
    words = prose(4, 3).split()
    exchanged = [f"name{at}" if at % 8 == 7 else word for at, word in enumerate(words)]
    answer = " ".join(prose(5, 3).split())
    item = Item("gsm8k", "long", (" ".join(words), f"{' '.join(words)} {answer}"))
    assert [hit.containment < 0.9 for hit in hits([" ".join(exchanged)], item, threshold=1.0)] == [True]
    half_of_the_answer = " ".join(answer.split()[: len(answer.split()) // 2])
    assert not hits([half_of_the_answer], item)


def test_first_half_and_shuffled_choices_are_found() -> None:
    choices = [" ".join(prose(seed, 1).split()[:3]) for seed in range(10, 14)]
    question = " ".join(prose(9, 2).split()[:20])
    item = Item("arc", "one", (question, *(f"{question} {choice}" for choice in choices)))
    half = " ".join(question.split()[:10])
    shuffled = "\n".join(
        [question, *(f"{label}) {choice}" for label, choice in zip("abcd", choices[::-1], strict=True))]
    )
    assert [hit.containment for hit in hits([half, shuffled], item)] == [1.0, 1.0]


def test_every_item_that_a_document_holds_is_listed_with_its_window() -> None:
    other = "Rinse the copper kettle with vinegar and coarse salt, then polish it until the metal shines again."
    document = f"{prose(1, 10)}\n\n{QUESTION}\n\n{prose(2, 10)} {other} Ende."
    text = text_of([prose(3), document, "żółw"])
    items = (Item("piqa", "egg", (QUESTION,)), Item("piqa", "kettle", (other,)), Item("piqa", "none", (prose(8, 1),)))
    found_items = scanned(text, build_index(items))
    assert found_items.document.tolist() == [1, 1]
    assert found_items.item.tolist() == [0, 1]
    windows = [
        text.data[start:end].tobytes().decode()
        for start, end in zip(found_items.start.tolist(), found_items.end.tolist(), strict=True)
    ]
    assert windows == [QUESTION[:-1], other[:-1]]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 5), min_size=4, max_size=16),
    st.lists(st.lists(st.integers(0, 6), max_size=40), max_size=3),
    st.sampled_from([0.5, 0.8, 1.0]),
)
def test_containment_is_that_of_a_slow_search(record: list[int], documents: list[list[int]], threshold: float) -> None:
    """One record of words that all prove the same, against plain Python written from the module's sentences."""
    names = ["amber", "birch", "coral", "dune", "elm", "fern", "gorse"]
    item = Item("kind", "one", (" ".join(names[word] for word in record),), literal=True)
    texts = [" ".join(names[word] for word in document) for document in documents]
    expected = {}
    for at, document in enumerate(documents):
        share = max(slow_shares(record, document, 0.6 * threshold), default=0.0)
        if share >= (1.0 if len(record) < 8 else threshold):
            expected[at] = share
    measured = {hit.document: hit.containment for hit in hits(texts, item, threshold=threshold)}
    assert measured == pytest.approx(expected)


def slow_shares(record: list[int], document: list[int], least: float) -> Iterator[float]:
    """Share of the record in every window that seeds point to."""
    length, size = len(record), min(SEED_WORDS, len(record))
    begins = sorted(
        {
            at - place
            for at in range(len(document) - size + 1)
            for place in range(length - size + 1)
            if document[at : at + size] == record[place : place + size]
        }
    )
    slack, shortest = max(length // 4, 1), min(3, length)
    while begins:
        group = [begin for begin in begins if begin <= begins[0] + slack]
        begins = begins[len(group) :]
        if len(on_diagonals(record, document, group, shortest)) >= least * length:
            low, high = max(group[0] - slack, 0), min(group[0] + length + slack, len(document))
            window = document[low:high]
            yield len(on_diagonals(record, window, range(-length, len(window)), shortest)) / length


def on_diagonals(record: list[int], document: list[int], begins: Iterable[int], shortest: int) -> set[int]:
    """Words of the record in runs of equal words, if the record began at one of these rows of the document."""
    covered: set[int] = set()
    for begin in begins:
        same = [0 <= begin + at < len(document) and document[begin + at] == word for at, word in enumerate(record)]
        for start in range(len(record) - shortest + 1):
            if all(same[start : start + shortest]):
                covered.update(range(start, start + shortest))
    return covered


def test_results_do_not_depend_on_batching() -> None:
    items = [Item("held_out", str(seed), (" ".join(prose(seed, 3).split()[:30]),)) for seed in range(20)]
    texts = [f"{prose(100 + seed, 5)} {items[seed].records[0] if seed % 2 else ''}" for seed in range(20)]
    index = build_index(items)
    whole = found(texts, *items)
    alone = []
    for at, single in enumerate(texts):
        part = scanned(text_of([single]), index)
        alone += [(at, item, share) for item, share in zip(part.item.tolist(), part.containment.tolist(), strict=True)]
    assert alone == list(zip(whole.document.tolist(), whole.item.tolist(), whole.containment.tolist(), strict=True))
    assert len(alone) == 10


def test_an_index_is_arrays_that_can_be_sent() -> None:
    index = pickle.loads(pickle.dumps(build_index([Item("piqa", "egg", (QUESTION,)), SUM])))
    assert len(scanned(text_of([QUESTION]), index)) == 1
    assert np.diff(index.prose.offsets).min() >= SHORTEST_RECORD


def test_scored_problems_are_items_and_those_to_train_on_are_not(tmp_path: Path) -> None:
    scored = ("selection", "report", "instructions_selection", "instructions_report")
    for stem in (*scored, "solved", "prompts", "instructions"):
        row = {"id": stem, "prompt": f"{stem} 1+2=", "answer": "3"}
        (tmp_path / f"{stem}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    items = problem_items(tmp_path)
    assert [(item.id, item.records) for item in items] == [
        (stem, (f"{stem} 1+2=", f"{stem} 1+2= 3")) for stem in scored
    ]
    assert [item.kind for item in items] == ["arithmetic"] * 2 + ["instruction"] * 2
    assert all(item.literal for item in items)
    for stem in ("instructions_selection", "instructions_report"):  # word problems have no instructions beside them
        (tmp_path / f"{stem}.jsonl").unlink()
    assert problem_items(tmp_path) == items[:2]


def test_no_items_and_no_documents() -> None:
    assert hits([prose(1)]) == []
    assert hits([], SUM) == []
