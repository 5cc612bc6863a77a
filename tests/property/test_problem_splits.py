"""Whatever the seed and the sizes: splits are disjoint, complete, symmetric, and a function of their arguments."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.problems.arithmetic import LADDER, deal, problems
from pocketlm.problems.instructions import ALWAYS_TRAINED, FAMILIES, instructions

SEEDS = st.integers(0, 2**63 - 1)


@given(seed=SEEDS, rung=st.sampled_from(LADDER), counts=st.tuples(*[st.integers(1, 18)] * 3))
def test_pairs_are_dealt_once(seed: int, rung, counts: tuple[int, int, int]) -> None:  # type: ignore[no-untyped-def]
    sizes = dict(zip(("solved", "selection", "report"), counts, strict=True))
    dealt = deal(rung, sizes, seed)
    assert {name: len(dealt[name]) for name in sizes} == sizes
    assert sorted(itertools.chain.from_iterable(dealt.values())) == rung.pairs()
    assert deal(rung, sizes, seed) == dealt
    rows = list(problems(rung, dealt["report"], solved=True))
    operands = [tuple(row["operands"]) for row in rows]
    assert len(operands) == len(set(operands)) == 2 * len(dealt["report"]) - sum(a == b for a, b in dealt["report"])
    assert {(min(a, b), max(a, b)) for a, b in operands} == set(dealt["report"])


KEYS = {(family, prompt): key for family, items in FAMILIES.items() for key, prompt, _ in items()}


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, training=st.integers(1, 300), held_out=st.integers(1, 60))
def test_instruction_keys_are_dealt_once(seed: int, training: int, held_out: int) -> None:
    sizes = {"training": training, "selection": held_out, "report": held_out}
    made = instructions(sizes, seed)
    assert instructions(sizes, seed) == made
    keys = {split: {(row["level"], KEYS[row["level"], row["prompt"]]) for row in rows} for split, rows in made.items()}
    for one, other in itertools.combinations(made, 2):
        assert not keys[one] & keys[other]
    for family in FAMILIES:
        assert (family, ALWAYS_TRAINED) not in keys["selection"] | keys["report"]
        for split, rows in made.items():
            assert 0 < sum(row["level"] == family for row in rows) <= sizes[split]
