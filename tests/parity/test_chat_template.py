"""The tokenizer folder in transformers: same text, same ids, special tokens set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pocketlm.data.tokens.chat import CHAT_TEMPLATE, encode_chat, render
from pocketlm.data.tokens.tokenizer import Tokenizer, tokenizer_config, train_tokenizer
from pocketlm.errors import InputError
from tests.data_pipeline import corpus

CONVERSATIONS = [
    [{"role": "user", "content": "12+34="}, {"role": "assistant", "content": "46"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "  \n Hello,\n\nünïcode 😀 \t"}],
    [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "\n- a\n- b\n"},
        {"role": "user", "content": "c"},
    ],
    [{"role": "user", "content": "{{ braces }} {% and %} <b>marks</b> & 'quotes' \"\\n\""}],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    (path / "tokenizer.json").write_text(train_tokenizer(corpus(20), 600).to_str(), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config()), encoding="utf-8")
    (path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def theirs(folder: Path):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def test_special_tokens_are_set(folder: Path, theirs) -> None:  # type: ignore[no-untyped-def]
    from transformers import PreTrainedTokenizerFast

    ours = Tokenizer.load(folder)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<|endoftext|>", "<|im_end|>", "<|endoftext|>")
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 2, 0)
    assert (ours.end_of_text, ours.im_start, ours.im_end) == (0, 1, 2)
    assert len(theirs) == ours.vocabulary == 600


@pytest.mark.parametrize("text", ["Plain text, 12.5 and more.", "ünï\n\n  code 😀\t\x00", "", "it's 1+1\r\n"])
def test_plain_text_has_equal_ids_without_added_tokens(folder: Path, theirs, text: str) -> None:  # type: ignore[no-untyped-def]
    assert theirs(text)["input_ids"] == Tokenizer.load(folder).encode(text)
    assert theirs.decode(theirs(text)["input_ids"]) == text


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [False, True])
def test_chat_renders_and_encodes_equally(folder: Path, theirs, messages: list[dict[str, str]], prompt: bool) -> None:  # type: ignore[no-untyped-def]
    rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    assert render(messages, prompt) == rendered
    assert encode_chat(Tokenizer.load(folder), messages, prompt)[0] == ids


def test_a_message_without_a_known_role_is_refused() -> None:
    with pytest.raises(InputError, match="expected 'role'"):
        render([{"role": "tool", "content": "x"}])
