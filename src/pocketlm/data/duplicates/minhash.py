"""MinHash signatures and LSH band keys of documents.

The set of a document is its 5-word shingles (Broder 1997). Each of bands x rows hash functions is a 32-bit multiply-add
of the shingle's 64-bit hash, folded to 32 bits; the smallest value over the set is one entry of the signature. Two sets
of Jaccard similarity s agree in an entry with probability s, in all rows of a band with s^rows, and share at least one
band key with 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, chapter 3). Signatures
only propose pairs; what is removed is decided by the exact similarity (`near_duplicates`).
"""

from __future__ import annotations

import numpy as np

from pocketlm.data.kernels import kernel
from pocketlm.data.text import Tokens, mix, ngrams_of

SHINGLE_WORDS = 5
NO_KEY = np.uint64(0)
"""Band key of a document without a shingle (fewer than five words): it is nobody's candidate."""


def band_keys(tokens: Tokens, bands: int, rows: int) -> np.ndarray:
    """LSH band keys of every document, uint64 [bands, documents]; `NO_KEY` where a document has no shingle."""
    shingles = ngrams_of(tokens, SHINGLE_WORDS)
    constants = _constants(2 * bands * rows)
    multipliers, additions = constants[: bands * rows] | np.uint32(1), constants[bands * rows :]
    keys = np.empty((bands, len(shingles.offsets) - 1), np.uint64)
    _band_keys(shingles.hashes, shingles.offsets, multipliers, additions, rows, keys)
    return keys


def candidate_probability(similarity: float, bands: int, rows: int) -> float:
    """Probability that a pair of this Jaccard similarity becomes a candidate."""
    return float(1 - (1 - similarity**rows) ** bands)


def _constants(count: int) -> np.ndarray:
    """Numbers that look random and are the same for ever, uint32 [count] (SplitMix64 of 1, 2, ...): an index must fit
    later runs, and numpy does not promise the streams of its generators between versions."""
    value = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return (value >> np.uint64(32)).astype(np.uint32)


@kernel
def _smallest(values, multiplier, addition):  # type: ignore[no-untyped-def]
    """Minimum of one hash function over a set; a loop of its own, so that it becomes vector instructions."""
    least = np.uint32(0xFFFFFFFF)
    for place in range(len(values)):
        value = np.uint32(np.uint32(values[place] * multiplier) + addition)
        least = min(least, value)
    return least


@kernel
def _band_keys(shingles, offsets, multipliers, additions, rows, keys):  # type: ignore[no-untyped-def]
    longest = 0
    for document in range(len(offsets) - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    folded = np.empty(longest, np.uint32)
    for document in range(len(offsets) - 1):
        first, count = offsets[document], offsets[document + 1] - offsets[document]
        for place in range(count):
            folded[place] = np.uint32(shingles[first + place] >> np.uint64(32))
        for band in range(len(keys)):
            key = np.uint64(band + 1)
            for row in range(band * rows, (band + 1) * rows):
                key = mix(key + np.uint64(_smallest(folded[:count], multipliers[row], additions[row])))
            keys[band, document] = (key | np.uint64(1)) if count else NO_KEY
