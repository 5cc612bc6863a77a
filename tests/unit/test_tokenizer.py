"""Training the tokenizer, loading it, and token shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pocketlm.data.shards import TokenShard, join_documents, token_type
from pocketlm.data.tokenizer import Tokenizer, train_tokenizer
from pocketlm.errors import CorruptionError, InputError
from tests.data_pipeline import corpus


def test_training_twice_gives_equal_bytes() -> None:
    assert train_tokenizer(corpus(30), 700).to_str() == train_tokenizer(corpus(30), 700).to_str()


def test_all_bytes_are_tokens_and_specials_come_first() -> None:
    tokenizer = Tokenizer(train_tokenizer(corpus(5), 300))
    every_byte = bytes(range(256)).decode("latin-1") + "\u0800\U00010000\U000f0000"
    assert tokenizer.decode(tokenizer.encode(every_byte)) == every_byte
    assert (tokenizer.vocabulary, tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end) == (300, 0, 1, 2)


@pytest.mark.parametrize(("vocabulary", "message"), [(258, "is too small"), (5000, "holds only")])
def test_impossible_vocabulary_is_refused(vocabulary: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_tokenizer(["a few words only"], vocabulary)


def test_a_broken_or_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="not a tokenizers file"):
        Tokenizer.load(tmp_path)
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"has no <\|endoftext\|>"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_documents_are_joined_with_borders() -> None:
    tokens, offsets = join_documents([[5, 6], [], [7]], end_of_text=0, vocabulary=300)
    assert tokens.tolist() == [5, 6, 0, 0, 7, 0]
    assert offsets.tolist() == [0, 3, 4]
    assert (tokens.dtype, offsets.dtype) == (np.uint16, np.int64)
    assert [token_type(size) for size in (65_536, 65_537)] == [np.uint16, np.uint32]


def test_shards_are_mapped_and_checked(tmp_path: Path) -> None:
    tokens, offsets = join_documents([[5, 6], [7]], end_of_text=0, vocabulary=300)
    np.save(tmp_path / "train.npy", tokens)
    np.save(tmp_path / "train_offsets.npy", offsets)
    counts = {"tokens": 5, "documents": 2, "bytes": 11}
    (tmp_path / "tokens.json").write_text(json.dumps({"vocabulary": 300, "splits": {"train": counts}}))
    shard = TokenShard.open(tmp_path)
    assert isinstance(shard.tokens, np.memmap)
    assert (shard.text_bytes, shard.vocabulary) == (11, 300)
    assert [shard.document(index).tolist() for index in (0, 1)] == [[5, 6, 0], [7, 0]]
    with pytest.raises(InputError, match="no split 'heldout'"):
        TokenShard.open(tmp_path, "heldout")
    np.save(tmp_path / "train.npy", tokens[:-1])
    with pytest.raises(CorruptionError, match=r"train\.npy"):
        TokenShard.open(tmp_path)
    (tmp_path / "train.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(CorruptionError, match="cannot be read"):
        TokenShard.open(tmp_path)
    with pytest.raises(InputError, match=r"no tokens\.json"):
        TokenShard.open(tmp_path / "nowhere")
