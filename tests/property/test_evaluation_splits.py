"""Selection and report splits: a pure function of each item's hash."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.statistics.splits import split_of

HASHES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]


def test_the_split_of_known_hashes_never_changes() -> None:
    """Written down once: whoever changes the rule moves items between choosing and reporting."""
    known = {"": "selection", "a": "selection", "f": "selection", "g": "report", "h": "report"}
    assert {name: split_of(name) for name in known} == known
    assert split_of("b", salt="another") == "report"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_holds(share: float) -> None:
    counts = Counter(split_of(one, share) for one in HASHES)
    error = (share * (1 - share) / len(HASHES)) ** 0.5
    assert counts.total() == len(HASHES)
    assert abs(counts["selection"] / len(HASHES) - share) <= 4 * error


@given(st.text(max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_every_item_is_on_one_side_and_a_larger_share_only_adds(item: str, one: float, other: float) -> None:
    smaller, larger = (split_of(item, share) for share in sorted((one, other)))
    assert {smaller, larger} <= {"selection", "report"}
    assert smaller == "report" or larger == "selection"
    assert split_of(item, 0.0) == "report"
    assert split_of(item, 1.0) == "selection"


def test_another_salt_is_an_independent_split() -> None:
    both = Counter((split_of(one), split_of(one, salt="again")) for one in HASHES)
    assert all(abs(count / len(HASHES) - 0.25) < 0.03 for count in both.values())
    assert len(both) == 4


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        split_of("a", share)
