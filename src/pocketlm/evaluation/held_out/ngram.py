"""Byte n-gram language models, the honest baselines beside a neural model's bits per byte.

Interpolated modified Kneser-Ney (Chen & Goodman 1998, equations 27-29) over bytes: order k gives

    p_k(w | h) = (c_k(h w) - D_k(c_k(h w))) / c_k(h .) + backoff_k(h) * p_(k-1)(w | h without its first byte)

with raw counts at the highest order and, below it, the number of distinct bytes seen before the k-gram; order 0 is
uniform over 256 bytes. Discounts come in closed form from the counts of counts. Fitting and scoring are a few sorts and
binary searches over packed k-grams; nothing is tuned on the text that is scored.

Grams never reach across the borders of segments, and the first bytes of a document are predicted with the lower orders.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.errors import InputError

LARGEST_ORDER = 7  # bytes of a gram and of its left neighbour fit a 64-bit integer


@dataclass(frozen=True)
class Order:
    """Counts of one order: packed k-grams and packed contexts (k - 1 bytes), both sorted, with what scoring needs."""

    grams: np.ndarray  # uint64 [grams]
    discounted: np.ndarray  # float64 [grams], count minus its discount
    contexts: np.ndarray  # uint64 [contexts]
    totals: np.ndarray  # float64 [contexts], sum of counts
    backoff: np.ndarray  # float64 [contexts], mass left for the lower order


class ByteNgram:
    """An n-gram model over bytes; `orders[k - 1]` holds the k-grams."""

    def __init__(self, orders: Sequence[Order]):
        self.orders = orders

    @classmethod
    def fit(cls, segments: Iterable[bytes], order: int) -> "ByteNgram":
        """Count `segments`, each a stretch of text without a gap."""
        if not 1 <= order <= LARGEST_ORDER:
            raise InputError(f"a byte n-gram of order {order} is not supported; choose 1 to {LARGEST_ORDER}")
        arrays = [np.frombuffer(segment, np.uint8) for segment in segments if segment]
        if not arrays:
            raise InputError("there is no text to count n-grams in")
        grams, counts = np.unique(np.concatenate([_grams(array, order) for array in arrays]), return_counts=True)
        orders = [_order(grams, counts, order)]
        for length in range(order - 1, 0, -1):
            # Distinct (k+1)-grams, their first byte dropped: one entry for every byte seen before a k-gram.
            grams_below, continuations = np.unique(orders[0].grams & _mask(length), return_counts=True)
            orders.insert(0, _order(grams_below, continuations, length))
        return cls(orders)

    def log2_probabilities(self, document: bytes) -> np.ndarray:
        """log2 p(byte | bytes before it in the document), float64 [bytes]."""
        text = np.frombuffer(document, np.uint8)
        probability = np.full(len(text), 1 / 256)
        for length, order in enumerate(self.orders, start=1):
            if len(text) < length:
                break
            grams = _grams(text, length)
            found, seen = _find(order.contexts, grams >> np.uint64(8))
            lower = probability[length - 1 :]
            place, known = _find(order.grams, grams)
            direct = np.where(known, order.discounted[place], 0.0) / order.totals[found]
            probability[length - 1 :] = np.where(seen, direct + order.backoff[found] * lower, lower)
        return np.log2(probability)

    def bits(self, documents: Iterable[bytes]) -> np.ndarray:
        """Bits of every document, float64 [documents]."""
        return np.array([-self.log2_probabilities(document).sum() for document in documents])


def _order(grams: np.ndarray, counts: np.ndarray, length: int) -> Order:
    contexts, starts = np.unique(grams >> np.uint64(8), return_index=True)
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    totals = np.add.reduceat(counts, starts).astype(np.float64)
    backoff = np.add.reduceat(discounts, starts) / totals
    return Order(grams, counts - discounts, contexts, totals, backoff)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Discounts of counts 0, 1, 2 and 3 or more (Chen & Goodman, equation 26); 0.5 n where counts are too few."""
    ones, twos, threes, fours = (int((counts == value).sum()) for value in (1, 2, 3, 4))
    if min(ones, twos, threes, fours) == 0:
        return np.array([0.0, 0.5, 1.0, 1.5])
    share = ones / (ones + 2 * twos)
    raw = [1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes]
    # Every count keeps something and gives something, however odd the counts of counts: an unseen byte stays possible.
    return np.array(
        [0.0, *(float(np.clip(value, 0.05, limit)) for value, limit in zip(raw, (0.95, 1.95, 2.95), strict=True))]
    )


def _grams(text: np.ndarray, length: int) -> np.ndarray:
    """Packed k-grams of a text, uint64 [bytes - length + 1]; the first byte is the most significant."""
    if len(text) < length:
        return np.empty(0, np.uint64)
    packed = np.zeros(len(text) - length + 1, np.uint64)
    for offset in range(length):
        packed = (packed << np.uint64(8)) | text[offset : len(text) - length + 1 + offset]
    return packed


def _mask(length: int) -> np.uint64:
    return np.uint64((1 << (8 * length)) - 1)


def _find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of keys in a sorted table, and whether each is really there."""
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return place, table[place] == keys
