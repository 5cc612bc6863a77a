"""An independent reference for the generation engine: one sequence at a time, no cache, hashing in Python integers."""

from __future__ import annotations

from functools import cache

import torch

from pocketlm.generation.engine import Completion, Request
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


def distribution(logits: torch.Tensor, tokens: list[int], request: Request) -> torch.Tensor:
    """Probabilities [V] in float64, from the papers' definitions, one token at a time."""
    logits = logits.double().clone()
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
    """What the engine must return, from full forward passes in float64 sums."""
    tokens, log_probabilities, forced = list(request.tokens), [], []
    new: list[int] = []
    finish = "length"
    answer: list[int] = []
    while len(new) < request.max_tokens and len(tokens) < model.settings.context:
        forced.append(bool(answer))
        if answer:
            token = answer.pop(0)
            log_probabilities.append(0.0)
        else:
            probabilities = distribution(model(torch.tensor([tokens]))[0, -1], tokens, request)
            if request.temperature == 0:
                token = int(probabilities.argmax())
            else:
                cumulative = probabilities.cumsum(0)
                place = uniform(request.seed, sample, len(new)) * float(cumulative[-1])
                token = min(int((cumulative <= place).sum()), len(probabilities) - 1)
            log_probabilities.append(float(probabilities[token].log()))
        tokens.append(token)
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
            return Completion(new, log_probabilities[: len(new)], "stop", forced[: len(new)], text)
        if request.tool is not None and token in request.tool.triggers and not forced[-1]:
            answer = request.tool.call(new)
    text = toy_decode(new) if request.stop_strings else None
    return Completion(new, log_probabilities, finish, forced, text)  # type: ignore[arg-type]
