"""Near-duplicates across all sources and earlier runs: MinHash LSH proposes, the exact Jaccard similarity decides.

Documents that share a band key are candidates; a pair is similar when the Jaccard similarity of its sets of 5-word
shingles, computed exactly from the texts, reaches the threshold. Similar pairs are joined into connected components; in
each the document of lowest rank is kept. Pairs whose documents are connected already are not compared again: that
changes no component, and it is what makes boilerplate affordable. Bands are taken one at a time, so memory is 16 bytes
per document and not per character.

Not covered: documents with fewer than five words (exact copies of them are found). In a bucket of more than
`BUCKET_REACH` documents that are not yet connected, each is compared with so many that follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np

from pocketlm.data.duplicates.duplicates import Groups, Removals
from pocketlm.data.duplicates.minhash import NO_KEY, SHINGLE_WORDS
from pocketlm.data.engine import Engine
from pocketlm.data.kernels import kernel
from pocketlm.data.shuffle import stable_order
from pocketlm.data.text import Ngrams, Tokens, ngrams_of, tokens_of
from pocketlm.data.text_store import TextStore
from pocketlm.errors import CorruptionError

BUCKET_REACH = 64
ROUNDS = (1, 4, 16, BUCKET_REACH)
"""After so many neighbours the groups are joined before the next are looked at."""
CHUNK_BYTES = 4_000_000


@dataclass
class Comparisons:
    """What the search looked at: exactly compared pairs and how many of them were similar, by band order."""

    left: list[np.ndarray] = field(default_factory=list)
    right: list[np.ndarray] = field(default_factory=list)
    similarity: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    """Processor time of this process spent on exact comparison."""

    @property
    def pairs(self) -> np.ndarray:
        """int64 [pairs, 2], smaller number first."""
        none = np.empty(0, np.int64)
        return np.stack([np.concatenate([none, *self.left]), np.concatenate([none, *self.right])], axis=1)

    @property
    def jaccard(self) -> np.ndarray:
        """float64 [pairs]"""
        return np.concatenate([np.empty(0), *self.similarity])


def near_duplicates(
    keys: Sequence[Path],
    alive: np.ndarray,
    rank: np.ndarray,
    sizes: np.ndarray,
    store: TextStore,
    threshold: float,
    engine: Engine,
) -> tuple[Removals, Comparisons]:
    """Groups of similar documents; of each the one of lowest rank stays.

    Args:
        keys: .npy files of uint64 [bands, documents of the part], in the order of the store's parts.
        alive: bool [documents], which still take part. rank: int64 [documents]. sizes: int64 [documents], bytes.
        threshold: least Jaccard similarity of a similar pair.
    """
    groups, seen = Groups(len(alive)), Comparisons()
    failed = np.empty(0, np.int64)
    compare = partial(_compare, store, sizes, engine, seen)
    shapes = [_shape(path) for path in keys]
    for band in range(shapes[0][0] if shapes else 0):
        key = np.concatenate([_band(path, band, *shape) for path, shape in zip(keys, shapes, strict=True)])
        present = np.flatnonzero(alive & (key != NO_KEY))
        order = present[stable_order(key[present])]
        for proposed in _bucket_pairs(key[order], order):
            labels = groups.labels()
            apart = np.sort(proposed[:, labels[proposed[0]] != labels[proposed[1]]], axis=0)
            code = apart[0] * len(alive) + apart[1]
            fresh = ~_contains(failed, code)
            left, right, code = *apart[:, fresh], code[fresh]
            if len(left):
                similar = compare(left, right) >= threshold
                groups.join(left[similar], right[similar])
                failed = np.sort(np.concatenate([failed, code[~similar]]))
    keeper = groups.keepers(rank)
    removed = np.flatnonzero(keeper != np.arange(len(keeper)))
    similarity = np.ones(len(keeper))
    if len(removed):
        similarity[removed] = jaccard_of_pairs(store, sizes, engine, removed, keeper[removed])
    return Removals(keeper, similarity), seen


def jaccard_of_pairs(
    store: TextStore, sizes: np.ndarray, engine: Engine, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Exact Jaccard similarity of the shingle sets of given pairs, float64 [pairs]."""
    order = np.argsort(np.minimum(left, right), kind="stable")
    ends = np.cumsum(sizes[left[order]] + sizes[right[order]])
    parts = np.split(order, np.searchsorted(ends, np.arange(CHUNK_BYTES, ends[-1], CHUNK_BYTES)))
    chunks = [np.stack([left[part], right[part]], axis=1) for part in parts if len(part)]
    result = np.empty(len(left))
    values = list(engine.map(partial(_similarities, store), chunks))
    result[np.concatenate([part for part in parts if len(part)])] = np.concatenate(values)
    return result


