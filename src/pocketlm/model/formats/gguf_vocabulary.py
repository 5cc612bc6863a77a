"""A tokenizer as the metadata of a GGUF file: tokens, types, merges, special ids, chat template, pre-tokenizer.

A GGUF file does not hold how text is cut before merging; it names one of the patterns that llama.cpp has built in. So
only byte-level BPE tokenizers can be written that cut text as one of `PRE_TOKENIZERS` does, and that do nothing else to
text: no normaliser, no merges ignored. Any other would read text differently in llama.cpp, without a word.

No token is put before a text, as in our own generation (`add_bos_token` is false).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.errors import InputError
from pocketlm.model.formats.gguf_tokenizer import CONTROL, NORMAL, PRE_TOKENIZERS, UNUSED, USER_DEFINED, padding_token

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

_MODEL = {
    "type": ("BPE",),
    "dropout": (None,),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Attributes:
        pre: llama.cpp's name of the pre-tokenizer.
        tokens, types: of every row of the embedding; those beyond the tokenizer are `[PADn]`, unused.
        merges: "left right", in the order of their rank.
        ids: bos, eos, eot, padding -> token.
        template: Jinja source of the chat form.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    template: str


def vocabulary_of(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The tokenizer of a model whose embedding has `rows` rows.

    Raises:
        InputError: it cannot be said in GGUF; names what stands against it.
    """
    definition = tokenizer.definition()
    model = definition["model"]
    for key, plain in _MODEL.items():
        if model.get(key) not in plain:
            raise _refusal(f"its model has {key} = {model.get(key)!r}")
    if definition.get("normalizer") is not None:
        raise _refusal(f"it normalises text first ({definition['normalizer'].get('type')}), which llama.cpp does not")
    if not model["merges"]:
        raise _refusal("it has no merges")
    pre = pre_tokenizer_name(definition.get("pre_tokenizer"))
    numbered = {number: token for token, number in model["vocab"].items()}
    types = dict.fromkeys(numbered, NORMAL)
    for added in definition["added_tokens"]:
        if any(added.get(side) for side in ("single_word", "lstrip", "rstrip")):
            raise _refusal(f"the token {added['content']!r} takes the white space around it, or stands alone only")
        numbered[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    tokens = [numbered[number] for number in range(len(numbered))]
    padding = range(len(tokens), rows)
    chat = tokenizer.chat_template
    variables = chat.variables if chat is not None else {}
    named = {key: tokenizer.special_id(variables[name]) for name, key in _SPECIAL.items() if name in variables}
    return Vocabulary(
        pre=pre,
        tokens=[*tokens, *map(padding_token, padding)],
        types=[*(types[number] for number in range(len(tokens))), *[UNUSED] * len(padding)],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        ids={
            "bos": tokenizer.text_start,
            "eos": tokenizer.turn_end,
            "padding": tokenizer.end_of_text,
            **{key: number for key, number in named.items() if number is not None},
            "eot": tokenizer.turn_end,
        },
        template=CHAT_TEMPLATE if chat is None else chat.source,
    )


def pre_tokenizer_name(definition: Mapping[str, Any] | None) -> str:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json; InputError when it has none that we know."""
    found = _steps(definition)
    for name, steps in PRE_TOKENIZERS.items():
        if found == [_plain(step) for step in steps]:
            return name
    shown = " then ".join(str(step.get("type")) for step in found) or "nothing"
    raise _refusal(f"it cuts text by {shown}, in a way that is none of {', '.join(PRE_TOKENIZERS)} of llama.cpp")


def _steps(definition: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if definition is None:
        return []
    if definition.get("type") != "Sequence":
        return [_plain(definition)]
    return [step for part in definition.get("pretokenizers", []) for step in _steps(part)]


def _plain(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what changes no token; what may be left out is filled in."""
    if step.get("type") == "ByteLevel":
        return {"use_regex": True, **{key: value for key, value in step.items() if key != "trim_offsets"}}
    return dict(step)


def _refusal(reason: str) -> InputError:
    return InputError(
        f"the tokenizer cannot be written into a GGUF file, for llama.cpp would read text otherwise: {reason}. "
        "Export the model with --to hf"
    )
