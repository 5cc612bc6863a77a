"""Scoring against a plain reference, one row at a time; and the harness's exact match against the RL verifier."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.metrics import exact_match_hf_evaluate
from torch.nn import functional as F

from pocketlm.errors import InputError
from pocketlm.evaluation.scoring import Continuation, score
from pocketlm.problems.verifier import verify
from tests.evaluation_world import trained

torch.set_num_threads(1)

TOKENS = st.lists(st.integers(0, 299), min_size=1, max_size=40)
STRIP = [r"\A[ \t\n\r\v\f]+", r"[ \t\n\r\v\f]+\Z"]
"""`regexes_to_ignore` of the shipped tasks."""


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=4), st.sampled_from([64, 300, 1024]))
def test_scores_equal_those_of_single_rows_without_padding(
    pairs: list[tuple[list[int], list[int]]], tokens_per_pass: int
) -> None:
    model, _ = trained()
    found = score(model, [Continuation(*pair) for pair in pairs], tokens_per_pass)
    for (context, targets), item in zip(pairs, found, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([[*context, *targets][:-1]]))[0, -len(targets) :]
        expected = F.log_softmax(logits.double(), -1)[range(len(targets)), targets].sum()
        assert item.log_likelihood == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
        assert item.greedy == (logits.argmax(-1).tolist() == targets)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=2, max_size=12), st.randoms())
def test_scores_do_not_depend_on_order_or_batch_mates(pairs: list[tuple[list[int], list[int]]], random: object) -> None:
    model, _ = trained()
    items = [Continuation(*pair) for pair in pairs]
    together = score(model, items)
    order = list(range(len(items)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = score(model, [items[place] for place in order], 512)
    assert [shuffled[order.index(place)] for place in range(len(items))] == together
    assert score(model, items[:1]) == together[:1]


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
