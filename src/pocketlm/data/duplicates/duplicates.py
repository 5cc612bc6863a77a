"""Exact duplicates, and what exact and near-duplicates have in common: groups of documents of which one is kept."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from pocketlm.data.kernels import kernel
from pocketlm.data.text import Text


@dataclass(frozen=True)
class Removals:
    """For every document its keeper (its own number: it stays) and its similarity to that keeper.

    Attributes:
        keeper: int64 [documents]. similarity: float64 [documents], 1 where it stays.
    """

    keeper: np.ndarray
    similarity: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """bool [documents]"""
        return self.keeper == np.arange(len(self.keeper))


def content_hashes(text: Text) -> np.ndarray:
    """128-bit BLAKE2b of every document, uint64 [documents, 2]."""
    view = text.data.data
    digests = b"".join(
        blake2b(view[first:last], digest_size=16).digest()
        for first, last in zip(text.offsets[:-1].tolist(), text.offsets[1:].tolist(), strict=True)
    )
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def exact_duplicates(hashes: np.ndarray, rank: np.ndarray) -> Removals:
    """Documents with equal bytes; of each group the one of lowest rank stays.

    Args:
        hashes: uint64 [documents, 2] from `content_hashes`. rank: int64 [documents], all different.
    """
    order = np.lexsort((rank, hashes[:, 1], hashes[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    keeper = np.empty(len(order), np.int64)
    keeper[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return Removals(keeper, np.ones(len(order)))


class Groups:
    """Disjoint groups of documents that grow by joining pairs (union-find, path halving)."""

    def __init__(self, documents: int) -> None:
        self._parent = np.arange(documents)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Put the documents of each pair into one group."""
        _join(self._parent, left, right)

    def labels(self) -> np.ndarray:
        """A number for each document's group, int64 [documents]: the smallest document in it."""
        return _roots(self._parent)

    def keepers(self, rank: np.ndarray) -> np.ndarray:
        """For each document the one of lowest rank in its group, int64 [documents]."""
        labels = self.labels()
        keeper_of = np.full(len(labels), -1, np.int64)
        order = np.argsort(-rank, kind="stable")
        keeper_of[labels[order]] = order  # of several assignments the last one stands: the lowest rank
        return keeper_of[labels]


@kernel
def _find(parent, document):  # type: ignore[no-untyped-def]
    while parent[document] != document:
        parent[document] = parent[parent[document]]
        document = parent[document]
    return document


@kernel
def _join(parent, left, right):  # type: ignore[no-untyped-def]
    for pair in range(len(left)):
        one, other = _find(parent, left[pair]), _find(parent, right[pair])
        if one != other:
            parent[max(one, other)] = min(one, other)


@kernel
def _roots(parent):  # type: ignore[no-untyped-def]
    roots = np.empty_like(parent)
    for document in range(len(parent)):
        roots[document] = _find(parent, document)
    return roots
