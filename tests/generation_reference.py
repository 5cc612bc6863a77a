"""An independent reference for the generation engine: one sequence at a time, no cache, hashing in Python integers."""

from __future__ import annotations

from functools import cache

import numpy
import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.generation.requests import Completion, Odds, Request
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer

WORD = 2**64


def mix(value: int) -> int:
    """SplitMix64's finaliser, as published."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % WORD
    return value ^ (value >> 31)


def uniform(seed: int, sample: int, position: int) -> float:
    golden = 0x9E3779B97F4A7C15
    key = mix((mix(seed) + sample * golden) % WORD)
    return (mix((key + (position + 1) * golden) % WORD) >> 40) / 2**24


@cache
def tiny_model(layout: str = "llama", vocabulary: int = 61, context: int = 48) -> Transformer:
    torch.set_num_threads(1)
    settings = ModelSettings(
        layout=layout, vocabulary=vocabulary, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_width=48,
        context=context, tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(settings)
    model.init_weights(3)
    with torch.no_grad():  # distributions with some shape to them, so that positions and caches matter
        model.embedding.weight.mul_(10)
        model.head_weight_VD.mul_(15)
    return model.requires_grad_(False)


PIECES = [b"a", b"b", b"ab", b"ba", b"", b"\xc3", b"\xa9", b"a\xc3\xa9b", b" ", b" b"]


def toy_decode(tokens: list[int]) -> str:
    """Text of few letters, so that stop strings occur: over token borders, inside tokens, beside split characters."""
    return b"".join(PIECES[token % len(PIECES)] for token in tokens).decode(errors="replace")


class Adder:
    """A tool that answers with as many tokens as it has digits to say: counts of what came before."""

    def __init__(self, triggers: set[int], vocabulary: int = 61) -> None:
        self.triggers, self._vocabulary = frozenset(triggers), vocabulary

    def call(self, tokens: list[int]) -> list[int]:
        assert tokens[-1] in self.triggers
        return [(sum(tokens) + 7 * place) % self._vocabulary for place in range(sum(tokens) % 5)]


class Rule:
    """A constraint whose next tokens follow from the sum of those before.

    Args:
        kind: 0 to 4; kinds differ in what they allow. Kind 3 sometimes cannot say, kind 4 sometimes allows nothing.
        end: the text is complete when the sum is a multiple of it.
    """

    def __init__(self, kind: int, end: int, vocabulary: int = 61) -> None:
        self._kind, self._end, self._vocabulary = kind, end, vocabulary
        self._total = 0

    def members(self) -> list[int]:
        if self._kind == 3 and self._total % 7 == 3:
            raise InputError("rule: it cannot say")
        if self._kind == 4 and self._total % 7 == 3:
            return []
        return [token for token in range(self._vocabulary) if (5 * token + self._kind * self._total) % 4 == 0]

    def allowed(self) -> numpy.ndarray:
        number = sum(1 << token for token in self.members())
        return numpy.frombuffer(number.to_bytes(-(-self._vocabulary // 32) * 4, "little"), dtype="<i4")

    def accept(self, token: int) -> bool:
        if token not in self.members():
            raise InputError(f"rule: {token} does not fit")
        self._total += token + 1
        return self._total % self._end == 0


class RuleMaker:
    """Makes the rules of a request; a hypothesis strategy can print it."""

    def __init__(self, kind: int, end: int) -> None:
        self.kind, self.end = kind, end

    def __call__(self) -> Rule:
        return Rule(self.kind, self.end)

    def __repr__(self) -> str:
        return f"RuleMaker({self.kind}, {self.end})"


def distribution(
    logits: torch.Tensor, tokens: list[int], request: Request, members: list[int] | None = None
) -> torch.Tensor:
    """Probabilities [V] in float64, from the papers' definitions, one token at a time."""
    logits = logits.double().clone()
    if members is not None:
        logits[[token for token in range(len(logits)) if token not in members]] = -torch.inf
    for token in set(tokens):
        penalty = request.repetition_penalty
        logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
    if request.temperature == 0:
        return torch.softmax(logits, 0)
    logits /= request.temperature
    if request.top_k:
        logits[logits < sorted(logits.tolist(), reverse=True)[: request.top_k][-1]] = -torch.inf
    if request.top_p < 1:
        mass = 0.0
        for token in torch.softmax(logits, 0).argsort(descending=True).tolist():
            probability = float(torch.softmax(logits, 0)[token])
            if mass >= request.top_p:
                break
            mass += probability
            last = logits[token].clone()
        logits[logits < last] = -torch.inf
    probabilities = torch.softmax(logits, 0)
    probabilities[probabilities < request.min_p * probabilities.max()] = 0
    return probabilities / probabilities.sum()


def complete_alone(model: Transformer, request: Request, sample: int) -> Completion:
    """What the engine must return, from full forward passes in float64 sums.

    Raises:
        InputError: of the constraint, where it breaks.
    """
    tokens, log_probabilities, forced = list(request.tokens), [], []
    constraint = None if request.constraint is None else request.constraint()
    odds: list[Odds] | None = None if request.odds is None else []
    new: list[int] = []
    finish = "length"
    answer: list[int] = []
    while len(new) < request.max_tokens and len(tokens) < model.settings.context:
        forced.append(bool(answer))
        members = None if constraint is None else constraint.members()  # type: ignore[attr-defined]
        if members == []:
            raise InputError("generation: the constraint allows no token to follow.")
        logits = model(torch.tensor([tokens]))[0, -1]
        if answer:
            token = answer.pop(0)
            log_probabilities.append(0.0)
        else:
            probabilities = distribution(logits, tokens, request, members)
            if request.temperature == 0:
                token = int(probabilities.argmax())
            else:
                cumulative = probabilities.cumsum(0)
                place = uniform(request.seed, sample, len(new)) * float(cumulative[-1])
                token = min(int((cumulative <= place).sum()), len(probabilities) - 1)
            log_probabilities.append(float(probabilities[token].log()))
        tokens.append(token)
        if odds is not None:
            logs = torch.log_softmax(logits.double(), 0)
            ranked = sorted(enumerate(logs.tolist()), key=lambda one: -one[1])
            odds.append(Odds(float(logs[token]), tuple(ranked[: request.odds])))
        if token in request.stop_tokens:
            finish = "stop"
            break
        new.append(token)
        text = toy_decode(new)
        starts = [text.find(stop) for stop in request.stop_strings if stop in text]
        if starts:
            text = text[: min(starts)]
            while not text.startswith(toy_decode(new)):
                new.pop()
            odds = None if odds is None else odds[: len(new)]
            return Completion(new, log_probabilities[: len(new)], "stop", forced[: len(new)], text, odds)
        if constraint is not None and constraint.accept(token):
            finish = "stop"
            break
        if request.tool is not None and token in request.tool.triggers and not forced[-1]:
            answer = request.tool.call(new)
    text = toy_decode(new) if request.stop_strings else None
    return Completion(new, log_probabilities, finish, forced, text, odds)  # type: ignore[arg-type]


def assert_same(found: Completion, expected: Completion) -> None:
    """Equal but for rounding."""
    assert (found.tokens, found.finish, found.forced, found.text) == (
        expected.tokens,
        expected.finish,
        expected.forced,
        expected.text,
    )
    assert found.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)
    assert (found.odds is None) == (expected.odds is None)
    for one, other in zip(found.odds or (), expected.odds or (), strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert [token for token, _ in one.likeliest] == [token for token, _ in other.likeliest]
        assert [log for _, log in one.likeliest] == pytest.approx([log for _, log in other.likeliest], abs=1e-4)
