"""Every option, tool and stop at once: a sequence is what it would be alone, whatever its batch mates and the slots."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.generation.engine import Completion, Engine, Request
from tests.generation_reference import Adder, complete_alone, tiny_model, toy_decode

TOKENS = st.integers(0, 60)
REQUESTS = st.builds(
    Request,
    tokens=st.lists(TOKENS, min_size=1, max_size=40),
    max_tokens=st.integers(1, 24),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 1.6]),
    seed=st.integers(0, 2**63 - 1),
    samples=st.integers(1, 3),
    stop_tokens=st.lists(TOKENS, max_size=2).map(tuple),
    top_k=st.sampled_from([0, 0, 1, 4, 30, 100]),
    top_p=st.sampled_from([1.0, 1.0, 0.2, 0.8, 0.99]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    stop_strings=st.lists(st.sampled_from(["abba", "bb", "é", "aéb", " b", "babab", "x"]), max_size=2).map(tuple),
    tool=st.none() | st.sets(TOKENS, max_size=12).map(Adder),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=8),
    slots=st.sampled_from([1, 2, 5, 40]),
    steps_per_look=st.sampled_from([1, 8]),
    shelf=st.sampled_from([2, 64]),
)
def test_every_sequence_is_what_it_would_be_alone(
    requests: list[Request], slots: int, steps_per_look: int, shelf: int
) -> None:
    model = tiny_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocketlm.generation.engine.STEPS_PER_LOOK", {"cpu": steps_per_look})
        patch.setattr("pocketlm.generation.engine.SHELF", shelf)
        patch.setattr("pocketlm.generation.schedule.SMALLEST_BLOCK", 1)
        patch.setattr("pocketlm.generation.schedule.COPY_COST", 0)
        results = Engine(model, slots=slots, decode=toy_decode).generate(requests)
    for request, completions in zip(requests, results, strict=True):
        assert len(completions) == request.samples
        for sample, completion in enumerate(completions):
            expected = complete_alone(model, request, sample)
            assert plain(completion) == plain(expected)
            assert completion.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(requests=st.lists(REQUESTS, min_size=2, max_size=6), order=st.randoms(use_true_random=False))
def test_the_place_in_the_call_does_not_matter(requests: list[Request], order: Any) -> None:
    """Permuted, and in an engine that was used before for something else."""
    engine = Engine(tiny_model(), slots=4, decode=toy_decode)
    places = list(range(len(requests)))
    order.shuffle(places)
    straight = engine.generate(requests)
    permuted = engine.generate([requests[place] for place in places])
    for place, completions in zip(places, permuted, strict=True):
        assert [plain(one) for one in completions] == [plain(one) for one in straight[place]]


def plain(completion: Completion) -> tuple[object, ...]:
    return completion.tokens, completion.finish, completion.forced, completion.text


def test_the_toys_reach_what_is_tested() -> None:
    """Stops by string, by token and by length, cut tokens and forced tokens all occur with these models and toys."""
    torch.manual_seed(0)
    requests = [
        Request([number], 20, 1.0, number, 4, (3,), stop_strings=("aéb", "babab"), tool=Adder({5, 6, 7, 8}))
        for number in range(30)
    ]
    completions = [one for group in Engine(tiny_model(), decode=toy_decode).generate(requests) for one in group]
    assert any(any(one.forced) for one in completions)
    assert any(one.text != toy_decode(one.tokens) for one in completions)
    ends = {(one.finish, len(one.log_probabilities) - len(one.tokens)) for one in completions}
    assert ends == {("stop", 0), ("stop", 1), ("length", 0)}
