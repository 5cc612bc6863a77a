"""Sampled continuations of held-out openings: a look at how a base model writes, chosen by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.generation.engine import Engine, Request
from pocketlm.pipeline.figures import Block, samples
from pocketlm.pipeline.storage import sha256_text

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

OPENING_WORDS = 12
TEMPERATURE = 0.8


def continuation_samples(
    name: str,
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Sequence[Mapping[str, Any]],
    count: int,
    tokens: int,
    seed: int,
) -> Block:
    """The first words of the first `count` documents in hash order, continued at temperature 0.8."""
    ranked = sorted(documents, key=lambda row: sha256_text(row["text"]))[:count]
    openings = [" ".join(row["text"].split()[:OPENING_WORDS]) for row in ranked]
    room = model.settings.context - tokens
    requests = [
        Request(
            [tokenizer.end_of_text, *tokenizer.encode(text)][:room],
            tokens,
            temperature=TEMPERATURE,
            seed=seed,
            stop_tokens=(tokenizer.end_of_text,),
        )
        for text in openings
    ]
    completions = Engine(model).generate(requests)
    items = [
        {"label": text, "text": tokenizer.decode(completion.tokens)}
        for text, (completion,) in zip(openings, completions, strict=True)
    ]
    note = (
        f"The first {OPENING_WORDS} words of held-out documents, the first {count} by hash, continued by {name} at "
        f"temperature {TEMPERATURE}."
    )
    return samples(f"Continuations by {name}", items, note)
