"""The fast path gives the ids of the tokenizers library: for our tokenizers, and for one like SmolLM2's."""

from __future__ import annotations

import functools
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.tokens.fast_encoding import CHECK_TEXTS, FastEncoder, differing_documents
from pocketlm.data.tokens.token_units import closed_documents
from pocketlm.data.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from tests.data_pipeline import corpus
from tests.tokenizer_reference import train_like_smollm2

SIGNS = ["'s", "'S", "'ſ", "'RE", "ll", "'", "1", "Ⅷ", "²", "a", "é", "e\u0301", "漢", "!", "\x00", "\x04", "\u200b"]
FAR_SIGNS = ["\U0001f600", "\U00011de0", "\U00050000"]
SPACES = [" ", "\t", "\r", "\n", "\u3000", "\u0085", "\x1c"]
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
    st.lists(st.sampled_from([*SIGNS, *FAR_SIGNS, *SPACES, *SPECIAL_TOKENS, "word", " the"])).map("".join),
)


@functools.cache
def encoder(kind: str) -> FastEncoder:
    texts = [*corpus(20), "漢字 café 12 don't \U0001f600 " * 9]
    backend = train_tokenizer(texts, 600) if kind == "ours" else train_like_smollm2(texts)
    return FastEncoder(Tokenizer(backend))


def encoded(fast: FastEncoder, texts: list[str]) -> list[list[int]]:
    result = fast.encode(pa.array(texts, pa.large_string()))
    return [row.tolist() for row in np.split(result.ids, result.offsets[1:-1])] if texts else []


@pytest.mark.parametrize("kind", ["ours", "digits"])
def test_ids_are_those_of_tokenizers(kind: str) -> None:
    assert encoder(kind).refusal == ""

    @settings(deadline=None, max_examples=200)
    @given(st.lists(TEXT, max_size=6))
    def check(texts: list[str]) -> None:
        assert encoded(encoder(kind), texts) == encoder(kind).tokenizer.encode_batch(texts)

    check()


@pytest.mark.parametrize("kind", ["ours", "digits"])
def test_code_points_have_the_ids_of_tokenizers(kind: str) -> None:
    """A part of them here; bench/tokenizing.py goes through all."""
    codes = [*range(0x3000), *range(0x3000, 0xD800, 11), *range(0xE000, 0x40000, 11), *range(0x40000, 0x110000, 1009)]
    texts = [f"a{sign}b {sign}{sign} '{sign} 1{sign}2\n{sign} " for sign in map(chr, codes)]
    assert encoded(encoder(kind), texts) == encoder(kind).tokenizer.encode_batch(texts)


def test_documents_with_absent_bytes_take_the_slow_way_and_are_counted() -> None:
    texts = ["all known", "one \x04 unknown", "", "two \x04\x06", "漢字"]
    result = encoder("digits").encode(pa.array(texts, pa.large_string()))
    assert result.slow.tolist() == [False, True, False, True, False]
    assert result.dropped.tolist() == [0, 1, 0, 2, 0]
    assert encoder("ours").encode(pa.array(texts, pa.large_string())).slow.sum() == 0


def test_a_slice_of_an_array_is_encoded_from_its_own_offsets() -> None:
    texts = [*CHECK_TEXTS[:3], *corpus(3)]
    array = pa.array(texts, pa.large_string()).slice(2, 3)
    ids = encoder("digits").encode(array)
    expected = encoder("digits").tokenizer.encode_batch(texts[2:5])
    assert ids.ids.tolist() == [token for row in expected for token in row]


def test_threads_share_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread has its own engine; engines that begin anew give the same ids."""
    monkeypatch.setattr("pocketlm.data.tokens.fast_encoding.RENEW_AFTER_BYTES", 10_000)
    texts = corpus(8)
    expected = encoder("ours").tokenizer.encode_batch(texts)
    with ThreadPoolExecutor(3) as pool:
        for rows in pool.map(lambda _: encoded(encoder("ours"), texts), range(12)):
            assert rows == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizes"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer"),
        ({"model": {"type": "WordLevel", "vocab": dict(zip(SPECIAL_TOKENS, range(3), strict=True))}}, "no plain BPE"),
    ],
)
def test_other_tokenizers_go_through_tokenizers(change: dict[str, object], reason: str) -> None:
    import tokenizers

    definition = encoder("ours").tokenizer.definition() | change
    if "model" in change:
        definition["model"] = {**change["model"], "unk_token": SPECIAL_TOKENS[0]}  # type: ignore[dict-item]
    fast = FastEncoder(Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(definition))))
    assert reason in fast.refusal
    texts = ["e\u0301 one two", ""]
    assert encoded(fast, texts) == fast.tokenizer.encode_batch(texts)


def test_an_engine_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """gigatoken handed another order of merges: the self-check finds it."""
    from pocketlm.data.tokens import fast_encoding

    load = fast_encoding._load_engine

    def reordered(text: str) -> object:
        definition = json.loads(text)
        definition["model"]["merges"] = definition["model"]["merges"][:-250]
        return load(json.dumps(definition))

    monkeypatch.setattr(fast_encoding, "_load_engine", reordered)
    fast = FastEncoder(encoder("ours").tokenizer)
    assert "otherwise than tokenizers" in fast.refusal
    assert encoded(fast, corpus(2)) == fast.tokenizer.encode_batch(corpus(2))


def test_a_sample_is_compared_with_tokenizers() -> None:
    texts = pa.array(corpus(30), pa.large_string())
    fast = encoder("ours")
    right = fast.encode(texts)
    compared, differing = differing_documents(fast, texts, right, 20_000)
    assert (compared > 2, differing) == (True, 0)
    right.ids[:] += 1
    assert differing_documents(fast, texts, right, 20_000) == (compared, compared)
    assert differing_documents(fast, texts, right, 1)[0] == 1


def test_documents_are_closed_with_borders() -> None:
    closed = closed_documents(np.array([5, 6, 7], np.uint32), np.array([0, 2, 2, 3]), 0, 300)
    assert (closed.tolist(), closed.dtype) == ([5, 6, 0, 0, 7, 0], np.uint16)
