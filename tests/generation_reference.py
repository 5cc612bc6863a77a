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


def complete_alone(model: Transformer, request: Request, sample: int) -> Completion:
    """What the engine must return, from full forward passes in float64 sums."""
    tokens, log_probabilities = list(request.tokens), []
    new: list[int] = []
    finish = "length"
    while len(new) < request.max_tokens and len(tokens) < model.settings.context:
        logits = model(torch.tensor([tokens]))[0, -1].double()
        probabilities = torch.softmax(logits / (request.temperature or 1.0), 0)
        if request.temperature == 0:
            token = int(logits.argmax())
        else:
            cumulative = probabilities.cumsum(0)
            place = uniform(request.seed, sample, len(new)) * float(cumulative[-1])
            token = min(int((cumulative <= place).sum()), len(logits) - 1)
        log_probabilities.append(float(probabilities[token].log()))
        tokens.append(token)
        if token in request.stop_tokens:
            finish = "stop"
            break
        new.append(token)
    return Completion(new, log_probabilities, finish)  # type: ignore[arg-type]
