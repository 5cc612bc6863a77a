"""Encoding whole units of documents fast (bench/tokenizing.py), with the ids that the tokenizers library gives.

gigatoken does the work on the Arrow buffers, without a Python object per document. It is taken only for tokenizers of a
form that was proven equal on every code point (our own, and SmolLM2's: single digits, then GPT-2's pattern), and only
after it has encoded `CHECK_TEXTS` and its own vocabulary like the tokenizers library; else every document goes through
that library.

- Text that spells a special token stays text: gigatoken is handed a vocabulary without added tokens.
- SmolLM2's `Digits` step, which gigatoken lacks, is done here: documents are cut at numeric characters first.
- SmolLM2's vocabulary lacks 21 bytes. The tokenizers library drops such bytes, and their neighbours may then merge. A
  document that holds one falls back to that library; documents and bytes are counted.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.data.kernels import kernel
from pocketlm.data.text import Text, fnv
from pocketlm.data.tokens.tokenizer import SPLIT_PATTERN, Tokenizer, byte_characters
from pocketlm.data.tokens.word_pieces import cut_numbers, numeric_characters

if TYPE_CHECKING:
    import pyarrow

RENEW_AFTER_BYTES = 256_000_000
"""gigatoken remembers every word it has met; after so much text a thread starts with an empty memory."""

CHECK_TEXTS = (
    "It's WE'LL you'Re 'ſ 'ſa I'd'nt they've''m don'tx",
    "<|endoftext|><|im_start|>user\nhi<|im_end|> <|im_end|",
    "12+34=46, 3.14159 0x7f ٣٤٥ Ⅷ² ½x १२ \U00011de0\U00011de9 \U00016ff4\U0001d7d8",
    " \n \r\n\t x\n\n\n  y \t\t z   ",
    "\u3000a\u00a0b\u2028c\u0085d\x0be\x1c\x1d f\u200bg\ufeffh\u180ei",
    "a\x00b\x01c\x04d!\x06!\x13?\x14\x16 \x1d\x7f",
    "naïve e\u0301 ß ẞ İ K Å ﬁ \u0558\u1e9b\ua7ce\U00010780",
    "漢字かなカナ한국어ไทย हिन्दी العربية עברית",
    "\U0001f600\U0001f468\u200d\U0001f469 \ufffd\uffff \ue000\U000f0000\U0010ffff\U00050000",
    "(word) [word] {word}_word -word- \"word\" 'word' ...!!!\n\n???\r\n",
    "a" * 3000 + " " * 1000 + "!" * 1000 + "\n" * 500 + "ab" * 700,
    "",
    " ",
    "\n",
)
"""Texts on which encoders are known to differ."""


class Refused(Exception):
    """Why a tokenizer cannot be encoded fast."""


@dataclass(frozen=True)
class Encoded:
    """Ids of a unit: document i owns `ids[offsets[i]:offsets[i + 1]]`, no border tokens.

    Attributes:
        ids: uint32 [tokens]. offsets: int64 [documents + 1].
        slow: bool [documents], which were encoded by the tokenizers library.
        dropped: int64 [documents], bytes that the vocabulary lacks and that have no token.
    """

    ids: np.ndarray
    offsets: np.ndarray
    slow: np.ndarray
    dropped: np.ndarray


class FastEncoder:
    """Encodes units of documents; may be shared by threads (each has an engine of its own).

    Attributes:
        refusal: why the fast path is not taken; empty when it is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        definition = tokenizer.definition()
        self._absent = _absent_bytes(definition)
        self._thread = threading.local()
        self.refusal = ""
        try:
            self._engine_text, self._cuts = _engine_definition(definition, self._absent)
            self._self_check()
        except Refused as reason:
            self.refusal = str(reason)

    def encode(self, texts: pyarrow.Array | pyarrow.ChunkedArray) -> Encoded:
        """Encode a string array without nulls."""
        import pyarrow

        text = Text.from_arrow(texts)
        dropped = _count_bytes(text.data, text.offsets, self._absent)
        slow = dropped > 0 if not self.refusal else np.ones(len(text), np.bool_)
        if slow.all():
            ids, offsets = self._by_tokenizers(texts)
            return Encoded(ids, offsets, slow, dropped)
        ids, offsets = self._by_gigatoken(text)
        if slow.any():
            ids, offsets = _spliced(ids, offsets, slow, *self._by_tokenizers(texts.filter(pyarrow.array(slow))))
        return Encoded(ids, offsets, slow, dropped)

    def _by_tokenizers(self, texts: pyarrow.Array) -> tuple[np.ndarray, np.ndarray]:
        rows = self.tokenizer.encode_batch(texts.to_pylist())
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.concatenate([np.empty(0, np.uint32), *(np.array(row, np.uint32) for row in rows)])
        return ids, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def _by_gigatoken(self, text: Text) -> tuple[np.ndarray, np.ndarray]:
        borders, first = text.offsets, None
        if self._cuts:
            borders, first = cut_numbers(text, numeric_characters())
        engine = self._engine(int(borders[-1] - borders[0]))
        import awkward

        characters = awkward.contents.NumpyArray(text.data, parameters={"__array__": "char"})
        strings = awkward.contents.ListOffsetArray(
            awkward.index.Index64(borders), characters, parameters={"__array__": "string"}
        )
        encoded = engine.encode_batch(awkward.Array(strings), parallel=False).layout
        offsets = np.asarray(encoded.offsets, np.int64)
        ids = np.asarray(encoded.content.data)[offsets[0] : offsets[-1]]
        offsets = offsets - offsets[0]
        return ids, offsets if first is None else offsets[first]

    def _engine(self, size: int) -> Any:
        """This thread's engine, a new one when it has seen enough text."""
        seen = getattr(self._thread, "seen", RENEW_AFTER_BYTES)
        if seen >= RENEW_AFTER_BYTES:
            self._thread.engine, seen = _load_engine(self._engine_text), 0
        self._thread.seen = seen + size
        return self._thread.engine

    def _self_check(self) -> None:
        import pyarrow

        tokens = [self.tokenizer.decode([number]) for number in range(self.tokenizer.vocabulary)]
        texts = [*CHECK_TEXTS, " ".join(tokens)]  # the last one gives every merge something to do
        encoded = self.encode(pyarrow.array(texts, pyarrow.large_string()))
        wanted = self.tokenizer.encode_batch(texts)
        for place, ids in enumerate(wanted):
            if encoded.ids[encoded.offsets[place] : encoded.offsets[place + 1]].tolist() != ids:
                raise Refused(f"gigatoken encodes {texts[place][:40]!r} otherwise than tokenizers")


