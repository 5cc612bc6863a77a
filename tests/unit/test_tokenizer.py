"""Training the tokenizer, loading it, and token shards."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketlm.data.text import Text
from pocketlm.data.tokens.chat import encode_chat, encode_chats, render
from pocketlm.data.tokens.shards import ShardWriter, TokenShard, token_type
from pocketlm.data.tokens.tokenizer import Tokenizer, build_tokenizer, train_tokenizer
from pocketlm.data.tokens.tokenizer_text import count_pieces
from pocketlm.data.tokens.word_pieces import PieceCounter, numeric_characters
from pocketlm.errors import CorruptionError, InputError
from pocketlm.posttraining.examples import asked_prompts, solved_examples
from tests.data_pipeline import corpus
from tests.token_folders import join_documents
from tests.tokenizer_reference import cut_by_tokenizers, train_with_tokenizers


def counted(counter: PieceCounter) -> dict[str, int]:
    """Piece -> count; an entry twice is an error."""
    counts = counter.counts()
    pieces = [counts.data[start:end].tobytes().decode() for start, end in pairwise(counts.starts.tolist())]
    assert len(set(pieces)) == len(pieces)
    return dict(zip(pieces, counts.counts.tolist(), strict=True))


def test_training_twice_gives_equal_bytes() -> None:
    assert train_tokenizer(corpus(30), 700).to_str() == train_tokenizer(corpus(30), 700).to_str()


@pytest.mark.parametrize("vocabulary", [300, 2000])
def test_training_learns_what_the_trainer_of_tokenizers_learns(vocabulary: int) -> None:
    """Vocabulary and merges, on prose in several scripts with numbers, code and runs of one sign."""
    texts = [
        *corpus(60),
        "12 + 34 = 46; x_1 = f(3.14)\n\t\treturn 'don't'\n" * 9,
        "漢字かな café naïve " * 7,
        "-" * 500,
        "",
    ]
    assert train_tokenizer(texts, vocabulary).to_str() == train_with_tokenizers(texts, vocabulary).to_str()


def test_a_merge_that_spells_a_known_token_keeps_its_id() -> None:
    """ab+c, then a+bc: the trainer of tokenizers gives both the same id, and so do we."""
    texts = ["abc " * 9, "ab " * 5, "xbc " * 30, "bc", "abcbcab", "aabcc"]
    expected = train_with_tokenizers(texts, 290)
    merges = json.loads(expected.to_str())["model"]["merges"]
    spelled = ["".join(merge) for merge in merges]
    assert train_tokenizer(texts, expected.get_vocab_size()).to_str() == expected.to_str()
    assert len(spelled) >= expected.get_vocab_size() - 259


def test_order_and_grouping_of_documents_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train_tokenizer(corpus(30), 700).to_str()
    monkeypatch.setattr("pocketlm.data.tokens.tokenizer._BATCH_CHARACTERS", 1000)
    assert train_tokenizer(corpus(30)[::-1], 700).to_str() == expected


def test_every_code_point_is_cut_as_by_tokenizers() -> None:
    planes = [*range(0xD800), *range(0xE000, 0x40000), *range(0x40000, 0x110000, 101)]
    text = "".join(f"a{sign}b{sign} {sign}1" for sign in map(chr, planes))
    counter = PieceCounter()
    counter.add(Text.from_arrow(pa.array([text], pa.large_string())))
    assert counted(counter) == Counter(cut_by_tokenizers(text))


def test_numeric_characters_are_those_that_digits_cuts_out() -> None:
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    signs = ["1", "9", "²", "½", "Ⅷ", "٣", "१", "\U00011de0", "\U0001d7d8", "a", "一", "!", " ", "\U00016ff4"]
    cut = {sign: len(digits.pre_tokenize_str(f"a{sign}a")) == 3 for sign in signs}
    assert {sign: bool(numeric_characters()[ord(sign)]) for sign in signs} == cut
    assert set(cut.values()) == {True, False}


def test_counting_goes_on_after_every_table_was_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketlm.data.tokens.word_pieces._SMALLEST_TABLE", 4)
    monkeypatch.setattr("pocketlm.data.tokens.word_pieces._SMALLEST_ARENA", 1)
    texts = [*corpus(5), "x" * 300, "longer than seven", "longer than seven"]
    counter = PieceCounter()
    for text in (texts[:3], texts[3:]):
        counter.add(Text.from_arrow(pa.array(text, pa.large_string())))
    assert counted(counter) == Counter(piece for text in texts for piece in cut_by_tokenizers(text))


def test_training_text_is_chosen_by_content(tmp_path: Path) -> None:
    def write(texts: list[str], rows: int) -> Path:
        file = tmp_path / f"{rows}.parquet"
        names = [str(place) for place in range(len(texts))]
        columns = {"id": names, "source": names, "text": pa.array(texts, pa.large_string())}
        pq.write_table(pa.table(columns), file, row_group_size=rows)
        return file

    whole = count_pieces(write(corpus(20), 20), 10**9)
    assert whole.documents == 20
    assert whole.bytes == sum(len(text.encode()) for text in corpus(20))
    part, other = (count_pieces(write(corpus(20)[::step], rows), whole.bytes // 3) for step, rows in ((1, 7), (-1, 3)))
    assert 0 < part.bytes <= whole.bytes // 3
    assert (part.documents, part.bytes) == (other.documents, other.bytes)
    assert build_tokenizer(part.pieces, 400).to_str() == build_tokenizer(other.pieces, 400).to_str()
    assert count_pieces(write(corpus(2), 2), 1).documents == 1
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptionError, match="not a documents file"):
        count_pieces(tmp_path / "broken.parquet", 1)


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


def test_half_a_surrogate_pair_is_named_wherever_text_is_encoded() -> None:
    tokenizer = Tokenizer(train_tokenizer(["user assistant a b c"], 264))
    with pytest.raises(
        InputError, match=r"text 1 of 1 cannot be encoded: its character 3 is U\+D83D, half of a surrogate"
    ):
        tokenizer.encode("ab\ud83d")
    with pytest.raises(InputError, match=r"text 2 of 3 cannot be encoded: its character 1 is U\+DE00"):
        tokenizer.encode_batch(["a", "\ude00b", "c"])
    with pytest.raises(TypeError):
        tokenizer.encode(None)  # type: ignore[arg-type]
    bad = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b\ud83d"}]
    named = r"chat message 2 \(assistant\): its character 3 is U\+D83D, half of a surrogate pair.*leave the message out"
    for call in (
        lambda: encode_chat(tokenizer, bad),
        lambda: encode_chats(tokenizer, [bad[:1], bad]),
        lambda: render(bad),
    ):
        with pytest.raises(InputError, match=named):
            call()
    with pytest.raises(InputError, match=r"row 'q/7': chat message 1 \(user\)"):
        asked_prompts(tokenizer, [{"id": "q/7", "prompt": "\ud800"}])
    with pytest.raises(InputError, match=r"rows: row 'q/8': text 1 of 1 cannot be encoded"):
        solved_examples(tokenizer, [{"id": "q/8", "prompt": "a", "answer": "\ud800"}], "rows", calculator=True)
    pair = "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")
    assert tokenizer.decode(tokenizer.encode(pair)) == "😀", "a whole pair is a character"


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


def test_a_shard_written_piece_by_piece_is_what_numpy_saves(tmp_path: Path) -> None:
    """Same bytes as one `np.save` of everything; sources are numbered as they appear, over all splits."""
    parts = [([5, 6, 0, 0], [3, 1], [2, 0], ["a", "b/x"]), ([], [], [], []), ([7, 0], [2], [4], ["a"])]
    sources: dict[str, int] = {}
    splits = {}
    for split, start in (("train", 0), ("heldout", 2)):
        with ShardWriter(tmp_path, split, 300, sources) as writer:
            for tokens, lengths, sizes, names in parts[start:]:
                writer.write(np.array(tokens, np.uint16), np.array(lengths, int), np.array(sizes, int), names)
        splits[split] = writer.counts()
    assert splits["train"]["by_source"] == {
        "a": {"documents": 2, "tokens": 5, "bytes": 6},
        "b/x": {"documents": 1, "tokens": 1, "bytes": 0},
    }
    np.save(tmp_path / "whole.npy", np.array([5, 6, 0, 0, 7, 0], np.uint16))
    assert (tmp_path / "train.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "tokens.json").write_text(json.dumps({"vocabulary": 300, "sources": list(sources), "splits": splits}))
    shard = TokenShard.open(tmp_path)
    assert shard.sources == ("a", "b/x")
    assert shard.source_of is not None
    assert shard.source_of.tolist() == [0, 1, 0]
    assert (shard.offsets.tolist(), shard.text_bytes) == ([0, 3, 4], 6)
    assert TokenShard.open(tmp_path, "heldout").document(0).tolist() == [7, 0]
