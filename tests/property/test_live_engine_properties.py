"""Requests that come and go at any time: whoever stays gets what it would get alone, and nothing is left behind."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.generation.live import LiveEngine, Progress
from pocketlm.generation.requests import Completion, Request
from tests.generation_reference import assert_same, complete_alone, tiny_model, toy_decode
from tests.generation_strategies import requests


@dataclass(frozen=True)
class Arrival:
    """A request, how many advances after the one before it comes, and after how many more it is cancelled."""

    request: Request
    pause: int
    patience: int | None


@dataclass
class Heard:
    """What the caller was told of one sequence."""

    parts: list[Progress] = field(default_factory=list)

    def check(self, request: Request, sample: int) -> None:
        """It is the reference's, and its parts make up the whole."""
        *parts, last = self.parts
        assert all(part.completion is None and part.fault is None for part in parts)
        expected = outcome_alone(request, sample)
        if isinstance(expected, str):
            assert (last.fault, last.completion) == (expected, None)
            return
        assert last.fault is None
        assert last.completion is not None
        assert_same(last.completion, expected)
        for name in ("tokens", "log_probabilities", "odds"):
            whole = getattr(last.completion, name)
            streamed = [one for part in self.parts for one in getattr(part, name) or ()]
            # A stop string cuts off what may have been handed out.
            assert streamed[: len(whole or ())] == (whole or [])
            assert len(streamed) == len(whole or ()) or last.completion.text is not None
        assert all((part.odds is None) == (request.odds is None) for part in self.parts)


def outcome_alone(request: Request, sample: int) -> Completion | str:
    """The reference's completion, or its fault."""
    try:
        return complete_alone(tiny_model(), request, sample)
    except InputError as error:
        return str(error)


ARRIVALS = st.builds(
    Arrival,
    requests(rules=(0, 1, 2, 3, 4)),
    st.sampled_from([0, 0, 1, 3, 9]),
    st.sampled_from([None, None, None, 0, 1, 4]),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    arrivals=st.lists(ARRIVALS, min_size=1, max_size=9),
    slots=st.sampled_from([1, 2, 5, 12]),
    prefill_tokens=st.sampled_from([1, 7, 64, 512]),
    steps_per_look=st.sampled_from([1, 1, 8]),
)
def test_whoever_stays_gets_what_it_would_get_alone(
    arrivals: list[Arrival], slots: int, prefill_tokens: int, steps_per_look: int
) -> None:
    heard: dict[tuple[int, int], Heard] = defaultdict(Heard)
    tickets: dict[int, Request] = {}
    leaving: dict[int, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocketlm.generation.live.STEPS_PER_LOOK", {"cpu": steps_per_look})
        patch.setattr("pocketlm.generation.live.SHELF", 3)
        patch.setattr("pocketlm.generation.schedule.SMALLEST_BLOCK", 2)
        patch.setattr("pocketlm.generation.schedule.COPY_COST", 0)
        engine = LiveEngine(tiny_model(), slots, decode=toy_decode, prefill_tokens=prefill_tokens)
        comes = 0
        coming = [(comes := comes + arrival.pause, arrival) for arrival in arrivals]
        clock = 0
        while coming or engine.active or engine.waiting:
            assert clock < 5_000
            while coming and coming[0][0] <= clock:
                _, arrival = coming.pop(0)
                ticket = engine.add(arrival.request)
                tickets[ticket] = arrival.request
                if arrival.patience is not None:
                    leaving[ticket] = clock + arrival.patience
            gone = [ticket for ticket, end in leaving.items() if end <= clock]
            for ticket in gone:
                del leaving[ticket]
                engine.cancel(ticket)
                tickets.pop(ticket)
            for progress in engine.advance():
                # Of a request that was cancelled nothing is heard any more.
                assert progress.ticket in tickets
                heard[progress.ticket, progress.sample].parts.append(progress)
            assert engine.active <= slots
            clock += 1
    assert engine.advance() == []
    for ticket, request in tickets.items():
        for sample in range(request.samples):
            heard[ticket, sample].check(request, sample)
