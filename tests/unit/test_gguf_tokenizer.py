"""The tokenizer that a GGUF file carries, against the tokenizer.json that the file was made from."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.formats.gguf_tokenizer import gguf_tokenizer
from tests.evaluation_world import trained

TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}<|im_end|>{% endfor %}"


def write(path: Path, tokenizer: Tokenizer, pre: str = "qwen2", kind: str = "gpt2", types: int | None = None) -> Path:
    definition = tokenizer.definition()
    vocabulary = definition["model"]["vocab"]
    special = {token["content"] for token in definition["added_tokens"]}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens][:types])
    writer.add_token_merges([" ".join(pair) for pair in definition["model"]["merges"]])
    writer.add_chat_template(TEMPLATE)
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return gguf_tokenizer(write(tmp_path_factory.mktemp("gguf") / "small.gguf", trained()[1]))


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_text_has_the_same_tokens(read: Tokenizer, text: str) -> None:
    _, own = trained()
    assert read.encode(text) == own.encode(text)
    assert read.decode(read.encode(text)) == text


def test_special_tokens_and_the_chat_form_come_with_it(read: Tokenizer) -> None:
    _, own = trained()
    assert (read.vocabulary, read.end_of_text, read.im_end) == (own.vocabulary, own.end_of_text, own.im_end)
    assert read.chat_template is not None
    assert read.chat_template.render([{"role": "user", "content": "hi"}], False) == "[user]hi<|im_end|>"
    assert read.encode("<|im_end|>") == own.encode("<|im_end|>")
    assert len(read.encode("<|im_end|>")) > 1


def test_what_cannot_be_built_from_the_file_is_refused(tmp_path: Path) -> None:
    tokenizer = trained()[1]
    with pytest.raises(InputError, match=r"cuts text as 'tekken'.*--tokenizer"):
        gguf_tokenizer(write(tmp_path / "pre.gguf", tokenizer, pre="tekken"))
    with pytest.raises(InputError, match="of the kind 'llama'"):
        gguf_tokenizer(write(tmp_path / "kind.gguf", tokenizer, kind="llama"))
    with pytest.raises(CorruptionError, match="token types"):
        gguf_tokenizer(write(tmp_path / "types.gguf", tokenizer, types=7))
    writer = gguf.GGUFWriter(tmp_path / "none.gguf", "llama")
    writer.add_name("none")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="carries no tokenizer"):
        gguf_tokenizer(tmp_path / "none.gguf")
