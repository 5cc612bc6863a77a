"""A tokenizer folder with the chat template that it brings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.chat_template import ChatTemplate
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, with the folder's own chat template where that is not ours.

    Raises:
        InputError: see `Tokenizer.load`; or a file of the template cannot be read.
    """
    tokenizer = Tokenizer.load(folder)
    source, variables, origin = template_of(folder)
    if source is not None and source != CHAT_TEMPLATE:
        tokenizer.chat_template = ChatTemplate(source, variables, tokenizer, origin)
    set_text_start(tokenizer, variables)
    return tokenizer


def set_text_start(tokenizer: Tokenizer, variables: Mapping[str, str]) -> None:
    """Take over which token opens a text, where the special tokens by name say so and the tokenizer knows it."""
    number = tokenizer.special_id(variables.get("bos_token", ""))
    if number is not None:
        tokenizer.text_start = number


def template_of(folder: Path) -> tuple[str | None, dict[str, str], str]:
    """Chat template of a tokenizer folder (None: it has none), its special tokens by name, and the template's file.

    As in transformers, `chat_template.jinja` stands above the key `chat_template` of `tokenizer_config.json`, which may
    be a list of named templates; the one named "default" is taken.
    """
    file, configuration = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        settings: Any = json.loads(configuration.read_text(encoding="utf-8")) if configuration.is_file() else {}
        source: Any = file.read_text(encoding="utf-8") if file.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder}: its tokenizer_config.json or chat_template.jinja is damaged ({error})") from error
    settings = settings if isinstance(settings, dict) else {}
    variables = {}
    for name in SPECIAL_NAMES:
        value = settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            variables[name] = value
    if source is not None:
        return str(source), variables, str(file)
    source = settings.get("chat_template")
    if isinstance(source, list):
        named = (item for item in source if isinstance(item, dict) and item.get("name") == "default")
        source = next((item.get("template") for item in named), False)
    if source is not None and not isinstance(source, str):
        raise InputError(f"{configuration}: chat_template is neither a text nor a list with one named default")
    return source, variables, str(configuration)
