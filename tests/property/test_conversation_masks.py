"""Conversations of any contents: the mask covers exactly the assistant's words and the token that ends them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.tokens.chat import encode_chat, encode_chats
from pocketlm.data.tokens.chat_template_process import TemplateRefusal
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.posttraining.sft.example_store import Account, conversation_examples
from tests.chat_templates import BARS, DEFAULT_SYSTEM, GENERATION_BLOCKS, tokenizer_with

TEMPLATES = {"default": "", "system": DEFAULT_SYSTEM, "bars": BARS, "generation": GENERATION_BLOCKS}
SPELLED = ["<|im_end|>", "</s>", "<|im_start|>assistant\n", "<s>", "{{ x }}", "<|im_", "end|>"]
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=12)
CONTENTS = st.lists(TEXT | st.sampled_from(SPELLED), min_size=1, max_size=4).map("".join).map(str.strip).filter(bool)
TURNS = st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=3)


@cache
def tokenizer(name: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        made = tokenizer_with(Path(folder), TEMPLATES[name] or DEFAULT_SYSTEM)
    if name == "default":
        made.chat_template = None
    return made


def conversation(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(turns=TURNS)
def test_trained_on_is_what_the_assistant_says_and_its_end(name: str, turns: list[tuple[str, str]]) -> None:
    own = tokenizer(name)
    ids, mask = encode_chat(own, conversation(turns))
    runs: list[list[int]] = [[]]
    for token, mark in zip(ids, mask, strict=True):
        if mark:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    learned = [run for run in runs if run]
    assert [run[-1] for run in learned] == [own.turn_end] * len(turns)
    assert [own.decode(run[:-1]) for run in learned] == [said for _, said in turns]
    assert all(own.turn_end not in run[:-1] for run in learned), "nothing that is said ends a turn"
    whole = own.decode(ids)
    assert all(asked in whole for asked, _ in turns)


@pytest.mark.parametrize("name", ["system", "bars", "generation"])
@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.tuples(TEXT.filter(str.strip), TEXT.filter(str.strip)), min_size=1, max_size=3))
def test_borders_are_those_of_the_whole_text_before_an_answer(name: str, turns: list[tuple[str, str]]) -> None:
    """Encoding only what follows the last special token finds what encoding everything before an answer finds."""

    def outcome(separable: bool) -> object:
        template = tokenizer(name).chat_template
        assert template is not None
        template.__dict__["_separable"] = separable
        try:
            return encode_chat(tokenizer(name), conversation(turns))
        except TemplateRefusal as refusal:
            return str(refusal)
        finally:
            template.__dict__["_separable"] = True

    assert outcome(True) == outcome(False)


@settings(max_examples=40, deadline=None)
@given(conversations=st.lists(TURNS, min_size=1, max_size=4), context=st.integers(8, 60))
def test_many_together_are_each_alone_and_cut_at_a_turn(
    conversations: list[list[tuple[str, str]]], context: int
) -> None:
    own = tokenizer("default")
    every = [conversation(turns) for turns in conversations]
    alone = [encode_chat(own, messages) for messages in every]
    assert encode_chats(own, every) == alone
    account = Account()
    rows = [{"id": str(place), "messages": messages} for place, messages in enumerate(every)]
    store = conversation_examples(own, rows, context, account)
    assert len(store) + account.too_long == len(every)
    fitting = []
    for ids, mask in alone:
        ends = [at + 1 for at, mark in enumerate(mask) if mark and not mask[at + 1] and at + 1 <= context + 1]
        if ends:
            fitting.append((ids[: ends[-1]], mask[: ends[-1]]))
    assert [(example.tokens, example.trained) for example in store] == fitting
    whole = sum(max(at for at, mark in enumerate(mask) if mark) < context + 1 for _, mask in alone)
    assert account.cut == len(fitting) - whole
