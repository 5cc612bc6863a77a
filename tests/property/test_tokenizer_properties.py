"""The tokenizer on arbitrary text: lossless, digits alone, special tokens never from text."""

from __future__ import annotations

import functools

from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.chat import encode_chat
from pocketlm.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from tests.data_pipeline import corpus

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
