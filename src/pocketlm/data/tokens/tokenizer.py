"""Byte-level BPE tokenizer of a pocketlm artifact.

Text becomes UTF-8 bytes, is cut by the qwen2 pattern (every digit stands alone) and merged by BPE. All 256 bytes are in
the vocabulary, so `decode(encode(text)) == text` for every string that UTF-8 can hold. The three special tokens have
the ids 0, 1, 2 and are *never* produced from text: a user who types "<|im_end|>" gets the ordinary tokens of those ten
characters. Only `chat` and the document border put special ids into a sequence.

This module is the reference: single texts, and the format. Whole units of documents are encoded by
`fast_encoding` and merges learned by `bpe_training`, both with the results of the tokenizers library.

A foreign tokenizer may lack bytes: it drops them silently here, `fast_encoding` counts them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.data.unicode import half_a_pair
from pocketlm.errors import InputError

if TYPE_CHECKING:
    import tokenizers

    from pocketlm.data.tokens.chat_template import ChatTemplate
    from pocketlm.data.tokens.word_pieces import PieceCounts

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
"""Document border (also bos and padding), start of a chat turn, end of a chat turn (eos of the chat form)."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What a tokenizer artifact holds; a model folder carries a copy of each."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pre-tokenizer pattern of Qwen2 (known as `qwen2` to llama.cpp and gigatoken): contractions, words with one leading
character, single digits, punctuation, line ends, spaces."""


_BATCH_CHARACTERS = 8_000_000


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        vocabulary: number of token ids, special tokens included.
        end_of_text, im_start, im_end: ids of the special tokens.
        chat_template: a chat form other than ChatML, where the tokenizer brings one (`chat_template.py`).
        text_start: id of what lm-evaluation-harness puts before a continuation without context: the document border,
            unless the model's folder names another token as its first (`bos_token`).
    """

    def __init__(self, backend: tokenizers.Tokenizer, origin: str = "tokenizer") -> None:
        vocabulary = backend.get_vocab(with_added_tokens=True)
        if missing := [token for token in SPECIAL_TOKENS if token not in vocabulary]:
            raise InputError(
                f"{origin}: the tokenizer has no {' '.join(missing)}. "
                f"pocketlm needs the special tokens {' '.join(SPECIAL_TOKENS)}; add them to its tokenizer.json."
            )
        backend.encode_special_tokens = True  # text that spells a special token stays text
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.vocabulary = len(vocabulary)
        if max(vocabulary.values()) + 1 != self.vocabulary:
            raise InputError(
                f"{origin}: its ids reach {max(vocabulary.values())}, but it has {self.vocabulary} tokens. "
                "pocketlm needs ids without gaps; renumber the vocabulary."
            )
        self.end_of_text, self.im_start, self.im_end = (vocabulary[token] for token in SPECIAL_TOKENS)
        self.chat_template: ChatTemplate | None = None
        self.text_start = self.end_of_text

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read `tokenizer.json`, given that file or a folder that holds it.

        Raises:
            InputError: the file is missing or is no tokenizer.
        """
        import tokenizers

        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            raise InputError(f"{file}: no such file. Give a folder that holds tokenizer.json, or the file itself.")
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the Rust reader raises bare Exception
            raise InputError(f"{file}: not a tokenizers file ({error}). Build it again or restore it.") from error
        return cls(backend, origin=str(file))

    @property
    def turn_end(self) -> int:
        """The token that closes an assistant's turn: <|im_end|>, unless the chat form has another."""
        return self.im_end if self.chat_template is None else self.chat_template.turn_end

    def special_id(self, token: str) -> int | None:
        """Id of a token by its spelling; None when there is none."""
        number: int | None = self._backend.token_to_id(token)
        return number

    def definition(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        definition: dict[str, Any] = json.loads(self._backend.to_str())
        return definition

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without any special token; InputError when UTF-8 cannot hold it."""
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            _refuse_half_a_pair([text])
            raise

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for each text; runs on all threads of the tokenizers library."""
        try:
            return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError:
            _refuse_half_a_pair(texts)
            raise

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens are left out, bytes that are not UTF-8 become U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)


def _refuse_half_a_pair(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts, start=1):
        if fault := half_a_pair(text):
            raise InputError(f"text {number} of {len(texts)} cannot be encoded: {fault}; mend it or leave it out.")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Byte-level BPE learned from `texts`, read once: equal texts give equal bytes, in any order.

    Raises:
        InputError: see `build_tokenizer`.
    """
    import pyarrow

    from pocketlm.data.text import Text
    from pocketlm.data.tokens.word_pieces import PieceCounter

    counter = PieceCounter()
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size > _BATCH_CHARACTERS:
            counter.add(Text.from_arrow(pyarrow.array(batch, pyarrow.large_string())))
            batch, size = [], 0
    counter.add(Text.from_arrow(pyarrow.array(batch, pyarrow.large_string())))
    return build_tokenizer(counter.counts(), vocabulary)


def build_tokenizer(pieces: PieceCounts, vocabulary: int) -> tokenizers.Tokenizer:
    """The tokenizer that the trainer of the tokenizers library would learn from the same pieces.

    Args:
        pieces: what the training text was cut into, counted.
        vocabulary: number of ids in all: 3 special tokens, 256 bytes, the rest merges.

    Raises:
        InputError: `vocabulary` cannot hold the bytes, or the text is too small to learn that many merges.
    """
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    from pocketlm.data.tokens.bpe_training import learn_merges

    if vocabulary < SMALLEST_VOCABULARY:
        raise InputError(
            f"tokenizer.vocabulary = {vocabulary} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special tokens "
            f"need {SMALLEST_VOCABULARY}. Set it to {SMALLEST_VOCABULARY} or more."
        )
    characters = byte_characters()
    alphabet = sorted(range(256), key=lambda byte: characters[byte])
    learned = learn_merges(pieces, alphabet, len(SPECIAL_TOKENS), vocabulary)
    spelled = [*SPECIAL_TOKENS, *("".join(characters[byte] for byte in token) for token in learned.tokens)]
    if len(spelled) != vocabulary:
        raise InputError(
            f"tokenizer.vocabulary = {vocabulary}, but the text holds only {len(spelled)} distinct tokens. "
            "Give more text or set a smaller vocabulary."
        )
    merges = [(spelled[left], spelled[right]) for left, right in learned.pairs.tolist()]
    backend = Backend(models.BPE(vocab={token: number for number, token in enumerate(spelled)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return backend


@cache
def byte_characters() -> tuple[str, ...]:
    """The character that stands for each byte in a byte-level vocabulary (Radford et al. 2019, GPT-2's encoder):
    printable Latin-1 stands for itself, the other bytes take U+0100 onwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return tuple(chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256))


def tokenizer_config() -> dict[str, object]:
    """`tokenizer_config.json`: transformers' AutoTokenizer loads the folder as a PreTrainedTokenizerFast."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "extra_special_tokens": [IM_START],
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer from one artifact folder to another."""
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)
