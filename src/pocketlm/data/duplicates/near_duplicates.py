"""Near-duplicates across all sources and earlier runs: MinHash LSH proposes, the exact Jaccard similarity decides.

Documents that share a band key are candidates; a pair is similar when the Jaccard similarity of its sets of 5-word
shingles, computed exactly from the texts, reaches the threshold. Similar pairs are joined into connected components; in
each the document of lowest rank is kept. Pairs whose documents are connected already are not compared again: that
changes no component, and it is what makes boilerplate affordable. Bands are taken one at a time, so memory is
some numbers per document and not per character.

Not covered: documents with fewer than five words (exact copies of them are found). In a bucket of more than
`BUCKET_REACH` documents that are not yet connected, each is compared with so many that follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pocketlm.data.duplicates.duplicates import Groups, Removals
from pocketlm.data.duplicates.minhash import NO_KEY, SHINGLE_WORDS
from pocketlm.data.engine import Engine
from pocketlm.data.kernels import kernel
from pocketlm.data.shuffle import stable_order
from pocketlm.data.text import ngrams_of, tokens_of
from pocketlm.data.text_store import TextStore
from pocketlm.errors import CorruptionError

BUCKET_REACH = 64
ROUNDS = (1, 4, 16, BUCKET_REACH)
"""After so many neighbours the groups are joined before the next are looked at."""
CHUNK_BYTES = 4_000_000


@dataclass(frozen=True)
class Comparisons:
    """The pairs that were compared exactly, in the order of the search.

    Attributes:
        pairs: int64 [2, pairs], smaller number first. jaccard: float64 [pairs].
    """

    pairs: np.ndarray
    jaccard: np.ndarray


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
    groups, failed = Groups(len(alive)), np.empty(0, np.int64)
    pairs, values = [np.empty((2, 0), np.int64)], [np.empty(0)]
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
            if fresh.any():
                left, right = apart[:, fresh]
                pairs.append(np.stack([left, right]))
                values.append(jaccard_of_pairs(store, sizes, engine, left, right))
                similar = values[-1] >= threshold
                groups.join(left[similar], right[similar])
                failed = np.sort(np.concatenate([failed, code[fresh][~similar]]))
    keeper = groups.keepers(rank)
    removed = np.flatnonzero(keeper != np.arange(len(keeper)))
    similarity = np.ones(len(keeper))
    similarity[removed] = jaccard_of_pairs(store, sizes, engine, removed, keeper[removed])
    return Removals(keeper, similarity), Comparisons(np.concatenate(pairs, axis=1), np.concatenate(values))


def jaccard_of_pairs(
    store: TextStore, sizes: np.ndarray, engine: Engine, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Exact Jaccard similarity of the shingle sets of given pairs, float64 [pairs]."""
    order = np.argsort(np.minimum(left, right), kind="stable")
    ends = np.cumsum(sizes[left[order]] + sizes[right[order]])
    borders = np.searchsorted(ends, np.arange(CHUNK_BYTES, ends.max(initial=0), CHUNK_BYTES))
    parts = [part for part in np.split(order, borders) if len(part)]
    chunks = [np.stack([left[part], right[part]], axis=1) for part in parts]
    result = np.empty(len(left))
    for part, values in zip(parts, engine.map(partial(_similarities, store), chunks), strict=True):
        result[part] = values
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
    shingles = ngrams_of(tokens_of(store.read(documents)), SHINGLE_WORDS)
    sets = _sorted_sets(shingles.hashes, shingles.offsets)
    return np.asarray(_jaccard(*sets, place.reshape(pairs.shape)))


@kernel
def _sorted_sets(hashes, offsets):  # type: ignore[no-untyped-def]
    """Sorted distinct hashes of every document, and their offsets."""
    sets = np.zeros(len(offsets), np.int64)
    distinct = np.empty_like(hashes)
    count = 0
    for document in range(len(offsets) - 1):
        ordered = np.sort(hashes[offsets[document] : offsets[document + 1]])
        for row in range(len(ordered)):
            if row == 0 or ordered[row] != ordered[row - 1]:
                distinct[count] = ordered[row]
                count += 1
        sets[document + 1] = count
    return distinct[:count], sets


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