def stored_band(path: Path, band: int) -> np.ndarray:
    """One band of a file of band keys, uint64 [documents]."""
    return _band(path, band, *_shape(path))


def _shape(path: Path) -> tuple[int, int, int]:
    """Bands, documents, and where the keys begin; the file is closed again, for there may be thousands."""
    keys = np.load(path, mmap_mode="r", allow_pickle=False)
    if not keys.flags.c_contiguous:
        raise CorruptionError(f"{path}: not stored band by band. Run the curate that made it again.")
    return keys.shape[0], keys.shape[1], keys.offset


def _band(path: Path, band: int, bands: int, documents: int, offset: int) -> np.ndarray:
    return np.fromfile(path, np.uint64, documents, offset=offset + 8 * band * documents)


def _compare(
    store: TextStore, sizes: np.ndarray, engine: Engine, seen: Comparisons, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    start = process_time()
    similarity = jaccard_of_pairs(store, sizes, engine, left, right)
    seen.seconds += process_time() - start
    seen.left.append(np.minimum(left, right))
    seen.right.append(np.maximum(left, right))
    seen.similarity.append(similarity)
    return similarity


def _bucket_pairs(key: np.ndarray, document: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of documents with equal keys, int64 [2, pairs], nearest neighbours first: they connect most of a bucket."""
    place = np.arange(len(key))
    found = []
    for distance in range(1, BUCKET_REACH + 1):
        place = place[: np.searchsorted(place, len(key) - distance)]
        place = place[key[place] == key[place + distance]]
        found.append(np.stack([document[place], document[place + distance]]))
        if not len(place) or distance in ROUNDS:
            yield np.concatenate(found, axis=1)
            found = []
        if not len(place):
            return


def _contains(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which values stand in an ascending array, bool [values]."""
    place = np.searchsorted(ascending, values)
    return place < np.searchsorted(ascending, values, "right")


def _similarities(store: TextStore, pairs: np.ndarray) -> np.ndarray:
    documents, place = np.unique(pairs, return_inverse=True)
    shingles = shingle_sets(tokens_of(store.read(documents)))
    return np.asarray(_jaccard(shingles.hashes, shingles.offsets, place.reshape(pairs.shape)))


def shingle_sets(tokens: Tokens) -> Ngrams:
    """Sorted distinct shingle hashes of every document."""
    shingles = ngrams_of(tokens, SHINGLE_WORDS)
    offsets = np.zeros(len(shingles.offsets), np.int64)
    hashes = _sorted_sets(shingles.hashes, shingles.offsets, offsets)
    return Ngrams(hashes, offsets)


@kernel
def _sorted_sets(hashes, offsets, sets):  # type: ignore[no-untyped-def]
    distinct = np.empty_like(hashes)
    count = 0
    for document in range(len(offsets) - 1):
        ordered = np.sort(hashes[offsets[document] : offsets[document + 1]])
        for row in range(len(ordered)):
            if row == 0 or ordered[row] != ordered[row - 1]:
                distinct[count] = ordered[row]
                count += 1
        sets[document + 1] = count
    return distinct[:count]


@kernel
def _jaccard(shingles, offsets, pairs):  # type: ignore[no-untyped-def]
    result = np.zeros(len(pairs))
    for pair in range(len(pairs)):
        left, left_end = offsets[pairs[pair, 0]], offsets[pairs[pair, 0] + 1]
        right, right_end = offsets[pairs[pair, 1]], offsets[pairs[pair, 1] + 1]
        total, shared = left_end - left + right_end - right, 0
        while left < left_end and right < right_end:
            if shingles[left] == shingles[right]:
                shared += 1
                left += 1
                right += 1
            elif shingles[left] < shingles[right]:
                left += 1
            else:
                right += 1
        result[pair] = shared / max(total - shared, 1)
    return result
