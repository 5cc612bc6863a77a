"""Which tokenizers can be said in GGUF: those that cut text as llama.cpp does under a name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers

from pocketlm.data.tokens.chat_template import ChatTemplate
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError
from pocketlm.model.formats.gguf_tokenizer import PRE_TOKENIZERS
from pocketlm.model.formats.gguf_vocabulary import pre_tokenizer_name, vocabulary_of
from tests.evaluation_world import trained

LLAMA_3 = {
    "type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}{1,3}"}, "behavior": "Isolated", "invert": False
}  # fmt: skip
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def changed(**changes: Any) -> Tokenizer:
    definition = trained()[1].definition()
    model = changes.pop("model", {})
    definition |= changes
    definition["model"] |= model
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(definition)))


@pytest.mark.parametrize("name", list(PRE_TOKENIZERS))
def test_the_name_is_found_in_any_spelling(name: str) -> None:
    steps = PRE_TOKENIZERS[name]
    bare = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    for spelling in (steps, bare, [{"type": "Sequence", "pretokenizers": steps}]):
        assert pre_tokenizer_name({"type": "Sequence", "pretokenizers": spelling}) == name
    if len(steps) == 1:
        assert pre_tokenizer_name(steps[0]) == name


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"type": "Sequence", "pretokenizers": [LLAMA_3, BYTES]}, "cuts text by Split then ByteLevel"),
        ({"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}, "cuts text by ByteLevel"),
        ({"type": "Metaspace"}, "cuts text by Metaspace"),
        (None, "cuts text by nothing"),
    ],
)
def test_another_cut_is_refused(definition: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(InputError, match=f"{message}.*Export the model with --to hf"):
        pre_tokenizer_name(definition)


def test_what_llama_cpp_would_not_do_is_refused() -> None:
    for tokenizer, message in (
        (changed(normalizer={"type": "NFC"}), r"normalises text first \(NFC\)"),
        (changed(model={"ignore_merges": True}), "ignore_merges = True"),
        (changed(model={"merges": []}), "no merges"),
    ):
        with pytest.raises(InputError, match=message):
            vocabulary_of(tokenizer, 300)
    added = trained()[1].definition()["added_tokens"]
    with pytest.raises(InputError, match=r"'<\|im_end\|>' takes the white space"):
        vocabulary_of(changed(added_tokens=[*added[:2], {**added[2], "lstrip": True}]), 300)


def test_tokens_that_are_not_special_are_user_defined() -> None:
    added = trained()[1].definition()["added_tokens"]
    more = {**added[2], "id": 300, "content": "<tool>", "special": False}
    found = vocabulary_of(changed(added_tokens=[*added, more]), 304)
    assert found.tokens[300:] == ["<tool>", "[PAD301]", "[PAD302]", "[PAD303]"]
    assert found.types[:3] + found.types[299:] == [3, 3, 3, 1, 4, 5, 5, 5]


def test_a_chat_form_of_its_own_comes_with_its_special_tokens() -> None:
    tokenizer = changed()
    source = "{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}"
    variables = {"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>", "pad_token": "nowhere"}
    tokenizer.chat_template = ChatTemplate(source, variables, tokenizer, "test")
    found = vocabulary_of(tokenizer, 300)
    assert found.template == source
    assert found.ids == {"bos": 1, "eos": 0, "padding": 0, "eot": 2}
