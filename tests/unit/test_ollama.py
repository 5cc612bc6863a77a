"""Modelfiles: Ollama's template says what our chat form says, and another form is not pretended to be known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.tokens.chat import Message, render
from pocketlm.data.tokens.chat_template import ChatTemplate
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError
from pocketlm.model.formats.ollama import chatml_system, modelfile
from tests.chat_templates import DEFAULT_SYSTEM, TEMPLATES, load_tokenizer, write_folder
from tests.evaluation_world import trained

MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text().map(str.strip)}
)


def instructions(text: str) -> dict[str, list[str]]:
    """INSTRUCTION -> its values, as Ollama's parser reads them."""
    found: dict[str, list[str]] = {}
    pattern = r'^(FROM|TEMPLATE|SYSTEM|PARAMETER \w+|LICENSE) (?:"""(.*?)"""|(.*?))$'
    for name, long, short in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
        found.setdefault(name, []).append(long or short.strip('"'))
    return found


def executed(template: str, messages: Sequence[Message]) -> str:
    """Go's text/template, as far as our template uses it: range over .Messages, two fields, trimming on the left."""
    match = re.fullmatch(r"\{\{- range \.Messages \}\}(.*)\{\{ end \}\}(.*)", template, re.DOTALL)
    assert match is not None
    body, rest = match.groups()
    turns = [
        body.replace("{{ .Role }}", message["role"]).replace("{{ .Content }}", message["content"])
        for message in messages
    ]
    return "".join(turns) + rest


@given(st.lists(MESSAGE, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_template_writes_our_chat_form(messages: list[Message]) -> None:
    values = instructions(modelfile("small.gguf", trained()[1], 128, "MIT"))
    assert executed(values["TEMPLATE"][0], messages) == render(messages, add_generation_prompt=True)


def test_parameters_and_licence() -> None:
    values = instructions(modelfile("small model.gguf", trained()[1], 128, 'Text with """three quotes""".\n'))
    assert values["FROM"] == ["./small model.gguf"]
    assert values["PARAMETER stop"] == ["<|im_end|>", "<|endoftext|>"]
    assert (values["PARAMETER num_ctx"], values["PARAMETER temperature"]) == (["128"], ["0"])
    assert values["LICENSE"] == ["Text with '''three quotes'''.\n"]
    assert "SYSTEM" not in values


def test_a_system_message_of_the_template_becomes_ollamas(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path, DEFAULT_SYSTEM))
    values = instructions(modelfile("small.gguf", tokenizer, 128, "MIT"))
    assert values["SYSTEM"] == ["You help."]
    messages = [{"role": "user", "content": "hi"}]
    told = [{"role": "system", "content": "You help."}, *messages]
    assert tokenizer.chat_template is not None
    assert executed(values["TEMPLATE"][0], told) == tokenizer.chat_template.render(messages, True)


@pytest.mark.parametrize("name", ["instruction marks", "bars"])
def test_another_form_is_left_to_the_gguf(tmp_path: Path, name: str) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path, TEMPLATES[name]))
    text = modelfile("small.gguf", tokenizer, 128, "MIT")
    assert "TEMPLATE" not in instructions(text)
    assert "not ChatML and not translated" in text
    assert instructions(text)["PARAMETER stop"] == ["</s>", "<|endoftext|>"]


TURNS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
)
HEADER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


@pytest.mark.parametrize(
    ("source", "system"),
    [
        (TURNS + HEADER, ""),
        (f"Hello. {TURNS}{HEADER}", None),
        ("{{ raise_exception('no') }}", None),
        ("{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}", None),
    ],
)
def test_chatml_is_told_by_what_a_template_writes(source: str, system: str | None) -> None:
    backend = trained()[1]
    tokenizer = Tokenizer(backend._backend)
    tokenizer.chat_template = ChatTemplate(source, {}, tokenizer, "test")
    assert chatml_system(tokenizer) == system


def test_a_name_that_would_end_its_line_is_refused() -> None:
    with pytest.raises(InputError, match="cannot stand in a Modelfile"):
        modelfile("a\nFROM /etc/x.gguf", trained()[1], 128, "MIT")


@pytest.mark.parametrize("spelling", ['x"\nFROM /etc/x.gguf', '""x'])
def test_a_stop_that_would_end_its_line_or_never_end_is_left_out(tmp_path: Path, spelling: str) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path, TEMPLATES["bars"]))
    assert tokenizer.chat_template is not None
    tokenizer.chat_template.special_tokens = {spelling: tokenizer.turn_end}
    values = instructions(modelfile("small.gguf", tokenizer, 128, "MIT"))
    assert (values["FROM"], values["PARAMETER stop"]) == (["./small.gguf"], ["<|endoftext|>"])
