"""Scoring against a plain reference, one row at a time; and the harness's exact match against the RL verifier."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.metrics import exact_match_hf_evaluate
from torch.nn import functional as F

from pocketlm.errors import InputError
from pocketlm.evaluation.prefix_rows import Continuation, prefix_rows
from pocketlm.evaluation.scoring import Score, score
from pocketlm.problems.verifier import verify
from tests.evaluation_world import trained

torch.set_num_threads(1)

STRIP = [r"\A[ \t\n\r\v\f]+", r"[ \t\n\r\v\f]+\Z"]
"""`regexes_to_ignore` of the shipped tasks."""


@st.composite
def items_of_requests(draw: st.DrawFn) -> list[list[Continuation]]:
    """Items whose requests begin alike: some share a context, some a part of one, some are equal, some stand alone."""
    few = st.lists(st.integers(0, 2), min_size=1, max_size=6)
    items = []
    for _ in range(draw(st.integers(1, 5))):
        shared = draw(st.lists(st.integers(0, 299), max_size=40))
        requests = draw(st.lists(st.tuples(few, few), min_size=1, max_size=5))
        items.append([Continuation([*shared, *context], targets) for context, targets in requests])
    return items


def scored(items: list[list[Continuation]], tokens_per_pass: int | None = None) -> list[list[Score]]:
    """Scores of every item's requests, all handed over together."""
    model, _ = trained()
    owners = [number for number, item in enumerate(items) for _ in item]
    found = iter(score(model, [request for item in items for request in item], owners, tokens_per_pass))
    return [list(itertools.islice(found, len(item))) for item in items]


def require_equal_to_a_single_row(request: Continuation, found: Score) -> None:
    model, _ = trained()
    context, targets = list(request.context), list(request.targets)
    with torch.inference_mode():
        logits = model(torch.tensor([[*context, *targets][:-1]]))[0, -len(targets) :]
    expected = F.log_softmax(logits.double(), -1)[range(len(targets)), targets].sum()
    assert found.log_likelihood == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
    assert found.greedy == (logits.argmax(-1).tolist() == targets)


@settings(max_examples=25, deadline=None)
@given(items_of_requests(), st.sampled_from([16, 64, 100, None]))
def test_scores_equal_those_of_single_rows(items: list[list[Continuation]], tokens_per_pass: int | None) -> None:
    for item, found in zip(items, scored(items, tokens_per_pass), strict=True):
        for request, one in zip(item, found, strict=True):
            require_equal_to_a_single_row(request, one)


@settings(max_examples=15, deadline=None)
@given(st.lists(items_of_requests(), min_size=1, max_size=4), st.randoms())
def test_the_score_of_an_item_does_not_depend_on_what_else_is_scored(
    parts: list[list[list[Continuation]]], random: object
) -> None:
    items = list(itertools.chain(*parts))
    together = scored(items)
    order = list(range(len(items)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = scored([items[place] for place in order])
    assert [shuffled[order.index(place)] for place in range(len(items))] == together
    assert [found for start in range(0, len(items), 7) for found in scored(items[start : start + 7])] == together
    assert [scored([item])[0] for item in items[:3]] == together[:3]


@given(items_of_requests(), st.integers(46, 60))
def test_a_row_holds_every_distinct_beginning_once_and_each_token_sees_what_it_follows(
    items: list[list[Continuation]], context: int
) -> None:
    for item in items:
        rows = prefix_rows(list(enumerate(item)), context)
        inputs = [request.inputs(context) for request in item]
        asked: dict[int, list[int]] = {number: [] for number in range(len(item))}
        for row in rows:
            assert 0 < len(row.tokens) <= context
            mask = row.mask()
            seen = torch.ones(len(row.tokens), len(row.tokens)).tril().bool() if mask is None else mask
            here = {number for _, number, _ in row.asked}
            beginnings = {tuple(inputs[number][: end + 1]) for number in here for end in range(len(inputs[number]))}
            assert len(row.tokens) == len(beginnings)
            assert row.share == pytest.approx(len(here) / len(item))
            for place, number, target in row.asked:
                asked[number].append(target)
                end = len(inputs[number]) - len(item[number].targets) + len(asked[number])
                visible = sorted(torch.nonzero(seen[place]).flatten().tolist(), key=row.positions.__getitem__)
                assert [row.positions[one] for one in visible] == list(range(end))
                assert [row.tokens[one] for one in visible] == inputs[number][:end]
        assert asked == {number: list(request.targets) for number, request in enumerate(item)}


def test_an_item_that_is_too_long_for_a_row_takes_several() -> None:
    model, _ = trained()
    shared, context = list(range(60)), model.settings.context
    item = [Continuation(shared, [number, *range(100, 130)]) for number in range(9)]
    rows = prefix_rows(list(enumerate(item)), context)
    assert [len({number for _, number, _ in row.asked}) for row in rows] == [2, 2, 2, 2, 1]
    for request, found in zip(item, scored([item])[0], strict=True):
        require_equal_to_a_single_row(request, found)


def test_a_long_context_is_cut_from_the_left() -> None:
    model, _ = trained()
    long = [number % 300 for number in range(500)]
    (cut,) = score(model, [Continuation(long, [5, 6, 7])])
    (exact,) = score(model, [Continuation(long[-126:], [5, 6, 7])])
    assert cut == exact


def test_a_continuation_that_cannot_fit_is_refused() -> None:
    model, _ = trained()
    with pytest.raises(InputError, match="has 129 tokens, more than the model's context of 128"):
        score(model, [Continuation([1], [2] * 129)])


def test_a_diverged_model_is_named_as_such() -> None:
    from pocketlm.model.transformer import Transformer

    model, _ = trained()
    diverged = Transformer(model.settings)
    diverged.load_state_dict({name: weight * float("nan") for name, weight in model.state_dict().items()})
    with pytest.raises(InputError, match="weights diverged or are damaged"):
        score(diverged, [Continuation([1], [2])])


@given(
    st.integers(0, 99),
    st.integers(0, 99),
    st.text(st.sampled_from(" \t\n\r\v\f0123456789+=-.ax\u00a0\u2003٤"), max_size=6),
    st.booleans(),
)
def test_exact_match_of_the_task_is_the_rule_of_the_verifier(left: int, right: int, text: str, near: bool) -> None:
    row = {"id": "x", "task": "addition", "level": 1, "prompt": f"{left}+{right}=", "operands": [left, right]}
    answer = str(left + right)
    completion = f"{text}{answer}{text[::-1]}" if near else text
    (matched,) = exact_match_hf_evaluate([completion], [answer], regexes_to_ignore=STRIP).values()
    assert bool(matched) == verify(row, completion).correct
