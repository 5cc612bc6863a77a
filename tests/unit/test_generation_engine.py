"""The engine against one-at-a-time generation without a cache, and its contract at the edges."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.generation.engine import Completion, Engine, Request
from pocketlm.model.loss import token_log_probabilities
from pocketlm.model.transformer import Transformer
from tests.generation_reference import complete_alone, tiny_model


def mixed_requests(count: int, seed: int = 0) -> list[Request]:
    """Prompts of 1 to 30 tokens, greedy and sampled, different limits, with and without stop tokens."""
    random = numpy.random.default_rng(seed)
    return [
        Request(
            tokens=random.integers(0, 61, random.integers(1, 31)).tolist(),
            max_tokens=int(random.integers(1, 14)),
            temperature=float(random.choice([0.0, 0.7, 1.0, 1.6])),
            seed=int(random.integers(0, 2**63)),
            samples=int(random.integers(1, 5)),
            stop_tokens=tuple(random.integers(0, 61, random.integers(0, 9)).tolist()),
        )
        for _ in range(count)
    ]


def assert_same(completion: Completion, expected: Completion) -> None:
    assert (completion.tokens, completion.finish) == (expected.tokens, expected.finish)
    assert completion.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("layout", ["llama", "qwen3"])
@pytest.mark.parametrize("slots", [1, 3, 16, 200])
def test_every_sequence_is_what_it_would_be_alone(layout: str, slots: int) -> None:
    model, requests = tiny_model(layout), mixed_requests(24)
    results = Engine(model, slots=slots).generate(requests)
    finishes = set()
    for request, completions in zip(requests, results, strict=True):
        assert len(completions) == request.samples
        for sample, completion in enumerate(completions):
            assert_same(completion, complete_alone(model, request, sample))
            finishes.add(completion.finish)
    assert finishes == {"stop", "length"}


def test_more_prompts_than_the_shelf_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = tiny_model(), mixed_requests(30, seed=1)
    whole = Engine(model).generate(requests)
    monkeypatch.setattr("pocketlm.generation.engine.SHELF", 4)
    monkeypatch.setattr("pocketlm.generation.engine.PREFILL_TOKENS", 40)
    assert texts(Engine(model, slots=7).generate(requests)) == texts(whole)


def test_several_steps_between_looks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = tiny_model(), mixed_requests(30, seed=2)
    whole = Engine(model).generate(requests)
    monkeypatch.setattr("pocketlm.generation.engine.STEPS_PER_LOOK", {"cpu": 5})
    for slots in (2, 11, 64):
        assert texts(Engine(model, slots=slots).generate(requests)) == texts(whole)


def test_a_prompt_is_prefilled_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_model(), []
    forward = Transformer.hidden

    def counted(self: Transformer, tokens_BT: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if tokens_BT.shape[1] > 1:
            rows.append(len(tokens_BT))
        return forward(self, tokens_BT, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "hidden", counted)
    requests = [Request([number, 5, 7], 6, 1.0, seed=number, samples=9) for number in range(10)]
    Engine(model, slots=4).generate(requests)
    assert sum(rows) == 10


def test_log_probabilities_are_the_trainers() -> None:
    model = tiny_model()
    request = Request([4, 8, 15], 20, temperature=0.8, seed=5, samples=6, stop_tokens=(3, 9))
    for completion in Engine(model).generate([request])[0]:
        end = [] if completion.finish == "length" else [None]
        candidates = [[*completion.tokens, stop] for stop in request.stop_tokens] if end else [completion.tokens]
        differences = []
        for new in candidates:
            tokens = torch.tensor([[*request.tokens, *new]])
            hidden = model.hidden(tokens[:, :-1])[:, len(request.tokens) - 1 :]
            trainer, _ = token_log_probabilities(hidden, model.head_weight_VD, tokens[:, len(request.tokens) :], 0.8)
            differences.append((trainer[0] - torch.tensor(completion.log_probabilities)).abs().max().item())
        assert min(differences) <= 1e-4


def test_an_engine_follows_its_model_and_repeats_itself() -> None:
    model = Transformer(tiny_model().settings)
    model.init_weights(0)
    engine, requests = Engine(model, slots=8), mixed_requests(12, seed=3)
    before = engine.generate(requests)
    model.load_state_dict(tiny_model().state_dict())
    assert texts(engine.generate(requests)) == texts(Engine(tiny_model(), slots=8).generate(requests)) != texts(before)
    # A large call in between leaves larger buffers, and the same bits.
    small = engine.generate(requests[:3])
    engine.generate(mixed_requests(20, seed=4))
    assert engine.generate(requests[:3]) == small


def test_samples_differ_and_greedy_ones_do_not() -> None:
    sampled, greedy = Engine(tiny_model()).generate(
        [Request([1, 2], 12, temperature=1.0, samples=8), Request([1, 2], 12, temperature=0.0, samples=3)]
    )
    assert len({tuple(completion.tokens) for completion in sampled}) == 8
    assert len({tuple(completion.tokens) for completion in greedy}) == 1


def test_the_context_ends_a_completion() -> None:
    context = tiny_model().settings.context
    completions = Engine(tiny_model()).generate(
        [Request([1] * (context - 5), 100), Request([1] * (context - 1), 3), Request([2], 10_000)]
    )
    assert [len(completion.tokens) for (completion,) in completions] == [5, 1, context - 1]
    assert {completion.finish for (completion,) in completions} == {"length"}
    assert len(Engine(tiny_model(), length=20).generate([Request([1] * 15, 9)])[0][0].tokens) == 5


def test_a_stop_token_in_the_first_place_gives_an_empty_completion() -> None:
    first = Engine(tiny_model()).generate([Request([7, 7], 1)])[0][0].tokens[0]
    stopped = Engine(tiny_model()).generate([Request([7, 7], 9, stop_tokens=(60, first))])[0][0]
    assert stopped.tokens == []
    assert stopped.finish == "stop"
    assert len(stopped.log_probabilities) == 1


def test_nothing_asked_nothing_given() -> None:
    assert Engine(tiny_model()).generate([]) == []


GOOD = Request([1], 4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"tokens": []}, "prompt is empty"),
        ({"tokens": [1] * 48}, "48 tokens, which leaves no room in a context of 48"),
        ({"tokens": [61]}, "outside the vocabulary of 61"),
        ({"tokens": [-1]}, "outside the vocabulary"),
        ({"max_tokens": 0}, "at least 1"),
        ({"samples": 0}, "at least 1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
    ],
)
def test_a_bad_request_is_refused_by_number(bad: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"request 2: .*{message}"):
        Engine(tiny_model()).generate([GOOD, GOOD, dataclasses.replace(GOOD, **bad)])  # type: ignore[arg-type]


def test_no_slots_are_refused() -> None:
    with pytest.raises(InputError, match="slots is 0"):
        Engine(tiny_model(), slots=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_weights_are_named(temperature: float) -> None:
    model = Transformer(tiny_model().settings)
    model.init_weights(0)
    with torch.no_grad():
        model.final_norm.weight[0] = float("nan")
    with pytest.raises(InputError, match="weights are broken"):
        Engine(model).generate([Request([1, 2], 5, temperature)])


def test_the_default_number_of_slots_fits_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model())
    slot_bytes = 2 * 2 * 2 * 8 * 48 * 4  # keys and values, layers, key-value heads, channels, length, float32
    monkeypatch.setattr("pocketlm.generation.engine.CACHE_BYTES", slot_bytes * 5)
    assert engine._default_slots(48) == 5
    monkeypatch.setattr("pocketlm.generation.engine.CACHE_BYTES", 1)
    assert engine._default_slots(48) == 1


def texts(results: list[list[Completion]]) -> list[list[tuple[list[int], str]]]:
    return [[(completion.tokens, completion.finish) for completion in completions] for completions in results]
