"""The conversations stage: forms, rules, duplicates, contamination, split, shares, erasure; every row accounted for."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pocketlm.data.conversations.conversation_settings import ConversationFilters, ConversationSource
from pocketlm.data.conversations.filters import DISCLAIMERS, filter_faults
from pocketlm.data.conversations.messages import messages_of
from pocketlm.data.sources.row_forms import Fault
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.conversations import ConversationsSettings, conversations, identity
from tests import posttraining_world as world

WORDS = ("river", "stone", "garden", "window", "paper", "silver", "morning", "bottle", "kitchen", "letter", "summer")


def sentence(seed: int, words: int = 12) -> str:
    return " ".join(f"{WORDS[(seed + place) % len(WORDS)]}{seed + place * place}" for place in range(words)) + "."


def chat(seed: int, turns: int = 1, system: str = "") -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    for turn in range(turns):
        number = seed * 10 + turn
        messages += [
            {"role": "user", "content": f"Question {sentence(number, 8)}"},
            {"role": "assistant", "content": f"Answer {sentence(number + 5000)}"},
        ]
    return {"messages": messages}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return str(path)


def run(
    folder: Path, inputs: dict[str, Artifact] | None = None, **settings: Any
) -> tuple[Artifact, list[tuple[str, Any]]]:
    surroundings = world.World(folder, "conversations")
    made = conversations.function(
        ConversationsSettings.model_validate(settings), Inputs(inputs or {}), surroundings.context
    )
    return made, surroundings.events


def rules(made: Artifact) -> Counter[str]:
    return Counter(row["rule"] for row in made.read_jsonl("rejected.jsonl"))


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


TWO = said(("user", "Hi"), ("assistant", "Hello"))


@pytest.mark.parametrize(
    ("settings", "row", "expected"),
    [
        ({}, {"messages": TWO}, TWO),
        (
            {"text_column": "conversations"},
            {"conversations": [{"from": "human", "value": " Hi "}, {"from": "gpt", "value": "Hello\n"}]},
            TWO,
        ),
        ({}, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, TWO[1]]}, TWO),
        ({"form": "prompt_response"}, {"prompt": "Hi", "response": "Hello"}, TWO),
        (
            {"form": "prompt_response", "response_column": "completion"},
            {"prompt": "Hi", "completion": "Hello<|endoftext|>\n"},
            TWO,
        ),
        (
            {"form": "prompt_response", "system_column": "system_prompt"},
            {"prompt": "Hi", "response": "Hello", "system_prompt": "Think."},
            [*said(("system", "Think.")), *TWO],
        ),
        ({"form": "instruction"}, {"instruction": "Hi", "input": "", "output": "Hello"}, TWO),
        (
            {"form": "instruction"},
            {"instruction": "Add.", "input": "1, 2", "output": "3"},
            said(("user", "Add.\n\n1, 2"), ("assistant", "3")),
        ),
        ({}, {"messages": [*said(("system", " ")), *TWO]}, TWO),
        ({}, {"messages": TWO[:1]}, "no_assistant_turn"),
        ({}, {"messages": [*TWO, TWO[0]]}, "no_answer_at_the_end"),
        ({}, {"messages": [TWO[0], TWO[0], TWO[1]]}, "not_alternating"),
        ({}, {"messages": TWO[1:]}, "not_alternating"),
        ({}, {"messages": [*TWO, *said(("system", "x")), *TWO]}, "not_alternating"),
        ({}, {"messages": said(("user", "Hi"), ("assistant", " \n"))}, "empty_turn"),
        ({}, {"messages": said(("user", "Hi"), ("assistant", "<|im_end|>"))}, "empty_turn"),
        ({}, {"messages": said(("user", "Hi"), ("assistant", "a<|im_end|>b"))}, "chat_markup"),
        ({}, {"messages": [{"role": "tool", "content": "x"}]}, "unknown_role"),
        ({}, {"messages": [{"role": "assistant", "content": None}]}, "no_text"),
        ({}, {"messages": []}, "no_messages"),
        ({}, {"messages": "Hi"}, "no_messages"),
        ({"form": "prompt_response"}, {"prompt": "Hi"}, "missing_column"),
        ({}, {"messages": said(("user", "\ud800"), ("assistant", "x"))}, "invalid_unicode"),
    ],
)
def test_forms_of_rows(settings: dict[str, Any], row: dict[str, Any], expected: Any) -> None:
    made = messages_of(row, ConversationSource(path="nowhere", **settings))
    assert (made.gate if isinstance(made, Fault) else made) == expected


def test_marks_at_the_end_are_cut_off_at_once() -> None:
    for inside in (" " * 300_000, "</s> " * 100_000):
        for behind in ("", "</s> \n<|im_end|>\t"):
            row = {"prompt": "Hi", "response": f"a{inside}b{behind}"}
            started = time.monotonic()
            made = messages_of(row, ConversationSource(path="nowhere", form="prompt_response"))
            assert time.monotonic() - started < 2
            if isinstance(made, Fault):
                assert "</s>" in inside
                assert made.gate == "chat_markup"
            else:
                assert made[-1]["content"] == f"a{inside}b"


def test_a_text_file_among_the_conversations_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "chats"
    folder.mkdir()
    write(folder / "chats.jsonl", [chat(seed) for seed in range(8)])
    (folder / "README.md").write_text("# My chats")
    (folder / "count.txt").write_text("8")
    made, _ = run(tmp_path, sources={"mine": {"path": str(folder)}})
    assert rules(made) == {"no_row": 2}
    assert made.metrics["read"] == 10


def answers(*texts: str) -> list[dict[str, str]]:
    return [turn for text in texts for turn in said(("user", "Why?"), ("assistant", text))]


@pytest.mark.parametrize(
    ("texts", "rule"),
    [
        ((sentence(1),), None),
        ((sentence(1), "no"), "short_response"),
        (("x" * 19,), "short_response"),
        (("x" * 20,), None),
        (("word " * 3200,), "repetitive"),
        (("é" * 16_001,), "long_response"),
        (("The capital of China is Beijing. " * 6,), "repetitive"),
        (("Sorry, as an AI Language Model I have no opinion.",), "disclaimer"),
        (("Sorry, but I\u2019m just an AI and cannot say.",), "disclaimer"),
        ((f"{sentence(3)} All rights reserved. Read our privacy policy.",), "boilerplate"),
    ],
)
def test_rules_on_what_is_said(texts: tuple[str, ...], rule: str | None) -> None:
    [fault] = filter_faults([answers(*texts)], ConversationFilters(), None)
    assert (fault.gate if fault else None) == rule


def test_rules_can_be_set(tmp_path: Path) -> None:
    off = ConversationFilters(
        minimum_response_characters=1, reject_disclaimers=False, maximum_repeated_ngram_share=None, maximum_tokens=7
    )
    texts = [answers("7"), answers("As an AI language model, no."), answers("The capital is Beijing. " * 6)]
    assert filter_faults(texts, off, [7, 7, 7]) == [None] * 3
    [fault] = filter_faults(texts[:1], off, [8])
    assert fault == Fault("too_many_tokens", "tokens of the conversation", 8.0, 7.0)
    assert all(phrase == phrase.lower() for phrase in DISCLAIMERS)


def test_every_row_is_kept_or_rejected_with_its_rule(tmp_path: Path) -> None:
    near = chat(1)
    near["messages"][1]["content"] += " Indeed."
    copied = chat(2)
    copied["messages"][0]["content"] = copied["messages"][0]["content"].upper() + "  "
    rows = [*(chat(seed) for seed in range(40)), near, copied, chat(50)["messages"], "{not json", {"messages": TWO[:1]}]
    other = tmp_path / "other.jsonl.gz"
    other.write_bytes(gzip.compress(json.dumps({"prompt": "Say it.", "completion": sentence(77)}).encode()))
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"instruction": ["Do it."], "input": [""], "output": [sentence(78)]}), table)
    sources = {
        "chats": {"path": write(tmp_path / "chats.jsonl", rows)},
        "pairs": {"path": str(other), "form": "prompt_response", "response_column": "completion"},
        "alpaca": {"path": str(table), "form": "instruction"},
    }
    made, _ = run(tmp_path, sources=sources, selection_share=0.1)
    training, selection = made.read_jsonl("training.jsonl"), made.read_jsonl("selection.jsonl")
    assert rules(made) == {
        "near_duplicate": 1, "exact_duplicate": 1, "missing_column": 1, "not_json": 1, "no_assistant_turn": 1
    }  # fmt: skip
    assert made.metrics["read"] == 47 == made.metrics["rejected"] + len(training) + len(selection)
    assert (made.metrics["conversations"], made.metrics["selection"]) == (len(training), len(selection)) == (38, 4)
    ids = [row["id"] for row in training]
    assert ids == sorted(ids, key=lambda name: (list(sources).index(name.split("/")[0]), int(name.split(":")[1])))
    assert {row["source"] for row in training} <= set(sources)
    for row in [*training, *selection]:
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
    again, _ = run(tmp_path / "again", sources=sources, selection_share=0.1)
    assert again.manifest["digest"] == made.manifest["digest"]


def test_a_question_is_never_on_both_sides(tmp_path: Path) -> None:
    rows = []
    for seed in range(60):
        row = chat(seed)
        row["messages"][0]["content"] = f"Question number {seed % 12}?"
        rows.append(row)
    source = {"mine": {"path": write(tmp_path / "rows.jsonl", rows)}}
    made, _ = run(tmp_path, sources=source, selection_share=0.25)
    asked = [
        {row["messages"][0]["content"] for row in made.read_jsonl(f"{part}.jsonl")}
        for part in ("training", "selection")
    ]
    assert asked[0] | asked[1] == {f"Question number {number}?" for number in range(12)}
    assert not asked[0] & asked[1]
    assert made.metrics["selection"] == 15
    capped, _ = run(tmp_path / "capped", sources=source, selection_share=0.25, selection_maximum=5)
    assert capped.metrics["selection"] == 5
    one = {"mine": {"path": write(tmp_path / "one.jsonl", rows[::12])}}
    with pytest.raises(InputError, match="all begin with the same question"):
        run(tmp_path / "one", sources=one)


def test_sources_are_mixed_in_their_shares(tmp_path: Path) -> None:
    sources = {
        "many": {"path": write(tmp_path / "many.jsonl", [chat(seed) for seed in range(60)])},
        "few": {"path": write(tmp_path / "few.jsonl", [chat(seed) for seed in range(100, 121)])},
    }
    made, _ = run(tmp_path, sources=sources, source_shares={"many": 0.5, "few": 0.5}, selection_maximum=1)
    counts = Counter(row["source"] for row in made.read_jsonl("training.jsonl"))
    assert counts["many"] == counts["few"] >= 20
    assert rules(made)["over_share"] == made.metrics["rejected"] > 30
    for shares, reason in (({"many": 1.0}, "must name every source"), ({"many": 0.5, "few": 0.4}, "not to 1")):
        with pytest.raises(ValidationError, match=reason):
            run(tmp_path / "wrong", sources=sources, source_shares=shares)


def test_a_share_of_the_system_turns_is_erased(tmp_path: Path) -> None:
    rows = [chat(seed, turns=2, system=f"Think in steps, {seed}.") for seed in range(80)] + [
        chat(seed) for seed in (90, 91)
    ]
    source = {"mine": {"path": write(tmp_path / "rows.jsonl", rows)}}

    def systems(folder: str, **settings: Any) -> dict[str, str]:
        made, _ = run(tmp_path / folder, sources=source, selection_maximum=1, **settings)
        first = {row["id"]: row["messages"][0] for row in made.read_jsonl("training.jsonl")}
        assert made.metrics["with_system"] == 80
        assert made.metrics["erased_system"] == pytest.approx(80 * settings.get("erase_system", 0), abs=14)
        return {name: turn["content"] if turn["role"] == "system" else "" for name, turn in first.items()}

    whole, half = systems("whole"), systems("half", erase_system=0.5)
    assert {half[name] for name in half if half[name] != whole[name]} == {""}
    more = systems("more", erase_system=0.8, generic_system="You help.")
    assert all(more[name] == "You help." for name in half if whole[name] and not half[name]), "the same rows and more"
    assert systems("again", erase_system=0.5) == half
    assert set(systems("all", erase_system=1.0).values()) == {""}


def test_scored_items_are_found_in_conversations(tmp_path: Path) -> None:
    question = (
        "A farmer sells 37 melons on Monday and twice as many on Friday; how many melons did the farmer sell in all?"
    )
    rows = [chat(seed) for seed in range(20)]
    rows[7]["messages"][0]["content"] = f"Please solve: {question}"
    rows[9]["messages"][1]["content"] = f"{sentence(9)} We know that {7}+{2}= is 9. Then 8+2= 10 follows from it."
    benchmark = write(tmp_path / "bench.jsonl", [{"id": "melons", "q": question}])
    settings = {
        "sources": {"mine": {"path": write(tmp_path / "rows.jsonl", rows)}},
        "contamination": {"benchmarks": {"mine": {"path": benchmark, "question": "q"}}},
    }
    made, _ = run(tmp_path, **settings)
    [rejected] = made.read_jsonl("rejected.jsonl")
    assert (rejected["rule"], rejected["id"]) == ("contamination_mine", "mine/rows.jsonl:8")
    before = identity(ConversationsSettings.model_validate(settings))
    write(tmp_path / "bench.jsonl", [{"id": "melons", "q": question + "?"}])
    assert identity(ConversationsSettings.model_validate(settings)) != before
    with pytest.raises(ValidationError, match="dropped whole"):
        ConversationsSettings.model_validate({**settings, "contamination": {"action": "cut"}})


def test_a_limit_in_tokens_needs_a_tokenizer(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "sources": {"mine": {"path": write(tmp_path / "rows.jsonl", [chat(seed, seed % 3 + 1) for seed in range(30)])}},
        "filters": {"maximum_tokens": 400},
    }
    with pytest.raises(InputError, match=r"filters\.maximum_tokens needs the input tokenizer"):
        run(tmp_path, **settings)
    tokenizer = world.model_artifact(tmp_path / "tokenizer", world.small_model())
    made, _ = run(tmp_path / "limited", {"tokenizer": tokenizer}, **settings)
    assert set(rules(made)) == {"too_many_tokens"}
    assert 0 < made.metrics["tokens"] <= 400 * made.metrics["conversations"]


def test_a_source_without_a_kept_row_is_said_loudly_and_none_at_all_is_refused(tmp_path: Path) -> None:
    good = {"path": write(tmp_path / "good.jsonl", [chat(seed) for seed in range(8)])}
    bad = {"path": write(tmp_path / "bad.jsonl", [{"messages": TWO}, {"messages": TWO[:1]}])}
    _, events = run(tmp_path, sources={"good": good, "bad": bad})
    [warning] = [body["message"] for kind, body in events if kind == "warning"]
    assert "sources.bad: none of its 2 rows was kept" in warning
    with pytest.raises(
        InputError, match=r"none is left after the rules .* of 2 rows read; rejected: .*no_assistant_turn 1"
    ):
        run(tmp_path / "none", sources={"bad": bad})
    for settings, reason in (
        ({"sources": {}}, "sources is empty"),
        ({"sources": {"a/b": good}}, "use letters"),
        ({"sources": {"docs": {"path": "python://documentation"}}}, "has no rows"),
        ({"sources": {"good": good}, "generic_system": "x"}, "erase_system is 0"),
        ({"sources": {"good": {**good, "form": "text"}}}, "form"),
        ({"sources": {"good": good}, "filters": {"minimum_response_characters": 99_999}}, "nothing would pass"),
    ):
        with pytest.raises(ValidationError, match=reason):
            ConversationsSettings.model_validate(settings)
