"""Mixtures against what they promise, document by document; the ledger against every batch, in plain Python."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from pocketlm.data.tokens import mixture
from pocketlm.data.tokens.mixture_release import Release
from pocketlm.data.tokens.mixture_shares import SourceOfStage, allocate, resolve
from pocketlm.data.tokens.shards import TokenShard
from pocketlm.data.tokens.token_ledger import consumed_by_source, consumed_tokens, sources_of_documents
from pocketlm.errors import InputError
from pocketlm.training.batches import PretrainBatches
from tests.token_folders import held_out, read_documents, write_tokens

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def numbered(source: str, lengths: list[int], first: int) -> list[tuple[str, list[int]]]:
    """Documents that differ from all others: each begins with a number of its own."""
    return [(source, [first + at, *[3 + at % 7] * (length - 1)]) for at, length in enumerate(lengths)]


@settings(max_examples=60, deadline=None)
@given(
    first=LENGTHS,
    second=LENGTHS,
    third=LENGTHS,
    weights=st.tuples(*[st.integers(1, 9)] * 3),
    tokens=st.integers(3, 400),
    cap=st.integers(1, 5),
    seed=st.integers(0, 5),
    block=st.integers(1, 200),
)
def test_a_mixture_keeps_every_promise(
    first: list[int], second: list[int], third: list[int], weights: tuple[int, ...], tokens: int, cap: int, seed: int,
    block: int,
) -> None:  # fmt: skip
    pools = {
        "old/web": numbered("web", first, 100), "new/web": numbered("web", second, 150),
        "new/books": numbered("books", third, 200),
    }  # fmt: skip
    # in hundredths, so that the sum is one; the last takes what is left
    parts = [weight * 100 // (sum(weights) + 1) or 1 for weight in weights[:2]]
    shares = {"old/web": parts[0] / 100, "new/web": parts[1] / 100, "books": (100 - sum(parts)) / 100}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "BLOCK_TOKENS", block)
        folder = Path(name)
        write_tokens(folder / "old", {"train": pools["old/web"], **held_out(1)})
        write_tokens(folder / "new", {"train": [*pools["new/web"], *pools["new/books"]], **held_out(2)})
        arguments = ({"old": folder / "old", "new": folder / "new"}, shares, tokens, cap, {}, "redistribute", seed)
        try:
            release = Release.plan(*arguments)
        except InputError as error:
            if "leaves no token" not in str(error) and "all sources together" not in str(error):
                raise
            reject()
        (folder / "out").mkdir()
        written = list(release.write(folder / "out"))
        assert written == sorted(written)
        (folder / "out" / "tokens.json").write_text(json.dumps(release.summary()))
        stream = read_documents(folder / "out")

    rows = {row["name"]: row for row in release.components}
    rows["new/books"] = rows.pop("books")
    assert sum(row["given"] for row in rows.values()) == tokens
    total = sum(len(ids) + 1 for _, ids in stream)
    assert total == sum(row["released"] for row in rows.values())
    so_far, sizes = Counter[str](), {source: max(len(ids) + 1 for _, ids in pool) for source, pool in pools.items()}
    for source, ids in stream:
        so_far[source] += len(ids) + 1
        at = sum(so_far.values())
        for other, row in rows.items():
            share = row["released"] / total
            assert abs(so_far[other] - at * share) <= sizes[other] / 2 + share * sum(sizes.values()) / 2 + 1e-6
    for source, pool in pools.items():
        drawn = [ids for name, ids in stream if name == source]
        known = sorted(ids for _, ids in pool)
        for start in range(0, len(drawn), len(pool)):
            epoch = drawn[start : start + len(pool)]
            # a whole epoch before the next begins; the last may be a part of one
            assert sorted(epoch) == known or (start + len(pool) > len(drawn) and all(ids in known for ids in epoch))
            assert len({tuple(ids) for ids in epoch}) == len(epoch)
        assert max(Counter(map(tuple, drawn)).values()) <= cap
        released = rows[source]["released"]
        assert released - (len(drawn[-1]) + 1) < rows[source]["given"] <= released
        assert released <= rows[source]["available"] * cap
        ledger = release.ledger["released"][source]
        assert ledger["tokens"] == released == sum(len(ids) + 1 for ids in drawn)
        assert ledger["documents"] == len(drawn)
        assert ledger["different"] == len({tuple(ids) for ids in drawn})
        assert ledger["bytes"] == sum(number % 5 + 1 for ids in drawn for number in ids)


@settings(max_examples=200, deadline=None)
@given(
    pools=st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 50), st.integers(1, 4)), min_size=1, max_size=6),
    tokens=st.integers(1, 5000),
)
def test_given_tokens_sum_up_and_keep_the_caps_and_the_proportions(
    pools: list[tuple[int, int, int]], tokens: int
) -> None:
    whole = sum(weight for _, weight, _ in pools)
    shares = {f"s{at}": round(weight / whole, 7) for at, (_, weight, _) in enumerate(pools)}
    available = {SourceOfStage("stage", f"s{at}"): size for at, (size, _, _) in enumerate(pools)}
    components = resolve(shares, available, 4, {f"s{at}": cap for at, (_, _, cap) in enumerate(pools)})
    capacity = sum(size * cap for size, _, cap in pools)
    try:
        given_tokens = allocate(components, tokens, "redistribute")
    except InputError as error:
        if not (capacity < tokens if "all sources together" in str(error) else "leaves no token" in str(error)):
            raise
        reject()
    assert sum(given_tokens) == tokens <= capacity
    free = [
        (count, float(item.share))
        for item, count in zip(components, given_tokens, strict=True)
        if count < item.capacity
    ]
    assert all(count <= item.capacity for item, count in zip(components, given_tokens, strict=True))
    for count, share in free:  # sources that no cap binds keep the proportions of their shares, to one token
        for other, other_share in free:
            assert abs(count / share - other / other_share) <= 1 / share + 1 / other_share


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=3, max_size=20),
    rows=st.integers(1, 4),
    context=st.integers(1, 9),
    steps=st.integers(1, 30),
    seed=st.integers(0, 9),
)
def test_consumed_is_what_the_batches_hold(lengths: list[int], rows: int, context: int, steps: int, seed: int) -> None:
    total = sum(lengths)
    if (total - 1) // context < rows:
        return
    batches = PretrainBatches(np.arange(total), rows, context, seed)
    owner = np.repeat(np.arange(len(lengths)), lengths).tolist()
    read = Counter(owner[at] for step in range(steps) for at in batches.batch(step).tokens_BT.flatten().tolist())
    offsets = np.cumsum(lengths) - np.array(lengths)
    consumed = consumed_tokens(offsets, total, *batches.pieces(range(steps)))
    assert consumed.tolist() == [read[document] for document in range(len(lengths))]
    assert int(consumed.sum()) == steps * rows * context


def test_consumed_by_source_is_the_sum_over_its_documents(tmp_path: Path) -> None:
    train = [("a", [5] * 9), ("b", [6] * 4), ("a", [7] * 20), ("unread", [8] * 30)]
    write_tokens(tmp_path, {"train": train, **held_out(1, "a")})
    pieces = np.array([0, 20, 0, 30]), np.array([10, 10, 10, 10])  # tokens 0-9 twice, 20-39 once
    shard = TokenShard.open(tmp_path)
    rows = consumed_by_source(shard, sources_of_documents(shard, tmp_path), pieces, 40)
    assert rows == [
        {"source": "a", "held": 31, "documents": 2, "tokens": 36},
        {"source": "b", "held": 5, "documents": 0, "tokens": 0},
        {"source": "unread", "held": 31, "documents": 1, "tokens": 4},
    ]
    with pytest.raises(RuntimeError, match="consumed tokens: the sources sum to 40, the total is 41"):
        consumed_by_source(shard, sources_of_documents(shard, tmp_path), pieces, 41)
