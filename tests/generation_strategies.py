"""Requests with every option, for the property tests of the engines."""

from __future__ import annotations

from hypothesis import strategies as st

from pocketlm.generation.requests import Request
from tests.generation_reference import Adder, RuleMaker

TOKENS = st.integers(0, 60)


def requests(rules: tuple[int, ...]) -> st.SearchStrategy[Request]:
    """Requests to the tiny model; `rules` are the kinds of constraints (`Rule`) that some have."""
    return st.builds(
        Request,
        tokens=st.lists(TOKENS, min_size=1, max_size=40),
        max_tokens=st.integers(1, 24),
        temperature=st.sampled_from([0.0, 0.7, 1.0, 1.6]),
        seed=st.integers(0, 2**63 - 1),
        samples=st.integers(1, 3),
        stop_tokens=st.lists(TOKENS, max_size=2).map(tuple),
        top_k=st.sampled_from([0, 0, 1, 4, 30, 100]),
        top_p=st.sampled_from([1.0, 1.0, 0.2, 0.8, 0.99]),
        min_p=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
        stop_strings=st.lists(st.sampled_from(["abba", "bb", "é", "aéb", " b", "babab", "x"]), max_size=2).map(tuple),
        tool=st.none() | st.sets(TOKENS, max_size=12).map(Adder),
        constraint=st.none() | st.none() | st.builds(RuleMaker, st.sampled_from(rules), st.sampled_from([7, 1000])),
        odds=st.sampled_from([None, None, 0, 3]),
    )
