"""The two halves of a task: items to choose by, and items to report on. Nothing is in both."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["selection", "report"]


def split_of(item_hash: str, share: float = 0.5, salt: str = "pocketlm") -> Split:
    """Which split an item belongs to, by its hash alone.

    A pure function: the split does not depend on the order of items, on which others there are, on the model or on the
    machine. Equal items are on the same side, so that no copy of a report item is chosen by. With a larger share items
    only move from report to selection.

    Args:
        item_hash: of the item's content (`hash` of an evaluation item).
        share: expected share of the selection split, from 0 to 1. The share of a task of n items varies around it by
            sqrt(share * (1 - share) / n).
        salt: another salt is another, independent split.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} is not from 0 to 1")
    digest = hashlib.sha256(f"{salt}\n{item_hash}".encode()).digest()
    return "selection" if int.from_bytes(digest[:8]) < share * 2**64 else "report"
