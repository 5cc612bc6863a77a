"""The tokenizer that a GGUF file carries, and its chat form.

A GGUF file names its pre-tokenizer by a word of llama.cpp and leaves the pattern to the reader. Read are byte-level BPE
tokenizers of the names in `PRE_TOKENIZERS`; for another one the tokenizer.json that it was made from is needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.chat_template import ChatTemplate
from pocketlm.data.tokens.chat_template_files import set_text_start
from pocketlm.data.tokens.tokenizer import SPLIT_PATTERN, Tokenizer
from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.formats.gguf import gguf_chat_template
from pocketlm.model.formats.gguf_file import GGUFFile

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_WITH_PATTERN = {**_BYTE_LEVEL, "use_regex": True}
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_WITH_PATTERN],
    "smollm": [{"type": "Digits", "individual_digits": True}, _WITH_PATTERN],
    "qwen2": [
        {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False},
        {**_BYTE_LEVEL, "use_regex": False},
    ],
}
"""llama.cpp's name -> how text is cut, in the words of tokenizer.json."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens (`tokenizer.ggml.token_type`)."""


def padding_token(number: int) -> str:
    """What llama.cpp's converter calls a row of the embedding that the tokenizer has no token for."""
    return f"[PAD{number}]"


def gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file, with the file's own chat template where that is not ours.

    Raises:
        InputError: the file has no tokenizer, or one of another kind.
        CorruptionError: its tokens, types and merges contradict each other.
    """
    import tokenizers

    definition = tokenizer_definition(GGUFFile(path))
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the Rust reader raises bare Exception
        raise CorruptionError(f"{path}: its tokens and merges make no tokenizer ({error})") from error
    tokenizer = Tokenizer(backend, origin=str(path))
    source, special = gguf_chat_template(path)
    if source not in (None, CHAT_TEMPLATE):
        tokenizer.chat_template = ChatTemplate(str(source), special, tokenizer, str(path))
    set_text_start(tokenizer, special)
    return tokenizer


def tokenizer_definition(file: GGUFFile) -> dict[str, Any]:
    """The content of tokenizer.json; errors as in `gguf_tokenizer`."""
    kind, pre = (file.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind is None:
        raise InputError(f"{file.path} carries no tokenizer; give the tokenizer.json of its model with --tokenizer")
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        raise InputError(
            f"{file.path}: a tokenizer of the kind {kind!r} that cuts text as {pre!r}; built from the file are those "
            f"of the kind 'gpt2' that cut as {', '.join(PRE_TOKENIZERS)}; give its tokenizer.json with --tokenizer"
        )
    tokens, merges = file.strings("tokenizer.ggml.tokens"), file.strings("tokenizer.ggml.merges")
    types = file.numbers("tokenizer.ggml.token_type")
    if len(types) != len(tokens):
        raise CorruptionError(f"{file.path}: {len(tokens):,} tokens, but {len(types):,} token types")
    while tokens and types[len(tokens) - 1] == UNUSED and tokens[-1] == padding_token(len(tokens) - 1):
        tokens.pop()
    added = [
        {
            "id": number,
            "content": token,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            "special": types[number] == CONTROL,
        }
        for number, token in enumerate(tokens)
        if types[number] in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }
