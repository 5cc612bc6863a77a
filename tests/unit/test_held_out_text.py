"""Bits of held-out documents: windows, bytes of tokens, and exactly the text that training read."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.data.tokens.shards import TokenShard
from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from pocketlm.evaluation.held_out import text as text_module
from pocketlm.evaluation.held_out.text import HeldOutText, bytes_once, text_read, tokens_once, training_text
from pocketlm.evaluation.held_out.token_bytes import token_bytes
from pocketlm.model.transformer import Transformer
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.heldout import document_bits
from tests.small_training import SHAPE, make_model
from tests.token_folders import join_documents

TEXTS = ["Grüße aus dem Süden – 12 ≠ 21 🙂🙃", "plain words, plain words\n\tindented", "ﷺ\x00\u200b", "a"]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(TEXTS, 290).save(str(file))
    return file


def test_token_bytes_join_to_the_exact_text_and_specials_are_empty(tokenizer_file: Path) -> None:
    tokenizer, table = Tokenizer.load(tokenizer_file), token_bytes(tokenizer_file)
    assert len(table) == tokenizer.vocabulary
    for text in TEXTS:
        assert b"".join(table[token] for token in tokenizer.encode(text)) == text.encode()
    assert [table[token] for token in (tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end)] == [b""] * 3


@torch.no_grad()
def test_document_bits_are_those_of_plain_windows() -> None:
    model = make_model(seed=2)
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, SHAPE.vocabulary, length) for length in (1, 16, 17, 40, 5)]
    expected = []
    for document in documents:
        stream = [0, *document.tolist()]
        nats = 0.0
        for start in range(0, len(document), SHAPE.context):
            window = torch.tensor([stream[start : start + SHAPE.context + 1]])
            log_p_BTV = model(window[:, :-1]).log_softmax(-1)
            nats -= float(log_p_BTV.gather(-1, window[:, 1:, None]).sum())
        expected.append(nats / math.log(2))
    assert document_bits(model, documents, border=0) == pytest.approx(expected, rel=1e-5)


def test_short_documents_do_not_cost_a_whole_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model with a context of 8,192, a document of 40 tokens took 8,192."""
    model = make_model(SHAPE.model_copy(update={"context": 8192}), seed=2)
    read: list[torch.Size] = []
    hidden = Transformer.hidden
    monkeypatch.setattr(Transformer, "hidden", lambda self, tokens: read.append(tokens.shape) or hidden(self, tokens))
    generator = np.random.default_rng(0)
    lengths = [40, 3, 64, 65, 300, 5000, 9000, *[30] * 40]
    documents = [generator.integers(1, SHAPE.vocabulary, length) for length in lengths]
    together = document_bits(model, documents, border=0)
    assert sum(rows * padded for rows, padded in read) <= sum(lengths) + 64 * (len(lengths) + 1)
    assert max(rows * padded for rows, padded in read) == 8192
    assert together == pytest.approx([document_bits(model, [one], border=0)[0] for one in documents], rel=1e-6)
    assert document_bits(model, [], border=0).tolist() == []


def test_documents_and_bytes_of_a_split(tokenizer_file: Path) -> None:
    tokenizer, table = Tokenizer.load(tokenizer_file), token_bytes(tokenizer_file)
    tokens, offsets = join_documents([tokenizer.encode(text) for text in TEXTS], tokenizer.end_of_text, 290)
    shard = TokenShard(tokens, offsets, sum(len(text.encode()) for text in TEXTS), 290)
    documents = [shard.document(index) for index in range(len(shard.offsets))]
    whole = HeldOutText.of(documents, table)
    assert whole.texts == [text.encode() for text in TEXTS]
    assert sum(whole.lengths) == shard.text_bytes
    part = HeldOutText.of(documents, table, most_documents=2, most_tokens=3)
    assert [len(document) for document in part.documents] == [3, 3]
    estimate = whole.per_byte(np.array(whole.lengths) * 2.0, np.random.default_rng(0))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, 2.0, 2.0))


def test_training_text_is_what_the_batches_read(tokenizer_file: Path) -> None:
    tokenizer, table = Tokenizer.load(tokenizer_file), token_bytes(tokenizer_file)
    tokens, _ = join_documents([tokenizer.encode(text) for text in TEXTS], tokenizer.end_of_text, 290)
    batches = PretrainBatches(tokens, rows=2, context=4, seed=1)
    starts, lengths = batches.pieces(range(3))
    read = training_text(tokens, starts, lengths + batches.read_on, table)
    pieces = b"".join(read)
    read_places = np.arange(len(tokens))
    shown = PretrainBatches(read_places, rows=2, context=4, seed=1)
    places = {
        int(place)
        for batch in (shown.batch(step) for step in range(3))
        for place in [*batch.tokens_BT.flatten(), *batch.targets_BT.flatten()]
    }
    assert pieces == b"".join(table[tokens[place]] for place in sorted(places))
    everything = training_text(tokens, np.array([0]), np.array([len(tokens)]), table)
    assert everything == [text.encode() for text in TEXTS]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12), st.integers(0, 1))
def test_text_is_counted_without_being_decoded(stretches: list[tuple[int, int]], read_on: int) -> None:
    """Against the text itself; blocks of 4 tokens, so that stretches are counted in several."""
    generator = np.random.default_rng(0)
    table = [b"", b"a", b"bc", "\u20ac".encode(), b"long token"]
    stream = TokenShard(generator.integers(0, len(table), 60).astype(np.uint16), np.zeros(1, np.int64), 0, len(table))
    starts, lengths = np.array(stretches, np.int64).reshape(-1, 2).T
    pieces, streams = {"one": (starts, lengths), "other": (starts[:1], lengths[:1])}, {"one": stream, "other": stream}
    read = text_read(streams, pieces, read_on, table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "COUNTED_TOGETHER", 4)
        sizes = np.array([len(one) for one in table])
        assert bytes_once(streams, pieces, read_on, sizes) == sum(map(len, read))
    places = {place for start, length in stretches for place in range(start, start + length + read_on)}
    first = stretches[0][1] + read_on if stretches else 0
    assert tokens_once(pieces, read_on) == len(places) + first
