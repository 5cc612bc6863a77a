"""Arithmetic ladder, short instructions and their stage: sizes, disjoint splits, determinism, right answers."""

from __future__ import annotations

import datetime
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.stage import Inputs
from pocketlm.problems.arithmetic import LADDER, SPLITS, deal
from pocketlm.problems.instructions import CLOSED_FAMILIES, FAMILIES, instructions
from pocketlm.problems.verifier import verify
from pocketlm.problems.words import WORDS
from pocketlm.stages.problems import ProblemsSettings, make_splits, problems, recheck
from tests.toy import Silent

SEED = 1337

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Monday"]
MONTHS = [datetime.date(2024, month, 1).strftime("%B") for month in (*range(1, 13), 1)]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, Any]]]:
    return make_splits(ProblemsSettings(), SEED)


def pair(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(sorted(row["operands"]))


def test_the_ladder_is_every_ordered_pair_below_100_once(splits: dict[str, list[dict[str, Any]]]) -> None:
    operands = [tuple(row["operands"]) for name in SPLITS for row in splits[name]]
    assert len(operands) == 10_000
    assert set(operands) == set(itertools.product(range(100), repeat=2))


def test_no_pair_is_in_two_splits_and_both_orders_are_in_one(splits: dict[str, list[dict[str, Any]]]) -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        assert not {pair(row) for row in splits[one]} & {pair(row) for row in splits[other]}
    for name in SPLITS:
        operands = {tuple(row["operands"]) for row in splits[name]}
        assert operands == {(right, left) for left, right in operands}


def test_rows_say_what_they_are(splits: dict[str, list[dict[str, Any]]]) -> None:
    for name in SPLITS:
        for row in splits[name]:
            left, right = row["operands"]
            digits = tuple(sorted((len(str(left)), len(str(right))), reverse=True))
            assert row["level"] == {(1, 1): 1, (2, 1): 2, (2, 2): 3}[digits]
            assert row["prompt"] == f"{left}+{right}="
            assert row["id"] == f"addition/{row['level']}/{left}+{right}"
            assert ("answer" in row) == (name != "prompts")
            assert row.get("answer", str(left + right)) == str(left + right)
            assert verify(row, str(left + right)).correct


def test_few_problems_are_solved(splits: dict[str, list[dict[str, Any]]]) -> None:
    assert 405 <= len(splits["solved"]) <= 420
    assert {name: len({pair(row) for row in splits[name]}) for name in SPLITS} == {
        "solved": 210,
        "selection": 168,
        "report": 418,
        "prompts": 5050 - 210 - 168 - 418,
    }


def test_splits_depend_on_the_seed_and_nothing_else(splits: dict[str, list[dict[str, Any]]]) -> None:
    assert make_splits(ProblemsSettings(), SEED) == splits
    other = make_splits(ProblemsSettings(), SEED + 1)
    assert {pair(row) for row in other["solved"]} != {pair(row) for row in splits["solved"]}


def test_more_solved_problems_keep_the_order_of_the_pairs() -> None:
    rung = LADDER[1]
    few = deal(rung, {"solved": 10, "selection": 5, "report": 5}, SEED)
    more = deal(rung, {"solved": 20, "selection": 5, "report": 5}, SEED)
    assert more["solved"][:10] == few["solved"]


def test_a_level_that_runs_out_of_pairs_is_refused() -> None:
    settings = ProblemsSettings(solved_pairs=(30, 1, 1), report_pairs=(17, 1, 1))
    with pytest.raises(InputError, match=r"level 1 has 55 operand pairs, but 55 are asked for .*report_pairs"):
        make_splits(settings, SEED)


def test_a_number_for_each_level_is_needed() -> None:
    with pytest.raises(InputError, match=r"problems\.solved_pairs has 2 numbers; the ladder has 3 levels"):
        ProblemsSettings(solved_pairs=(1, 2))


def test_words_are_distinct() -> None:
    words = [word for group in WORDS.values() for word in group]
    assert len(words) == len(set(words)) == 84
    assert all(word.isascii() and word.islower() and word.isalpha() for word in words)


def answer_by_another_rule(family: str, prompt: str) -> str:
    """The answer to an instruction, worked out from its text alone."""
    words = prompt.replace("?", " ").replace(",", " ").replace(":", " ").rstrip(". ").split()
    known = [word for word in words if any(word.lower() in group for group in WORDS.values())]
    match family:
        case "repeat":
            return known[-1]
        case "repeat_twice":
            return f"{known[-1]} {known[-1]}"
        case "first_letter":
            return known[-1][0]
        case "last_letter":
            return known[-1][-1]
        case "opposite_case":
            return known[-1].swapcase()
        case "count_letters":
            return str(sum(1 for _ in known[-1]))
        case "starts_with":
            return "yes" if known[-1].startswith(words[-1]) else "no"
        case "word_group":
            return next(group for group, members in WORDS.items() if known[0] in members)
        case "first_word":
            return known[-2]
        case "swap_words":
            return " ".join(reversed(known[-2:]))
        case "larger_number":
            return max((word for word in words if word.isdigit()), key=int)
        case "next_day" | "next_month":
            names = DAYS if family == "next_day" else MONTHS
            return names[names.index(next(word.strip(".") for word in words if word.strip(".") in names)) + 1]
        case "next_letter":
            return chr(ord(words[-1]) + 1)
        case _:
            asks = any(word in prompt for word in ("are", "name", "who"))
            return "I am pocketlm, a small language model." if asks else "Hello! How can I help you?"


def test_every_instruction_has_the_right_answer(splits: dict[str, list[dict[str, Any]]]) -> None:
    for stem in ("instructions", "instructions_selection", "instructions_report"):
        for row in splits[stem]:
            assert row["answer"] == answer_by_another_rule(row["level"], row["prompt"]), row
            assert verify(row, row["answer"]).correct


def test_instruction_splits_share_nothing(splits: dict[str, list[dict[str, Any]]]) -> None:
    stems = ("instructions", "instructions_selection", "instructions_report")
    prompts = [row["prompt"] for stem in stems for row in splits[stem]]
    assert len(prompts) == len(set(prompts))
    key_of = {(name, prompt): key for name, items in FAMILIES.items() for key, prompt, _ in items()}
    keys: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for stem in stems:
        for row in splits[stem]:
            keys[row["level"]][stem].add(key_of[row["level"], row["prompt"]])
    for family, by_stem in keys.items():
        for one, other in itertools.combinations(stems, 2):
            assert not by_stem[one] & by_stem[other], family
    assert 1000 <= len(splits["instructions"]) <= 2000
    for stem in stems:
        assert set(Counter(row["level"] for row in splits[stem])) == set(FAMILIES)


def test_every_fact_of_a_closed_family_is_trained_in_some_wording() -> None:
    made = instructions({"training": 120, "selection": 16, "report": 16}, SEED)
    for family in CLOSED_FAMILIES:
        trained = {row["answer"] for row in made["training"] if row["level"] == family}
        asked = {row["answer"] for split in made.values() for row in split if row["level"] == family}
        assert asked == trained


def make_context(folder: Path) -> Context:
    return Context(
        "problems",
        SEED,
        Runtime(threads=1, device="cpu"),
        folder,
        lambda kind: Draft(
            folder / "artifact", {"kind": kind, "stage": "problems", "version": 1, "fingerprint": "f", "inputs": {}}
        ),
        lambda kind, body: None,
        Progress(Silent()),  # type: ignore[arg-type]
        StopRequest(),
    )


def test_the_stage_writes_its_files_and_its_recheck_finds_a_changed_row(tmp_path: Path) -> None:
    settings, context, inputs = ProblemsSettings(), make_context(tmp_path), Inputs({})
    artifact = problems.function(settings, inputs, context)
    assert artifact.metrics["solved.problems"] == len(artifact.read_jsonl("solved.jsonl"))
    assert all("answer" not in row for row in artifact.read_jsonl("prompts.jsonl"))
    assert [row["id"].split("/")[0] for row in artifact.read_jsonl("instructions_report.jsonl")].count("addition") == 0
    assert recheck(settings, artifact, inputs, context).differences == []

    path = artifact.file("report.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[5]["answer"] = str(int(rows[5]["answer"]) + 1)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = Artifact.open(artifact.path, verify=False)
    differences = recheck(settings, changed, inputs, context).differences
    assert differences == [
        "report.jsonl does not hold the rows that the settings and the seed give",
        f"report.jsonl: {rows[5]['prompt']}{rows[5]['answer']} is wrong",
    ]
