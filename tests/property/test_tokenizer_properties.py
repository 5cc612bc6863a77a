"""The tokenizer on arbitrary text: lossless, digits alone, special tokens never from text."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from pocketlm.data.tokens.word_pieces import character_classes, piece_end
from tests.data_pipeline import corpus
from tests.tokenizer_reference import cut_by_tokenizers, train_with_tokenizers

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
SPELLED = st.lists(st.one_of(TEXT, st.sampled_from(SPECIAL_TOKENS), st.sampled_from(["12", "3.14", " 007"]))).map(
    "".join
)


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(corpus(20), 600))


@settings(deadline=None, max_examples=300)
@given(SPELLED)
def test_decoding_gives_back_the_text(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text)) == text


@settings(deadline=None)
@given(SPELLED)
def test_text_never_makes_a_special_token(text: str) -> None:
    assert min(tokenizer().encode(text), default=3) >= 3


@settings(deadline=None)
@given(SPELLED, st.integers(0, 10**12))
def test_every_digit_is_a_token_of_its_own(text: str, number: int) -> None:
    ids = tokenizer().encode(f"{text}{number}")
    for piece in (tokenizer().decode([token]) for token in ids):
        assert len(piece) == 1 or not any(sign.isascii() and sign.isdigit() for sign in piece)


@settings(deadline=None)
@given(st.lists(SPELLED, max_size=5))
def test_batches_encode_as_single_texts(texts: list[str]) -> None:
    assert tokenizer().encode_batch(texts) == [tokenizer().encode(text) for text in texts]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), SPELLED), min_size=1, max_size=4))
def test_the_mask_covers_exactly_what_the_assistant_says(turns: list[tuple[str, str]]) -> None:
    ids, mask = encode_chat(tokenizer(), [{"role": role, "content": content} for role, content in turns])
    trained = [token for token, flag in zip(ids, mask, strict=True) if flag]
    said = [content.strip() for role, content in turns if role == "assistant"]
    assert trained == [token for text in said for token in [*tokenizer().encode(text), tokenizer().im_end]]
    assert ids.count(tokenizer().im_start) == ids.count(tokenizer().im_end) == len(turns)


FEW_SIGNS = st.one_of(*(st.text(signs, max_size=40) for signs in ("a", "ab", "abc ", "aé!", "ab\n1", "漢字a")))


@settings(deadline=None, max_examples=150)
@given(st.lists(FEW_SIGNS, min_size=1, max_size=10), st.integers(260, 340))
def test_training_equals_the_trainer_of_tokenizers(texts: list[str], vocabulary: int) -> None:
    """Few signs give many ties, overlapping pairs and tokens spelled twice."""
    expected = train_with_tokenizers(texts, vocabulary)
    assert train_tokenizer(texts, expected.get_vocab_size(with_added_tokens=True)).to_str() == expected.to_str()


SIGNS = ["'s", "'S", "'ſ", "'RE", "ll", "'", "1", "Ⅷ", "a", "é", "e\u0301", "漢", "!", "\u200b", "\x00", "\U0001f600"]
SPACED = st.lists(st.sampled_from([*SIGNS, " ", "\t", "\r", "\n", "\u3000", "\u0085", "\x1c"])).map("".join)


@settings(deadline=None, max_examples=300)
@given(st.one_of(TEXT, SPACED))
def test_text_is_cut_as_by_tokenizers(text: str) -> None:
    data, at, pieces = np.frombuffer(text.encode(), np.uint8), 0, []
    while at < len(data):
        end = piece_end(data, at, len(data), character_classes())
        pieces.append(data[at:end].tobytes().decode())
        at = end
    assert pieces == cut_by_tokenizers(text)
