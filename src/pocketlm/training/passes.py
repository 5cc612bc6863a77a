"""Which rows go through the model together: rows of about one length, and not more tokens than memory takes."""

from collections.abc import Iterator, Sequence

import torch

LENGTH_STEP = 64
TOKENS_PER_PASS = {"cpu": 2048, "cuda": 65_536}
"""Rows times padded length; a row that is longer goes alone. Memory, not meaning."""


def tokens_per_pass(device: torch.device) -> int:
    """Of the device's kind; what is not known is taken for a CPU."""
    return TOKENS_PER_PASS.get(device.type, TOKENS_PER_PASS["cpu"])


def passes(lengths: Sequence[int], context: int, tokens: int) -> Iterator[tuple[int, list[int]]]:
    """(padded length, which of the given rows) of every pass. Lengths are padded to multiples of `LENGTH_STEP`.

    Products of another shape may round differently: what a row gives depends, in rounding, on the rows beside it.

    Args:
        lengths: of the rows, each at most `context`.
        tokens: of one pass.
    """
    classes: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        classes.setdefault(min(-(-length // LENGTH_STEP) * LENGTH_STEP, context), []).append(index)
    # Longest first: running out of memory shows at once.
    for padded in sorted(classes, reverse=True):
        rows = max(1, tokens // padded)
        for start in range(0, len(classes[padded]), rows):
            yield padded, classes[padded][start : start + rows]