@lru_cache(maxsize=2)
def encoder_of(folder: str, digest: str) -> FastEncoder:
    """The encoder of a tokenizer's folder, loaded once in every process; another `digest` is another tokenizer."""
    return FastEncoder(Tokenizer.load(folder))


def differing_documents(encoder: FastEncoder, texts: pyarrow.Array, encoded: Encoded, budget: int) -> tuple[int, int]:
    """Compare some documents with the tokenizers library: those of the smallest hash, until `budget` bytes of text.

    Returns:
        (compared, differing): documents that took the fast path, and how many of them have other ids.
    """
    import pyarrow

    text = Text.from_arrow(texts)
    sizes = np.diff(text.offsets)
    order = np.argsort(fingerprints(text), kind="stable")
    # long documents would use up the budget alone, so those within it come first
    order = np.concatenate([order[sizes[order] <= budget], order[sizes[order] > budget][:1]])
    order = order[~encoded.slow[order]]
    chosen = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), budget, "right")))]
    wanted = encoder.tokenizer.encode_batch(texts.take(pyarrow.array(chosen)).to_pylist())
    differing = sum(
        encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].tolist() != ids
        for row, ids in zip(chosen.tolist(), wanted, strict=True)
    )
    return len(chosen), differing


def fingerprints(text: Text) -> np.ndarray:
    """A 64-bit hash (FNV-1a) of every document, uint64 [documents]: chooses documents by content, no identity."""
    return _fingerprints(text.data, text.offsets)


