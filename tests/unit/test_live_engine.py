"""The live engine: arrivals, cancellations, faults of one sequence, bounded prefills, and nothing left behind."""

from __future__ import annotations

import dataclasses
import gc
import random
from collections.abc import Iterator

import numpy
import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.generation.engine import Engine
from pocketlm.generation.filters import Filters
from pocketlm.generation.live import MOST_STOP_TOKENS, MOST_TRIGGERS, LiveEngine, Progress
from pocketlm.generation.requests import MOST_ODDS, Completion, Request
from pocketlm.generation.samples import Job, Sample
from pocketlm.generation.slots import Features
from pocketlm.model.transformer import Transformer
from tests.generation_reference import Adder, Rule, RuleMaker, assert_same, tiny_model, toy_decode


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(engine: LiveEngine) -> list[Progress]:
    """Everything until the engine is idle."""
    found = []
    while engine.active or engine.waiting:
        found += engine.advance()
    return found


def endings(found: list[Progress]) -> dict[tuple[int, int], Completion | str]:
    return {(one.ticket, one.sample): one.completion or one.fault or "" for one in found if one.completion or one.fault}


def alone(request: Request) -> list[Completion]:
    return Engine(tiny_model(), decode=toy_decode).generate([request])[0]


def mixed(count: int, seed: int = 0) -> Iterator[Request]:
    """Requests that differ in every feature, so that features come and go."""
    choose = random.Random(seed)
    for number in range(count):
        yield Request(
            [choose.randrange(61) for _ in range(choose.randint(1, 35))],
            choose.randint(1, 20),
            temperature=choose.choice([0.0, 1.0]),
            seed=number,
            samples=choose.choice([1, 1, 3]),
            stop_tokens=(choose.randrange(61),),
            top_k=choose.choice([0, 5, 9]),
            top_p=choose.choice([1.0, 0.7]),
            repetition_penalty=choose.choice([1.0, 1.0, 1.4]),
            stop_strings=choose.choice([(), (), ("babab", "é")]),
            tool=Adder({3, 4, 5, 6}) if number % 5 == 1 else None,
            constraint=RuleMaker(number % 3, 50) if number % 5 == 3 else None,
            odds=4 if number % 4 == 2 else None,
        )


