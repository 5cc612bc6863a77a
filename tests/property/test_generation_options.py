"""Every option, tool and stop at once: a sequence is what it would be alone, whatever its batch mates and the slots."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.generation.engine import Completion, Engine, Request
from tests.generation_reference import Adder, assert_same, complete_alone, tiny_model, toy_decode
from tests.generation_strategies import requests

# What a tool forces may not fit a rule, which then ends the call: `test_live_engine_properties.py` has that.
REQUESTS = requests(rules=(0, 1, 2)).map(
    lambda request: dataclasses.replace(request, tool=None) if request.constraint else request
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    asked=st.lists(REQUESTS, min_size=1, max_size=8),
    slots=st.sampled_from([1, 2, 5, 40]),
    steps_per_look=st.sampled_from([1, 8]),
    shelf=st.sampled_from([2, 64]),
)
def test_every_sequence_is_what_it_would_be_alone(
    asked: list[Request], slots: int, steps_per_look: int, shelf: int
) -> None:
    model = tiny_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocketlm.generation.engine.STEPS_PER_LOOK", {"cpu": steps_per_look})
        patch.setattr("pocketlm.generation.engine.SHELF", shelf)
        patch.setattr("pocketlm.generation.schedule.SMALLEST_BLOCK", 1)
        patch.setattr("pocketlm.generation.schedule.COPY_COST", 0)
        results = Engine(model, slots=slots, decode=toy_decode).generate(asked)
    for request, completions in zip(asked, results, strict=True):
        assert len(completions) == request.samples
        for sample, completion in enumerate(completions):
            assert_same(completion, complete_alone(model, request, sample))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(asked=st.lists(REQUESTS, min_size=2, max_size=6), order=st.randoms(use_true_random=False))
def test_the_place_in_the_call_does_not_matter(asked: list[Request], order: Any) -> None:
    """Permuted, and in an engine that was used before for something else."""
    engine = Engine(tiny_model(), slots=4, decode=toy_decode)
    places = list(range(len(asked)))
    order.shuffle(places)
    straight = engine.generate(asked)
    permuted = engine.generate([asked[place] for place in places])
    for place, completions in zip(places, permuted, strict=True):
        assert [plain(one) for one in completions] == [plain(one) for one in straight[place]]


def plain(completion: Completion) -> tuple[object, ...]:
    return completion.tokens, completion.finish, completion.forced, completion.text


def test_the_toys_reach_what_is_tested() -> None:
    """Stops by string, by token and by length, cut tokens and forced tokens all occur with these models and toys."""
    torch.manual_seed(0)
    asked = [
        Request([number], 20, 1.0, number, 4, (3,), stop_strings=("aéb", "babab"), tool=Adder({5, 6, 7, 8}))
        for number in range(30)
    ]
    completions = [one for group in Engine(tiny_model(), decode=toy_decode).generate(asked) for one in group]
    assert any(any(one.forced) for one in completions)
    assert any(one.text != toy_decode(one.tokens) for one in completions)
    ends = {(one.finish, len(one.log_probabilities) - len(one.tokens)) for one in completions}
    assert ends == {("stop", 0), ("stop", 1), ("length", 0)}