def _engine_definition(definition: dict[str, Any], absent: np.ndarray) -> tuple[str, bool]:
    """(tokenizer.json for gigatoken, whether documents must be cut at numbers first).

    Raises:
        Refused: the tokenizer is of no form that is known to give equal ids.
    """
    model = definition["model"]
    ordinary = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model["type"] != "BPE" or any(model.get(name) for name in (*ordinary, "ignore_merges")):
        raise Refused("its model is no plain BPE")
    if definition["normalizer"] is not None:
        raise Refused("it normalizes text")
    if not all(token["special"] for token in definition["added_tokens"]):
        raise Refused("it has added tokens that are not special")
    cutter, cuts = definition["pre_tokenizer"], False
    if not _is_own_cutter(cutter):
        cutter = _byte_level_after_digits(cutter)
        cuts = True
    vocabulary = dict(model["vocab"])
    free = max(vocabulary.values()) + 1
    names = byte_characters()
    for place, byte in enumerate(np.flatnonzero(absent).tolist()):
        vocabulary[names[byte]] = free + place  # never seen: a document that holds this byte takes the other path
    plain = {**definition, "added_tokens": [], "post_processor": None, "pre_tokenizer": cutter}
    return json.dumps({**plain, "model": {**model, "vocab": vocabulary}}), cuts


def _is_own_cutter(cutter: Any) -> bool:
    match cutter:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return bool(pattern == SPLIT_PATTERN)
    return False


def _byte_level_after_digits(cutter: Any) -> Any:
    match cutter:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True} as rest,
            ],
        }:
            return rest
    raise Refused("its pre-tokenizer is neither ours nor single digits followed by GPT-2's pattern")


def _absent_bytes(definition: dict[str, Any]) -> np.ndarray:
    """Which bytes have no token, bool [256]."""
    vocabulary = definition["model"]["vocab"]
    if not isinstance(vocabulary, dict):
        return np.zeros(256, np.bool_)
    return np.array([name not in vocabulary for name in byte_characters()], np.bool_)


def _load_engine(text: str) -> Any:
    try:
        import awkward  # noqa: F401 (gigatoken's arrays; looked for here, so that encoding finds it)
        from gigatoken.gigatoken_rs import load_hf_json
    except ImportError as error:
        raise Refused(f"gigatoken is not installed ({error})") from error
    try:
        return load_hf_json(text)
    except Exception as error:  # the Rust reader raises bare exceptions of its own
        raise Refused(f"gigatoken does not take it ({error})") from error


def _spliced(
    ids: np.ndarray, offsets: np.ndarray, slow: np.ndarray, slow_ids: np.ndarray, slow_offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`ids` with the documents marked `slow` replaced."""
    lengths = np.diff(offsets)
    lengths[slow] = np.diff(slow_offsets)
    joined = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    result = np.empty(joined[-1], np.uint32)
    _splice(ids, offsets, slow, slow_ids, result, joined)
    return result, joined


@kernel
def _splice(ids, offsets, slow, slow_ids, result, joined):  # type: ignore[no-untyped-def]
    taken = 0
    for document in range(len(slow)):
        begin, end = joined[document], joined[document + 1]
        if slow[document]:
            result[begin:end] = slow_ids[taken : taken + end - begin]
            taken += end - begin
        else:
            result[begin:end] = ids[offsets[document] : offsets[document + 1]]


@kernel
def _count_bytes(data, offsets, wanted):  # type: ignore[no-untyped-def]
    """How many bytes of every document are marked in `wanted`, int64 [documents]."""
    counts = np.zeros(len(offsets) - 1, np.int64)
    for document in range(len(counts)):
        for at in range(offsets[document], offsets[document + 1]):
            counts[document] += wanted[data[at]]
    return counts


@kernel
def _fingerprints(data, offsets):  # type: ignore[no-untyped-def]
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for document in range(len(hashes)):
        hashes[document] = fnv(data, offsets[document], offsets[document + 1])
    return hashes
