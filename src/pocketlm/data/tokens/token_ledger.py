"""The token ledger: by source, what was prepared, what a mixture released, and what training steps consumed.

Everything is counted in whole tokens from the arrays, and the sum over the sources must be the total.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.data.tokens.shards import TokenShard
from pocketlm.errors import CorruptionError, InputError


def sources_of_documents(shard: TokenShard, where: Path) -> np.ndarray:
    """Place in `shard.sources` of every document's source, uint16 [documents]; `where` is named in errors.

    Raises:
        InputError: the artifact was made before sources were recorded.
        CorruptionError: a place points to no source.
    """
    if shard.source_of is None:
        raise InputError(f"{where}: made by an earlier version, without sources of documents. Tokenize again.")
    places = np.array(shard.source_of)
    if len(places) and int(places.max()) >= len(shard.sources):
        raise CorruptionError(
            f"{where}: a document has the source {places.max()}, but tokens.json lists {len(shard.sources)} sources. "
            "Run the stage again."
        )
    return places


def consumed_tokens(offsets: np.ndarray, stream_tokens: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How many tokens of every document training steps read, int64 [documents].

    Args:
        offsets: first token of every document, [documents].
        stream_tokens: length of the stream.
        starts, lengths: stretches of the stream that were read, repeats included, [stretches].
    """
    borders = np.concatenate([offsets, [stream_tokens]])
    return np.diff(_passed(starts, borders) - _passed(starts + lengths, borders))


def _passed(points: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Sum over the points before each border of their distance from it."""
    ordered = np.sort(points)
    sums = np.concatenate([[0], np.cumsum(ordered)])
    before = np.searchsorted(ordered, borders)
    passed: np.ndarray = borders * before - sums[before]
    return passed


def consumed_by_source(
    shard: TokenShard, source_of: np.ndarray, pieces: tuple[np.ndarray, np.ndarray], total: int
) -> list[dict[str, Any]]:
    """Training tokens that steps read, by source: rows for `mixture_figures.consumed_block`.

    Args:
        source_of: from `sources_of_documents`.
        pieces: starts and lengths as in `consumed_tokens`.
        total: tokens that the steps read in all.

    Raises:
        RuntimeError: the tokens by source do not sum to `total`.
    """
    names, places = shard.sources, source_of
    consumed = consumed_tokens(np.asarray(shard.offsets), len(shard.tokens), *pieces)
    lengths = np.diff(shard.offsets, append=len(shard.tokens))
    tokens, held = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    np.add.at(tokens, places, consumed)
    np.add.at(held, places, lengths)
    documents = np.bincount(places[consumed > 0], minlength=len(names))
    require_sum("consumed tokens", {name: int(tokens[at]) for at, name in enumerate(names)}, total)
    return [
        {"source": name, "held": int(held[at]), "documents": int(documents[at]), "tokens": int(tokens[at])}
        for at, name in enumerate(names)
    ]


def require_sum(what: str, by_source: Mapping[str, int], total: int) -> None:
    """RuntimeError unless the parts are the whole: then the ledger is wrong, and nothing may be committed."""
    if sum(by_source.values()) != total:
        raise RuntimeError(f"{what}: the sources sum to {sum(by_source.values()):,}, the total is {total:,}")
