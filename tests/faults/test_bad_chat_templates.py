"""Chat templates that loop, explode, reach for Python or refuse: stopped and named, with the row where there is one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pocketlm.data.tokens import chat_template, chat_template_process
from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.chat_template_files import template_of
from pocketlm.data.tokens.chat_template_process import TemplateRefusal
from pocketlm.errors import InputError
from pocketlm.posttraining.examples import asked_prompts, solved_examples
from pocketlm.posttraining.sft.example_store import Account, conversation_examples
from tests.chat_templates import DEFAULT_SYSTEM, GENERATION_BLOCKS, tokenizer_with

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LOOP, r"more than 0\.4 s"),
        ("{{ 10 ** (10 ** 9) }}", r"more than 0\.4 s|memory"),
        ("{% for a in range(9000) %}{{ 'long ' * 200 }}{% endfor %}", "more than 4,000,000 characters"),
        ("{{ 'a' * 10 ** 12 }}", "memory"),
        (
            "{% set all = namespace(text='aa') %}{% for a in range(60) %}{% set all.text = all.text ~ all.text %}"
            "{% endfor %}",
            r"memory|more than 0\.4 s",
        ),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|SecurityError"),
        ("{{ messages.append(1) }}", "unsafe|SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe|SecurityError"),
        ("{{ ''|attr('__class__') }}{{ ('' | attr('__class__')).mro() }}", "unsafe|SecurityError"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ '\\ud800' }}", "half of a surrogate pair"),
        ("{% for a in messages %}", "TemplateSyntaxError"),
        ("{{ nowhere.content }}", "'nowhere' is undefined"),
        ("{{ messages[9].content }}", "UndefinedError"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
    ],
)
def test_a_bad_template_is_stopped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, reason: str
) -> None:
    monkeypatch.setattr(chat_template_process, "MOST_SECONDS", 0.4)
    tokenizer = tokenizer_with(tmp_path / "folder", template)
    began = time.monotonic()
    with pytest.raises(
        InputError, match=rf"folder/tokenizer_config\.json: the chat template cannot be rendered: .*({reason})"
    ):
        encode_chat(tokenizer, MESSAGES)
    assert time.monotonic() - began < 30
    with pytest.raises(InputError, match="cannot be rendered"):  # a second time as well: the child is started again
        asked_prompts(tokenizer, [{"id": "row/7", "prompt": "a"}])


def test_the_row_is_named(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "{{ messages[0].content[9].x.y }}")
    with pytest.raises(InputError, match=r"solved\.jsonl: row 'row/7': .*cannot be rendered"):
        solved_examples(tokenizer, [{"id": "row/7", "prompt": "a", "answer": "b"}], "solved.jsonl")
    with pytest.raises(InputError, match=r"row 'row/7': .*cannot be rendered"):
        asked_prompts(tokenizer, [{"id": "row/7", "prompt": "a"}])
    with pytest.raises(InputError, match=r"conversation 'c/1': .*cannot be rendered"):
        conversation_examples(tokenizer, [{"id": "c/1", "messages": MESSAGES}], 100, Account())


def test_a_conversation_that_the_template_does_not_take_is_counted(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn, please') }}{% endif %}"
    tokenizer = tokenizer_with(tmp_path, template + DEFAULT_SYSTEM)
    refused = [{"role": "system", "content": "Be kind."}, *MESSAGES]
    with pytest.raises(TemplateRefusal, match="no system turn, please"):
        encode_chat(tokenizer, refused)
    account = Account()
    rows = [{"id": "1", "messages": refused}, {"id": "2", "messages": MESSAGES}]
    assert len(conversation_examples(tokenizer, rows, 100, account)) == 1
    assert account.refused == 1


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        # the last answer is written otherwise than the ones before
        (
            "{% for m in messages %}{{ m.content ~ ('<|im_end|>' if loop.last else '</s>') }}{% endfor %}",
            "does not begin",
        ),
        ("{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}", "no special token closes"),
        # asked with "assistant: ", whose space is part of the answer's first token
        (
            "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '</s>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
            "begins before it",
        ),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}</s>{% endfor %}",
            r"not inside its \{% generation %\} block",
        ),
    ],
)
def test_a_template_by_which_nothing_can_be_taught_is_refused(tmp_path: Path, template: str, reason: str) -> None:
    tokenizer = tokenizer_with(tmp_path, template)
    messages = [*MESSAGES, {"role": "user", "content": "c"}, {"role": "assistant", "content": "base"}]
    with pytest.raises(InputError, match=reason):
        encode_chat(tokenizer, messages)


def test_without_a_closing_token_there_is_nothing_to_stop_at(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "{% for m in messages %}{{ m.content ~ '\n' }}{% endfor %}")
    with pytest.raises(InputError, match="no special token follows an assistant's answer"):
        _ = tokenizer.turn_end


def test_one_conversation_too_large_for_a_template_ends_nothing(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, DEFAULT_SYSTEM)
    large = [{"role": "user", "content": "a " * chat_template_process.MOST_CHARACTERS}, *MESSAGES[1:]]
    half = [{"role": "user", "content": "\ud800"}, *MESSAGES[1:]]
    account = Account()
    rows = [{"id": "1", "messages": large}, {"id": "2", "messages": half}, {"id": "3", "messages": MESSAGES}]
    assert len(conversation_examples(tokenizer, rows, 100, account)) == 1
    assert account.refused == 2


def test_many_turns_are_rendered_in_several_requests_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_with(tmp_path, DEFAULT_SYSTEM)
    messages = [{**turn, "content": turn["content"] * (number + 1)} for number in range(7) for turn in MESSAGES]
    whole = encode_chat(tokenizer, messages)
    assert tokenizer.chat_template is not None
    process = tokenizer.chat_template._process
    counts: list[int] = []
    render = process.render
    monkeypatch.setattr(process, "render", lambda given, cuts: (counts.append(len(cuts)), render(given, cuts))[1])
    monkeypatch.setattr(chat_template, "CHARACTERS_TOGETHER", 4 * len(tokenizer.chat_template.render(messages)) + 4)
    counts.clear()
    assert encode_chat(tokenizer, messages) == whole
    assert counts == [1, 4, 4, 4, 2]


@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, GENERATION_BLOCKS])
def test_a_conversation_of_more_answers_than_are_taught_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(chat_template, "MOST_ANSWERS", 3)
    tokenizer, account = tokenizer_with(tmp_path, template), Account()
    rows = [{"id": "1", "messages": MESSAGES * 4}, {"id": "2", "messages": MESSAGES * 3}]
    assert len(conversation_examples(tokenizer, rows, 1000, account)) == 1
    assert account.refused == 1
    with pytest.raises(TemplateRefusal, match="it has 4 answers, at most 3 are taught"):
        encode_chat(tokenizer, MESSAGES * 4)
    assert encode_chat(tokenizer, MESSAGES * 4, add_generation_prompt=True), "asking is one rendering, however long"


def test_answers_are_found_without_encoding_all_before_each_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_with(tmp_path, DEFAULT_SYSTEM)
    own = tokenizer.chat_template
    assert own is not None
    assert own._separable
    own.__dict__["_separable"] = False
    with monkeypatch.context() as bounded:
        bounded.setattr(chat_template, "MOST_CHARACTERS_AGAIN", 1000)
        assert encode_chat(tokenizer, MESSAGES * 4)
        with pytest.raises(TemplateRefusal, match=r"its 60 answers take 11\d,\d\d\d characters to find"):
            encode_chat(tokenizer, MESSAGES * 60)
    own.__dict__["_separable"] = True
    sizes: list[int] = []
    encoded = own._encoded
    monkeypatch.setattr(own, "_encoded", lambda text: (sizes.append(len(text)), encoded(text))[1])
    _, mask = encode_chat(tokenizer, MESSAGES * 60)
    assert sum(sizes) < 2 * len(own.render(MESSAGES * 60))
    assert sum(mask) == 120, "each answer and the token that ends it"


def test_a_template_that_does_not_take_our_probe_takes_others(tmp_path: Path) -> None:
    picky = "{% if messages[0].content == 'Say it.' %}{{ raise_exception('not that') }}{% endif %}" + DEFAULT_SYSTEM
    tokenizer, plain = tokenizer_with(tmp_path / "picky", picky), tokenizer_with(tmp_path / "plain", DEFAULT_SYSTEM)
    assert encode_chat(tokenizer, MESSAGES * 2) == encode_chat(plain, MESSAGES * 2)


@pytest.mark.parametrize(
    "given", [["x"], [1], [{"name": "other", "template": "x"}], [{"name": "default", "template": 5}], 5]
)
def test_a_template_of_another_type_is_named(tmp_path: Path, given: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": given}))
    with pytest.raises(InputError, match="neither a text nor a list with one named default"):
        template_of(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is damaged"):
        template_of(tmp_path)


def test_a_turn_that_the_template_does_not_write_cannot_be_continued(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "{{ messages[0].content }}</s>")
    assert tokenizer.chat_template is not None
    with pytest.raises(TemplateRefusal, match="does not write the last turn"):
        tokenizer.chat_template.render_open(MESSAGES)


def test_the_day_is_always_the_same(tmp_path: Path) -> None:
    """A text that changes from day to day could not be made again."""
    tokenizer = tokenizer_with(tmp_path, "{{ strftime_now('%d %b %Y') }}{{ messages | tojson }}")
    assert tokenizer.chat_template is not None
    text = tokenizer.chat_template.render([{"role": "user", "content": "<é>"}])
    assert text == '26 Jul 2024[{"role": "user", "content": "<é>"}]'


def test_a_noncharacter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="noncharacters"):
        tokenizer_with(tmp_path / "one", "\ufdd0")
    tokenizer = tokenizer_with(tmp_path / "two", DEFAULT_SYSTEM)
    with pytest.raises(TemplateRefusal, match="noncharacters"):
        encode_chat(tokenizer, [{"role": "user", "content": "\ufdd2"}])
