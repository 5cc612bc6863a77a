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
from tests.generation_reference import Adder, assert_same, complete_alone, tiny_model, toy_decode


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
    monkeypatch.setattr("pocketlm.generation.schedule.PREFILL_TOKENS", 40)
    assert texts(Engine(model, slots=7).generate(requests)) == texts(whole)


def test_several_steps_between_looks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = tiny_model(), mixed_requests(30, seed=2)
    whole = Engine(model).generate(requests)
    monkeypatch.setattr("pocketlm.generation.engine.STEPS_PER_LOOK", {"cpu": 5})
    for slots in (2, 11, 64):
        assert texts(Engine(model, slots=slots).generate(requests)) == texts(whole)


def test_several_steps_beside_one_that_is_about_to_fill_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    context = tiny_model().settings.context
    requests = [Request([5] * (context - 12), 12), Request([6] * (context - 10), 10), Request([7], context - 1)]
    whole = Engine(tiny_model()).generate(requests)
    monkeypatch.setattr("pocketlm.generation.engine.STEPS_PER_LOOK", {"cpu": 8})
    assert texts(Engine(tiny_model()).generate(requests)) == texts(whole)


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
        ({"temperature": 1e39}, "temperature is 1e\\+39"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty is 1e-40"),
        ({"repetition_penalty": 1e39}, "repetition_penalty is 1e\\+39"),
        ({"stop_strings": ("x",)}, "made without `decode`"),
        ({"tool": Adder({61})}, "triggered by a token id outside"),
    ],
)
def test_a_bad_request_is_refused_by_number(bad: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"request 2: .*{message}"):
        Engine(tiny_model()).generate([GOOD, GOOD, dataclasses.replace(GOOD, **bad)])  # type: ignore[arg-type]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InputError, match="request 0: a stop string is empty"):
        Engine(tiny_model(), decode=toy_decode).generate([Request([1], 4, stop_strings=("a", ""))])


class Answers:
    """A tool that says the same after every token, and counts."""

    triggers = frozenset(range(61))

    def __init__(self, answer: list[int]) -> None:
        self.answer, self.asked = answer, []

    def call(self, tokens: list[int]) -> list[int]:
        self.asked.append(tokens)
        return self.answer


def test_a_tool_answers_after_every_token_drawn_and_none_that_it_forced() -> None:
    tool = Answers([9, 10, 11])
    (completion,) = Engine(tiny_model()).generate([Request([1, 2], 10, tool=tool)])[0]
    assert completion.forced == [False, True, True, True] * 2 + [False, True]
    assert [token for token, forced in zip(completion.tokens, completion.forced, strict=True) if forced] == [
        9, 10, 11, 9, 10, 11, 9,
    ]  # fmt: skip
    assert tool.asked == [completion.tokens[:count] for count in (1, 5, 9)]
    assert [log == 0 for log in completion.log_probabilities] == completion.forced
    # The model read what was forced: a prompt that holds it goes on alike.
    again = Engine(tiny_model()).generate([Request([1, 2, *completion.tokens[:4]], 1)])[0][0]
    assert again.tokens == completion.tokens[4:5]


def test_a_tool_is_not_asked_after_the_last_token_nor_after_a_stop() -> None:
    tool = Answers([])
    free = Engine(tiny_model()).generate([Request([1, 2], 6, tool=tool)])[0][0]
    assert len(free.tokens) == 6
    assert len(tool.asked) == 5
    stop, tool = (free.tokens[3],), Answers([])
    stopped = Engine(tiny_model()).generate([Request([1, 2], 6, stop_tokens=stop, tool=tool)])[0][0]
    assert len(tool.asked) == len(stopped.tokens) == free.tokens.index(stop[0])


def test_an_answer_is_cut_at_the_context() -> None:
    context = tiny_model().settings.context
    (completion,) = Engine(tiny_model()).generate([Request([1] * (context - 4), 99, tool=Answers([5] * 99))])[0]
    assert completion.forced == [False, True, True, True]
    assert completion.finish == "length"


def test_a_tool_that_answers_in_another_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="a tool answered with a token id outside the vocabulary of 61"):
        Engine(tiny_model()).generate([Request([1], 4, tool=Answers([61]))])


def test_after_an_error_the_engine_starts_afresh() -> None:
    engine, requests = Engine(tiny_model(), slots=8), mixed_requests(12, seed=3)
    before = engine.generate(requests)
    with pytest.raises(InputError):
        engine.generate([*requests, Request([1], 4, tool=Answers([61]))])
    assert texts(engine.generate(requests)) == texts(before)


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
    monkeypatch.setattr("pocketlm.generation.engine.CACHE_BYTES", {"cpu": slot_bytes * 5})
    assert engine._default_slots(48) == 5
    monkeypatch.setattr("pocketlm.generation.engine.CACHE_BYTES", {"cpu": 1})
    assert engine._default_slots(48) == 1


def texts(results: list[list[Completion]]) -> list[list[tuple[list[int], str]]]:
    return [[(completion.tokens, completion.finish) for completion in completions] for completions in results]
