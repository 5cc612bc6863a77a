"""Exact and near-duplicate documents.

Near-duplicates (Broder 1997; Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, chapter 3): the set of 5-word
shingles of a document, MinHash signatures, LSH banding, then the *exact* Jaccard similarity of every candidate pair, so
banding decides only what is looked at, never what is removed. A pair of similarity s becomes a candidate with
probability 1 - (1 - s^rows)^bands: for the default 25 x 5 that is .55 at s = .5, .99 at .7, .9999 at .8.

Pairs at or above the threshold are joined into connected components; the keeper of a component is its first document
in the given order (source priority, then id), and every removed document names it.

Not covered: documents with fewer than five words have no shingle and are nobody's near-duplicate (exact copies are).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numba
import numpy as np

from pocketlm.data.text import BASE, Ngrams, Text, Tokens, concatenate, ngrams_of

SHINGLE_WORDS = 5
BUCKET_REACH = 64
"""In a bucket each document is compared with so many that follow it; larger buckets stay connected by their chain."""


@dataclass(frozen=True)
class Removals:
    """For every document the index of its keeper (its own index: it stays) and the similarity that tied it there."""

    keeper: np.ndarray
    similarity: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """bool [documents]"""
        return self.keeper == np.arange(len(self.keeper))


@dataclass(frozen=True)
class NearDuplicates:
    """`pairs` int64 [candidates, 2] (smaller index first) with their exact `jaccard`; `removals` follow from them."""

    pairs: np.ndarray
    jaccard: np.ndarray
    removals: Removals


def exact_duplicates(text: Text) -> Removals:
    """Documents with equal bytes (128-bit BLAKE2b); the first of each stays."""
    view = text.data.data
    first: dict[bytes, int] = {}
    keeper = np.empty(len(text), np.int64)
    for document in range(len(text)):
        digest = blake2b(view[text.offsets[document] : text.offsets[document + 1]], digest_size=16).digest()
        keeper[document] = first.setdefault(digest, document)
    return Removals(keeper, np.ones(len(text)))


def near_duplicates(tokens: Tokens, threshold: float, bands: int, rows: int) -> NearDuplicates:
    """Connected groups by Jaccard similarity >= `threshold` of 5-word shingles; the first document of each stays."""
    shingles = unique_shingles(tokens)
    pairs = candidate_pairs(signatures(shingles, bands * rows), bands)
    jaccard = _jaccard(shingles.hashes, shingles.offsets, pairs)
    return NearDuplicates(pairs, jaccard, _components(len(tokens.offsets) - 1, pairs, jaccard, threshold))


def unique_shingles(tokens: Tokens) -> Ngrams:
    """Sorted distinct shingle hashes of every document."""
    shingles = ngrams_of(tokens, SHINGLE_WORDS)
    parts = [np.unique(shingles.hashes[a:b]) for a, b in zip(shingles.offsets[:-1], shingles.offsets[1:], strict=True)]
    offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    return Ngrams(concatenate(parts, np.uint64), offsets)


def signatures(shingles: Ngrams, hashes: int) -> np.ndarray:
    """MinHash signatures, uint64 [documents, hashes]; the hash functions are multiply-add with fixed multipliers."""
    stream = np.random.Generator(np.random.PCG64(20260622))
    multipliers = stream.integers(0, 2**64, hashes, np.uint64) | np.uint64(1)
    additions = stream.integers(0, 2**64, hashes, np.uint64)
    return _minima(shingles.hashes, shingles.offsets, multipliers, additions)


def candidate_pairs(signature: np.ndarray, bands: int) -> np.ndarray:
    """Pairs of documents that agree in all rows of at least one band, int64 [pairs, 2], sorted, smaller index first."""
    documents, hashes = signature.shape
    present = np.flatnonzero(signature.min(axis=1) != np.iinfo(np.uint64).max) if documents else np.empty(0, np.int64)
    found = []
    for band in range(bands):
        rows = signature[present, band * hashes // bands : (band + 1) * hashes // bands]
        key = np.zeros(len(present), np.uint64)
        for column in rows.T:
            key = (key ^ column) * BASE
        order = np.argsort(key, kind="stable")
        for distance in range(1, BUCKET_REACH + 1):
            equal = np.flatnonzero(key[order[distance:]] == key[order[:-distance]])
            if not len(equal):
                break
            found.append(np.stack([present[order[equal]], present[order[equal + distance]]], axis=1))
    pairs = concatenate(found, np.int64).reshape(-1, 2)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _components(documents: int, pairs: np.ndarray, jaccard: np.ndarray, threshold: float) -> Removals:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    similar = jaccard >= threshold
    left, right = pairs[similar].T
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(documents, documents))
    _, label = connected_components(graph, directed=False)
    first = np.full(documents, documents, np.int64)
    np.minimum.at(first, label, np.arange(documents))
    similarity = np.zeros(documents)
    np.maximum.at(similarity, left, jaccard[similar])
    np.maximum.at(similarity, right, jaccard[similar])
    return Removals(first[label], similarity)


@numba.njit(nogil=True)
def _minima(shingles, offsets, multipliers, additions):  # type: ignore[no-untyped-def]
    minima = np.full((len(offsets) - 1, len(multipliers)), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64)
    for document in range(len(offsets) - 1):
        row = minima[document]
        for at in range(offsets[document], offsets[document + 1]):
            for place in range(len(multipliers)):
                value = shingles[at] * multipliers[place] + additions[place]
                value ^= value >> np.uint64(32)
                row[place] = min(row[place], value)
    return minima


@numba.njit(nogil=True)
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
        result[pair] = shared / (total - shared)
    return result