@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize("steps_per_look", [1, 8])
def test_sequences_that_come_one_after_the_other_are_what_they_are_alone(
    slots: int, steps_per_look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketlm.generation.live.STEPS_PER_LOOK", {"cpu": steps_per_look})
    monkeypatch.setattr("pocketlm.generation.schedule.SMALLEST_BLOCK", 2)
    monkeypatch.setattr("pocketlm.generation.schedule.COPY_COST", 0)
    engine = LiveEngine(tiny_model(), slots, decode=toy_decode, prefill_tokens=16)
    requests, found = {}, []
    for request in mixed(40):
        requests[engine.add(request)] = request
        found += engine.advance()
    found += run(engine)
    ended = endings(found)
    assert len(ended) == sum(request.samples for request in requests.values())
    for ticket, request in requests.items():
        for sample, expected in enumerate(alone(request)):
            completion = ended[ticket, sample]
            assert isinstance(completion, Completion)
            assert_same(completion, expected)


def test_a_long_prompt_does_not_hold_up_who_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    forward = Transformer.hidden

    def counted(self: Transformer, tokens_BT: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        taken.append(tokens_BT.numel() if tokens_BT.shape[1] > 1 else 0)
        return forward(self, tokens_BT, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "hidden", counted)
    engine = LiveEngine(tiny_model(), 4, prefill_tokens=8)
    first = engine.add(Request([1, 2, 3], 30, 1.0))
    engine.advance()
    # One of 40 tokens, and five of at most 4: these are prefilled two at a time.
    long = engine.add(Request([5] * 40, 4, 1.0))
    short = [engine.add(Request([number] * 4, 2)) for number in range(5)]
    starts: dict[int, int] = {}
    for advance in range(12):
        taken.clear()
        found = engine.advance()
        assert sum(taken) <= 8
        if advance < 10:
            assert [one.tokens for one in found if one.ticket == first and len(one.tokens) == 1]
        for one in found:
            starts.setdefault(one.ticket, advance)
    assert [starts[ticket] for ticket in (first, long, *short)] == [0, 4, 5, 5, 6, 6, 7]
    assert all(isinstance(one, Completion) for one in endings(run(engine)).values())


def test_the_first_tokens_come_with_the_advance_that_ends_the_prefill() -> None:
    engine = LiveEngine(tiny_model(), 2)
    engine.add(Request([1, 2, 3], 30))
    (progress,) = engine.advance()
    assert progress.tokens == alone(Request([1, 2, 3], 30))[0].tokens[:2]


def test_cancelling_in_every_state() -> None:
    engine = LiveEngine(tiny_model(), 2, prefill_tokens=8)
    kept = Request([9, 8, 7], 12, 1.0, seed=4)
    ticket = engine.add(kept)
    running = engine.add(Request([1, 2], 30, 1.0))
    engine.advance()
    shelved = engine.add(Request([3, 4], 20, 1.0, samples=5))
    queued = engine.add(Request([5, 6], 9, samples=2))
    assert (engine.active, engine.waiting) == (2, 7)
    engine.cancel(running)
    assert (engine.active, engine.waiting) == (1, 7)
    found = engine.advance()  # one sample of `shelved` has a slot now, the others wait on the shelf
    assert {one.ticket for one in found} == {ticket, shelved}
    assert (engine.active, engine.waiting) == (2, 6)
    engine.cancel(shelved)
    assert (engine.active, engine.waiting) == (1, 2)
    half = engine.add(Request([7] * 30, 5))
    engine.cancel(queued)
    found += engine.advance()
    assert (engine.active, engine.waiting) == (1, 1)
    engine.cancel(half)
    engine.cancel(half)
    engine.cancel(12345)
    assert (engine.active, engine.waiting) == (1, 0)
    last = engine.add(Request([11] * 30, 5, 1.0, samples=3))
    ended = endings(found + run(engine))
    assert {key[0] for key in ended} == {ticket, last}
    completion = ended[ticket, 0]
    assert isinstance(completion, Completion)
    assert_same(completion, alone(kept)[0])
    for sample, expected in enumerate(alone(Request([11] * 30, 5, 1.0, samples=3))):
        completion = ended[last, sample]
        assert isinstance(completion, Completion)
        assert_same(completion, expected)
    assert engine.advance() == []


def test_all_cancelled_leaves_every_slot_free() -> None:
    engine = LiveEngine(tiny_model(), 3, prefill_tokens=8)
    tickets = [engine.add(Request([number] * 20, 20, 1.0, samples=2)) for number in range(4)]
    for _ in range(7):
        engine.advance()
    for ticket in tickets:
        engine.cancel(ticket)
    assert (engine.active, engine.waiting, engine.advance()) == (0, 0, [])
    request = Request([1, 2], 20, 1.0, samples=3)
    engine.add(request)
    engine.advance()
    assert engine.active == engine.slots == 3
    for completion, expected in zip(endings(run(engine)).values(), alone(request), strict=True):
        assert isinstance(completion, Completion)
        assert_same(completion, expected)


POISON = 60
"""A token whose embedding is not a number; the good requests of these tests do not draw it."""


def poisonous() -> Transformer:
    model = Transformer(tiny_model().settings)
    model.load_state_dict(tiny_model().state_dict())
    with torch.no_grad():
        model.embedding.weight[POISON] = float("nan")
    return model.requires_grad_(False)


class Poisoner:
    """A tool that puts the token behind the eleventh."""

    triggers = frozenset(range(61))

    def call(self, tokens: list[int]) -> list[int]:
        return [POISON] if len(tokens) == 11 else []


@pytest.mark.parametrize("prefill_tokens", [8, 512])
def test_what_is_not_a_number_ends_its_own_sequence_alone(prefill_tokens: int) -> None:
    """In decoding and in prompts, and the slots and places on the shelf are as good as new afterwards."""
    engine = LiveEngine(poisonous(), 3, prefill_tokens=prefill_tokens)
    good = Request([1, 2, 3], 20, 1.0, samples=2)
    bad = Request([1] * 20, 25, 1.0, samples=2, tool=Poisoner())
    bad_prompts = [Request([*[2] * 5, POISON, *[2] * count], 5, samples=2) for count in (20, 40)]
    for _ in range(3):
        requests = [good, bad, good, *bad_prompts, good]
        tickets = [engine.add(request) for request in requests]
        found = run(engine)
        ended = endings(found)
        for ticket, request in zip(tickets, requests, strict=True):
            for sample in range(request.samples):
                outcome = ended.pop((ticket, sample))
                if request is good:
                    assert isinstance(outcome, Completion)
                    assert_same(outcome, alone(good)[sample])
                else:
                    assert "weights are broken" in str(outcome)
        assert not ended
        # The tokens before the place were handed out as they came.
        assert sum(len(one.tokens) for one in found if (one.ticket, one.sample) == (tickets[1], 0)) == 12
        assert (engine.active, engine.waiting) == (0, 0)


@pytest.mark.parametrize(("prefill_tokens", "cancelled"), [(64, False), (20, False), (40, True)])
def test_a_broken_prompt_leaves_nothing_on_the_shelf(prefill_tokens: int, cancelled: bool) -> None:
    """A short prompt takes its place, and is copied to a slot together with a longer one: as far as that goes."""
    engine = LiveEngine(poisonous(), 2, prefill_tokens=prefill_tokens)
    ticket = engine.add(Request([*[2] * 5, *[POISON] * 40], 2))
    engine.advance()
    assert engine.waiting == (prefill_tokens < 45)
    if cancelled:
        engine.cancel(ticket)
    else:
        run(engine)
    goods = Request([1] * 3, 20, 1.0), Request([1] * (prefill_tokens // 2), 15, 1.0)
    tickets = [engine.add(good) for good in goods]
    ended = endings(run(engine))
    for ticket, good in zip(tickets, goods, strict=True):
        outcome = ended[ticket, 0]
        assert isinstance(outcome, Completion)
        assert_same(outcome, alone(good)[0])


class Failing(Rule):
    """Breaks in a given way at the fourth token."""

    def __init__(self, way: str) -> None:
        super().__init__(0, 10**9)
        self._way, self._count = way, 0
        if way == "made":
            raise InputError("no such grammar")

    def allowed(self) -> numpy.ndarray:
        if self._way == "nothing":
            return numpy.zeros(2, dtype=numpy.int32)
        if self._way == "padding":
            return numpy.array([0, -(2**31)], dtype=numpy.int32)  # token 63 of 61
        if self._way == "allowed" and self._count == 3:
            raise InputError("cannot say")
        return super().allowed()

    def accept(self, token: int) -> bool:
        self._count += 1
        if self._way == "accept" and self._count == 4:
            raise InputError("does not fit")
        return super().accept(token)


@pytest.mark.parametrize(
    ("way", "message", "tokens"),
    [
        ("made", "no such grammar", 0),
        ("nothing", "allows no token", 0),
        ("padding", "allows no token", 0),
        ("allowed", "cannot say", 2),
        ("accept", "does not fit", 3),
    ],
)
def test_a_constraint_that_breaks_ends_its_own_sequence_alone(way: str, message: str, tokens: int) -> None:
    engine = LiveEngine(tiny_model(), 2)
    bad = Request([1, 2], 10, samples=3, constraint=lambda: Failing(way))
    good = Request([3, 4], 10, samples=2)
    engine.add(bad)
    engine.add(good)
    found = run(engine)
    ended = endings(found)
    assert all(message in str(ended[1, sample]) for sample in range(3))
    assert len([token for one in found if (one.ticket, one.sample) == (1, 0) for token in one.tokens]) == tokens
    for sample, expected in enumerate(alone(good)):
        completion = ended[2, sample]
        assert isinstance(completion, Completion)
        assert_same(completion, expected)
    with pytest.raises(InputError, match=message):
        Engine(tiny_model()).generate([good, bad])


def test_a_tool_of_another_vocabulary_ends_its_own_sequence_alone() -> None:
    engine = LiveEngine(tiny_model(), 2)
    engine.add(Request([1, 2], 10, tool=Adder(set(range(61)), vocabulary=10_000)))
    engine.add(Request([3, 4], 10))
    ended = endings(run(engine))
    assert "a tool answered with a token id outside the vocabulary of 61" in str(ended[1, 0])
    assert isinstance(ended[2, 0], Completion)


class Buggy(Rule):
    """Fails at the fourth token as only a bug does."""

    def accept(self, token: int) -> bool:
        self.heard = getattr(self, "heard", 0) + 1
        if self.heard == 4:
            raise KeyError(token)
        return super().accept(token)


class Divider:
    """A tool with a bug."""

    triggers = frozenset(range(61))

    def call(self, tokens: list[int]) -> list[int]:
        if len(tokens) == 3:
            raise ZeroDivisionError
        return []


def test_a_bug_ends_its_own_sequence_alone(caplog: pytest.LogCaptureFixture) -> None:
    engine = LiveEngine(tiny_model(), 3)
    good = Request([3, 4], 10, 1.0, samples=2)
    tickets = [
        engine.add(request)
        for request in (
            Request([1, 2], 10, constraint=lambda: Buggy(0, 10**9)),
            Request([1, 2], 10, constraint=Buggy),  # type: ignore[call-arg]
            Request([1, 2], 10, tool=Divider()),
            good,
        )
    ]
    ended = endings(run(engine))
    for ticket in tickets[:3]:
        assert "failed, which is a bug" in str(ended[ticket, 0])
    assert {type(record.exc_info[1]) for record in caplog.records if record.exc_info} == {
        KeyError,
        TypeError,
        ZeroDivisionError,
    }
    for sample, expected in enumerate(alone(good)):
        completion = ended[tickets[3], sample]
        assert isinstance(completion, Completion)
        assert_same(completion, expected)
    with pytest.raises(ZeroDivisionError):
        Engine(tiny_model()).generate([Request([1, 2], 10, tool=Divider())])


def test_features_that_come_on_while_a_sequence_runs_do_not_touch_it() -> None:
    """Slots that remember tools, penalties and masks of others are taken by a plain sequence; then such come again."""
    engine = LiveEngine(tiny_model(), 2, decode=toy_decode)
    rich = Request(
        [1, 2], 12, 1.0, repetition_penalty=1.5, tool=Adder(set(range(61))), odds=2, stop_strings=("x",), top_p=0.9
    )
    ruled = Request([1, 2], 12, 1.0, constraint=RuleMaker(1, 10**9), odds=1)
    plain = Request([7, 7, 7], 25, 1.0, seed=3)
    for other in (rich, ruled):
        engine.add(dataclasses.replace(other, samples=2))
        run(engine)
        ticket = engine.add(plain)
        found = engine.advance() + engine.advance()
        engine.add(other)
        completion = endings(found + run(engine))[ticket, 0]
        assert isinstance(completion, Completion)
        assert_same(completion, alone(plain)[0])


def test_more_is_computed_only_while_somebody_wants_it() -> None:
    engine = LiveEngine(tiny_model(), 3, decode=toy_decode)
    slots = engine._schedule._slots
    engine.add(Request([1], 40, 1.0))
    engine.advance()
    plain = slots.features
    rich = engine.add(
        Request([1], 40, 1.0, top_k=5, repetition_penalty=2.0, odds=3, tool=Adder({1}), constraint=RuleMaker(0, 10**9))
    )
    engine.advance()
    features = slots.features
    assert features.penalty
    assert features.odds
    assert features.tools
    assert features.constraints
    assert features.filters.top_k == 8
    engine.cancel(rich)
    engine.advance()
    assert slots.features == plain
    assert plain == Features(greedy=False, filters=Filters(top_k_always=True))
    assert not plain.filters


def test_stop_strings_cut_what_was_streamed() -> None:
    engine = LiveEngine(tiny_model(), 2, decode=toy_decode)
    request = Request([4, 2], 30, 1.0, seed=9, samples=12, stop_strings=("bab",), odds=1)
    engine.add(request)
    found = run(engine)
    ended, cut = endings(found), 0
    for sample, expected in enumerate(alone(request)):
        completion = ended[1, sample]
        assert isinstance(completion, Completion)
        assert_same(completion, expected)
        streamed = [token for one in found if one.sample == sample for token in one.tokens]
        assert streamed[: len(completion.tokens)] == completion.tokens
        cut += len(streamed) > len(completion.tokens)
    assert cut


def test_a_stop_token_is_counted_and_not_handed_out() -> None:
    engine = LiveEngine(tiny_model(), 1)
    free = alone(Request([1, 2], 12, 1.0))[0]
    engine.add(Request([1, 2], 12, 1.0, stop_tokens=(free.tokens[5],), odds=0))
    found = run(engine)
    end = free.tokens.index(free.tokens[5])
    assert [token for one in found for token in one.tokens] == free.tokens[:end]
    assert sum(len(one.log_probabilities) for one in found) == end + 1
    assert sum(len(one.odds or ()) for one in found) == end + 1
    assert found[-1].completion is not None
    assert found[-1].completion.finish == "stop"


def test_odds_are_the_models_own() -> None:
    model = tiny_model()
    request = Request(
        [4, 8], 12, 0.7, 3, 4, (3, 9), top_k=9, repetition_penalty=1.5, odds=MOST_ODDS, tool=Adder({7, 8})
    )
    bare = dataclasses.replace(request, odds=0)
    engine = LiveEngine(model, 3)
    engine.add(request)
    engine.add(bare)
    ended = endings(run(engine))
    for sample in range(4):
        completion, short = ended[1, sample], ended[2, sample]
        assert isinstance(completion, Completion)
        assert isinstance(short, Completion)
        assert completion.odds is not None
        assert len(completion.odds) == len(completion.log_probabilities)
        tokens = torch.tensor([[*request.tokens, *completion.tokens]])
        logs = model(tokens)[0, 1:].log_softmax(-1)
        for place, odds in enumerate(completion.odds):
            if place < len(completion.tokens):
                own = float(logs[place, completion.tokens[place]])
                assert odds.log_probability == pytest.approx(own, abs=1e-4)
            best = logs[place].topk(MOST_ODDS)
            assert [token for token, _ in odds.likeliest] == best.indices.tolist()
            assert [log for _, log in odds.likeliest] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert short.odds is not None
        assert {one.likeliest for one in short.odds} == {()}
        own_odds = [one.log_probability for one in completion.odds]
        assert [one.log_probability for one in short.odds] == pytest.approx(own_odds, abs=1e-4)


class OnlyTheLast(Rule):
    """Allows token 60 alone."""

    def members(self) -> list[int]:
        return [60]


def test_ids_that_pad_the_vocabulary_are_in_no_odds_and_in_no_mask() -> None:
    model = Transformer(tiny_model().settings.model_copy(update={"tokens": 10}))
    model.load_state_dict(tiny_model().state_dict())
    engine = LiveEngine(model.requires_grad_(False), 2)
    request = Request([4, 8], 12, 1.0, odds=MOST_ODDS)
    engine.add(request)
    engine.add(dataclasses.replace(request, constraint=lambda: Rule(0, 10**9)))  # allows multiples of 4, to 60
    engine.add(dataclasses.replace(request, constraint=lambda: OnlyTheLast(0, 1)))
    free, ruled, none = endings(run(engine)).values()
    assert "allows no token" in str(none)
    for completion in (free, ruled):
        assert isinstance(completion, Completion)
        assert completion.odds is not None
        logs = model(torch.tensor([[*request.tokens, *completion.tokens]]))[0, 1:-1, :10].log_softmax(-1)
        for odds, expected, token in zip(completion.odds, logs, completion.tokens, strict=True):
            assert dict(odds.likeliest) == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-4)
            assert odds.log_probability == dict(odds.likeliest)[token]
    assert isinstance(ruled, Completion)
    assert set(ruled.tokens) <= {0, 4, 8}


def test_nothing_grows_with_the_requests_served() -> None:
    engine = LiveEngine(tiny_model(), 3, decode=toy_decode, prefill_tokens=16)
    gc.collect()
    others = [one for one in gc.get_objects() if type(one) is torch.Tensor]  # held, or other tests' may go meanwhile

    def serve(seed: int) -> tuple[int, int, int]:
        for number, request in enumerate(mixed(15, seed)):
            ticket = engine.add(request)
            engine.advance()
            if number % 4 == 0:
                engine.cancel(ticket)
        run(engine)
        gc.collect()
        everything = gc.get_objects()
        own = sum(type(one) in (Job, Sample, Rule) for one in everything)
        tensors = [one for one in everything if type(one) is torch.Tensor]
        return own, len(tensors), sum(tensor.numel() for tensor in tensors)

    first = serve(0)
    assert first[0] == 0
    for seed in (0, 1, 0):
        assert serve(seed) == first
    assert others


def test_what_cannot_be_served_is_refused_and_costs_nothing() -> None:
    engine = LiveEngine(tiny_model(), 2)
    good = Request([1], 4)
    for bad, message in (
        ({"tokens": []}, "generation: the prompt is empty"),
        ({"odds": -1}, "odds is -1"),
        ({"odds": MOST_ODDS + 1}, "odds is 21"),
        ({"temperature": 1e-50}, "temperature is 1e-50"),
        ({"stop_tokens": (2**63,)}, "stop token is too large"),
        ({"stop_tokens": tuple(range(MOST_STOP_TOKENS + 1))}, "has 65 stop tokens; at most 64"),
        ({"stop_strings": ("x",)}, "made without `decode`"),
    ):
        with pytest.raises(InputError, match=message):
            engine.add(dataclasses.replace(good, **bad))  # type: ignore[arg-type]
    wide = tiny_model(vocabulary=2048)
    with pytest.raises(InputError, match="trigger its tool; at most 1024"):
        LiveEngine(wide, 1).add(Request([1], 4, tool=Adder(set(range(MOST_TRIGGERS + 1)))))
    assert (engine.active, engine.waiting, engine.advance()) == (0, 0, [])
    ticket = engine.add(dataclasses.replace(good, top_k=2**80, max_tokens=2**80, temperature=1.0))
    completion = endings(run(engine))[ticket, 0]
    assert isinstance(completion, Completion)
    assert len(completion.tokens) == tiny_model().settings.context - 1


@pytest.mark.parametrize("bad", [{"slots": 0}, {"slots": 1, "prefill_tokens": 0}, {"slots": 1, "longest": 0}])
def test_sizes_without_sense_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match="is 0; at least 1"):
        LiveEngine(tiny_model(), **bad)


def test_the_longest_continuation_is_the_engines() -> None:
    engine = LiveEngine(tiny_model(), 1, length=20, longest=6)
    for tokens in ([1], [1] * 16):
        engine.add(Request(tokens, 100))
    completions = list(endings(run(engine)).values())
    assert [len(one.tokens) for one in completions if isinstance(one, Completion)] == [6, 4]
    with pytest.raises(InputError, match="no room in a context of 20"):
        engine.add(Request([1] * 20, 1))
