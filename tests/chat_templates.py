"""Chat templates in the styles that models come with, written for the tests, and a tokenizer folder to try them in."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import tokenizers

from pocketlm.data.tokens.chat_template_files import load_tokenizer
from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from tests.data_pipeline import corpus

DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with a system turn of its own, as SmolLM2 has it."""

INSTRUCTION_MARKS = """\
{%- if messages[0].role == 'system' %}
    {%- set system = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + message.content.strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""
"""Llama 2's: no generation prompt, the answer begins with a space, </s> closes it."""

BARS = """\
{% for message in messages %}
{% if message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% else %}
{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
"""Zephyr's: line ends come from the template's own lines, </s> closes every turn."""

GENERATION_BLOCKS = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\n' }}
    {%- if loop.index0 > 50 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
"""Marks what the assistant says itself."""

TEMPLATES = {
    "default system prompt": DEFAULT_SYSTEM,
    "instruction marks": INSTRUCTION_MARKS,
    "bars": BARS,
    "generation blocks": GENERATION_BLOCKS,
}


@cache
def definition() -> str:
    """A small tokenizer with <s> and </s> beside our special tokens."""
    backend = tokenizers.Tokenizer.from_str(train_tokenizer(corpus(20), 500).to_str())
    backend.add_special_tokens(["<s>", "</s>"])
    return backend.to_str()


def write_folder(folder: Path, template: str) -> Path:
    """A tokenizer folder as models have it, with the template in its tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(definition(), encoding="utf-8")
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration), encoding="utf-8")
    return folder


def tokenizer_with(folder: Path, template: str) -> Tokenizer:
    return load_tokenizer(write_folder(folder, template))
