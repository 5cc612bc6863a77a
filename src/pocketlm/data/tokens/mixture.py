"""Mixtures of token streams: which documents are released how often, in which order, copied in blocks.

The documents of a component (one share) are drawn epoch by epoch, each epoch in an order of its own, until the tokens
that it was given are reached; the last document may overshoot. The components are merged by how far each has come:
after a part x of the stream every component has released the part x of its tokens, up to one document. So every window
holds the shares, and an epoch of a component ends before its next begins.

Memory is a few numbers per document; tokens pass through one block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pocketlm.data.tokens.mixture_inputs import TokenInput
from pocketlm.data.tokens.mixture_shares import Component
from pocketlm.data.tokens.shards import ArrayFile
from pocketlm.errors import CorruptionError
from pocketlm.pipeline.seeds import generator

BLOCK_TOKENS = 1 << 22
"""Tokens copied at a time: 8 MB of uint16."""


@dataclass(frozen=True)
class Draws:
    """Documents in the order of release, repeats included. All arrays are [draws].

    Attributes:
        stage: uint16, place of the input. document: int64, place in that input's split.
        lengths: int64, tokens with the border.
    """

    stage: np.ndarray
    document: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.document)

    @property
    def starts(self) -> np.ndarray:
        """First token of each in the released stream, int64 [draws]."""
        return np.cumsum(self.lengths) - self.lengths

    @classmethod
    def joined(cls, parts: Sequence[Draws]) -> Draws:
        """One after the other."""
        columns = zip(*((part.stage, part.document, part.lengths) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def take(self, rows: np.ndarray) -> Draws:
        """Some rows, in the given order."""
        return Draws(self.stage[rows], self.document[rows], self.lengths[rows])


def documents_of(component: Component, inputs: Sequence[TokenInput]) -> Draws:
    """The training documents of a component, each once, in order of inputs and documents."""
    parts = []
    for place, item in enumerate(inputs):
        wanted = {member.source for member in component.members if member.stage == item.stage}
        chosen = np.array([name in wanted for name in item.sources])
        rows = np.flatnonzero(chosen[item.source_of("train")])
        parts.append(Draws(np.full(len(rows), place, np.uint16), rows, item.lengths("train")[rows]))
    return Draws.joined(parts)


def draw(pool: Draws, tokens: int, seed: int, purpose: str) -> Draws:
    """Documents of a pool until `tokens` are reached: whole epochs, then a part of one, each shuffled anew."""
    parts: list[Draws] = []
    left = tokens
    while left > 0:
        epoch = pool.take(generator(seed, purpose, len(parts)).permutation(len(pool)))
        reached = np.cumsum(epoch.lengths)
        count = min(int(np.searchsorted(reached, left)) + 1, len(pool))
        parts.append(epoch.take(np.arange(count)))
        left -= int(reached[count - 1])
    return Draws.joined(parts)


def merge(drawn: Sequence[Draws]) -> tuple[Draws, np.ndarray]:
    """One stream in which all components advance alike.

    Returns:
        (draws, component of each, int64 [draws]).
    """
    advance = [(part.starts + part.lengths / 2) / part.lengths.sum() for part in drawn]
    component = np.repeat(np.arange(len(drawn)), [len(part) for part in drawn])
    order = np.lexsort((component, np.concatenate(advance)))
    return Draws.joined(drawn).take(order), component[order]


def mix(
    components: Sequence[Component], given: Sequence[int], inputs: Sequence[TokenInput], seed: int
) -> tuple[Draws, np.ndarray]:
    """The released stream of all components; `given` is the tokens of each. Returns what `merge` does."""
    return merge(
        [
            draw(documents_of(component, inputs), tokens, seed, f"mixture-order.{component.name}")
            for component, tokens in zip(components, given, strict=True)
        ]
    )


def write_split(
    folder: Path, split: str, draws: Draws, inputs: Sequence[TokenInput], source_of: np.ndarray
) -> Iterator[int]:
    """Write the three arrays of a split (tokens, offsets, sources) and yield, block by block, the tokens written.

    `source_of` is the place of each document's source in the released list of sources, uint16 [draws].
    """
    np.save(folder / f"{split}_offsets.npy", draws.starts, allow_pickle=False)
    np.save(folder / f"{split}_sources.npy", source_of, allow_pickle=False)
    written = 0
    with (
        ExitStack() as opened,
        closing(ArrayFile(folder / f"{split}.npy", inputs[0].tokens(split).dtype)) as target,
    ):
        files = [opened.enter_context(open(item.folder / f"{split}.npy", "rb")).fileno() for item in inputs]
        for first, last in blocks(draws.lengths, BLOCK_TOKENS):
            tokens = _read_documents(draws.take(np.arange(first, last)), files, inputs, split)
            target.append(tokens)
            written += len(tokens)
            yield written


def _read_documents(draws: Draws, files: Sequence[int], inputs: Sequence[TokenInput], split: str) -> np.ndarray:
    """The tokens of some documents, joined.

    Read by position, not through a map: the kernel would map a large folio for every document, so that all of the input
    became resident, and it takes as long.
    """
    mapped = [item.tokens(split) for item in inputs]
    tokens = np.empty(int(draws.lengths.sum()), mapped[0].dtype)
    begins = np.empty(len(draws), np.int64)
    for place, item in enumerate(inputs):
        rows = draws.stage == place
        begins[rows] = mapped[place].offset + item.offsets(split)[draws.document[rows]] * tokens.itemsize
    room, found = tokens.data.cast("B"), 0
    borders = (draws.starts * tokens.itemsize).tolist()
    for place, begin, start, stop in zip(
        draws.stage.tolist(), begins.tolist(), borders, [*borders[1:], tokens.nbytes], strict=True
    ):
        found += os.preadv(files[place], [room[start:stop]], begin)
    if found != tokens.nbytes:
        raise CorruptionError(f"a file of {split} tokens became shorter while it was read. Run the stages again.")
    return tokens


def blocks(lengths: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of documents of at most `most` tokens together, or of one document that is longer."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + most, side="right")), first + 1)
        yield first, last
        first = last


def by_source(
    draws: Draws, source_of: np.ndarray, sizes: Sequence[np.ndarray], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """{source: {documents, tokens, bytes}} of a stream; `sizes` are the bytes of every document by input."""
    tokens, text = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    np.add.at(tokens, source_of, draws.lengths)
    for place, size in enumerate(sizes):
        rows = draws.stage == place
        np.add.at(text, source_of[rows], size[draws.document[rows]])
    documents = np.bincount(source_of, minlength=len(names))
    return {
        name: {"documents": int(documents[at]), "tokens": int(tokens[at]), "bytes": int(text[at])}
        for at, name in enumerate(names)
    }
