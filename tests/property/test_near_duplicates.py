"""Duplicate search against brute force written from the same sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketlm.data.duplicates.duplicates import Groups, Removals, content_hashes, exact_duplicates
from pocketlm.data.duplicates.minhash import NO_KEY, band_keys, candidate_probability
from pocketlm.data.duplicates.near_duplicates import Comparisons, near_duplicates
from pocketlm.data.engine import open_engine
from pocketlm.data.scratch import write_text
from pocketlm.data.text import Text, tokens_of
from pocketlm.data.text_store import ParquetUnit, SpilledUnit, TextPart, TextStore
from pocketlm.pipeline.settings import Runtime
from tests.data_pipeline import prose


def text_of(texts: Sequence[str]) -> Text:
    return Text.from_arrow(pa.array(list(texts), pa.large_string()))


def search(
    folder: Path,
    texts: list[str],
    threshold: float = 0.75,
    bands: int = 64,
    rows: int = 2,
    units: int = 1,
    threads: int = 1,
    rank: Sequence[int] | None = None,
    alive: Sequence[bool] | None = None,
) -> tuple[Removals, Comparisons]:
    """Spill the texts in some units, the last of them as Parquet, and search."""
    borders = np.linspace(0, len(texts), units + 1).astype(int)
    parts: list[TextPart] = []
    keys = []
    for unit, (first, last) in enumerate(pairwise(borders.tolist())):
        part = text_of(texts[first:last])
        if unit == units - 1 and units > 1:
            pq.write_table(pa.table({"text": pa.array(texts[first:last], pa.large_string())}), folder / "last.parquet")
            parts.append(ParquetUnit(folder / "last.parquet", 0, len(part)))
        else:
            write_text(folder / f"{unit}.text", part)
            parts.append(SpilledUnit(folder / f"{unit}.text", len(part)))
        np.save(folder / f"{unit}.npy", band_keys(tokens_of(part), bands, rows))
        keys.append(folder / f"{unit}.npy")
    with open_engine(Runtime(threads=threads)) as engine:
        return near_duplicates(
            keys,
            np.ones(len(texts), bool) if alive is None else np.array(alive),
            np.arange(len(texts)) if rank is None else np.array(rank),
            np.array([len(text.encode()) for text in texts]),
            TextStore(parts),
            threshold,
            engine,
        )


def words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def jaccard(left: str, right: str) -> float:
    sets = [{tuple(found[at : at + 5]) for at in range(len(found) - 4)} for found in map(words, (left, right))]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def edited(text: str, every: int) -> str:
    return " ".join(f"x{at}" if at % every == every - 1 else word for at, word in enumerate(text.split()))


@pytest.mark.parametrize("threshold", [0.3, 0.75, 0.95])
@pytest.mark.parametrize(("units", "threads"), [(1, 1), (3, 2), (24, 2)])
def test_groups_equal_brute_force(threshold: float, units: int, threads: int, tmp_path: Path) -> None:
    originals = [prose(seed) for seed in range(12)]
    texts = originals + [edited(text, every) for text, every in zip(originals, [12, 25, 50, 100] * 3, strict=True)]
    removals, seen = search(tmp_path, texts, threshold, units=units, threads=threads)
    exact = {(a, b): jaccard(texts[a], texts[b]) for a in range(len(texts)) for b in range(a + 1, len(texts))}
    for (left, right), value in zip(seen.pairs.T.tolist(), seen.jaccard.tolist(), strict=True):
        assert value == pytest.approx(exact[left, right], abs=1e-12)
    expected = list(range(len(texts)))
    for (left, right), value in sorted(exact.items()):
        if value >= threshold:
            expected[right] = min(expected[right], expected[left])
    assert removals.keeper.tolist() == expected
    assert removals.kept.sum() < len(texts) or threshold > 0.9
    for removed in np.flatnonzero(~removals.kept).tolist():
        assert removals.similarity[removed] == pytest.approx(exact[expected[removed], removed], abs=1e-12)


def test_a_chain_is_one_group_and_its_lowest_rank_stays(tmp_path: Path) -> None:
    chain = [prose(1)]
    for step in range(3):
        chain.append(" ".join(f"y{step}" if at % 60 == 20 * step else w for at, w in enumerate(chain[-1].split())))
    assert jaccard(chain[0], chain[3]) < 0.8 < jaccard(chain[0], chain[1])
    removals, _ = search(tmp_path, chain, threshold=0.8, rank=[3, 2, 0, 1])
    assert removals.keeper.tolist() == [2, 2, 2, 2]
    dead, _ = search(tmp_path, chain, threshold=0.8, alive=[True, False, False, True])
    assert dead.keeper.tolist() == [0, 1, 2, 3]


def test_a_thousand_copies_are_compared_about_once_each(tmp_path: Path) -> None:
    text = prose(3)
    removals, seen = search(tmp_path, [f"{text} end{at}" for at in range(1000)], bands=25, rows=5)
    assert set(removals.keeper.tolist()) == {0}
    assert len(seen.jaccard) < 2000


def test_documents_without_shingles_are_nobodys_near_duplicates(tmp_path: Path) -> None:
    texts = ["", "", "one two", "one two", "a b c d e", "a b c d e"]
    assert (band_keys(tokens_of(text_of(texts)), 25, 5)[:, :4] == NO_KEY).all()
    removals, _ = search(tmp_path, texts, bands=25, rows=5)
    assert removals.keeper.tolist() == [0, 1, 2, 3, 4, 4]


def test_pairs_become_candidates_as_often_as_theory_says() -> None:
    originals = [prose(seed) for seed in range(300)]
    for every in (6, 12, 20):
        copies = [edited(text, every) for text in originals]
        keys = band_keys(tokens_of(text_of([*originals, *copies])), 10, 4)
        found = float((keys[:, :300] == keys[:, 300:]).any(axis=0).mean())
        expected = [candidate_probability(jaccard(*pair), 10, 4) for pair in zip(originals, copies, strict=True)]
        error = (sum(value * (1 - value) for value in expected)) ** 0.5 / 300
        assert abs(found - np.mean(expected)) < 4 * error + 0.01


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), st.permutations(range(20)))
def test_groups_are_connected_components(pairs: list[tuple[int, int]], rank: list[int]) -> None:
    groups = Groups(20)
    component = {document: {document} for document in range(20)}
    for left, right in pairs:
        groups.join(np.array([left]), np.array([right]))
        whole = component[left] | component[right]
        for document in whole:
            component[document] = whole
    assert groups.labels().tolist() == [min(component[document]) for document in range(20)]
    expected = [min(component[document], key=lambda other: rank[other]) for document in range(20)]
    assert groups.keepers(np.array(rank)).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["", "a", "b", "a ", "\0", "é"]), max_size=12), st.randoms())
def test_of_equal_texts_the_lowest_rank_stays(texts: list[str], random) -> None:  # type: ignore[no-untyped-def]
    rank = random.sample(range(len(texts)), len(texts))
    removals = exact_duplicates(content_hashes(text_of(texts)), np.array(rank, np.int64))
    expected = [
        min((other for other in range(len(texts)) if texts[other] == text), key=lambda other: rank[other])
        for text in texts
    ]
    assert removals.keeper.tolist() == expected
