"""Word problems: reading, programs, derived problems against solvers written by hand, and the stage that deals them."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.problems.contaminated import CONTAMINATED, BenchmarkGate
from pocketlm.problems.derived import derive, template_of
from pocketlm.problems.gsm8k import Form, WordProblem, read_gsm8k, read_scored
from pocketlm.problems.rationales import RationaleError, read_rationale, steps
from pocketlm.problems.verifier import verify
from pocketlm.problems.word_problems import derived_rows
from pocketlm.stages.word_problems import WordProblemsSettings, identity, recheck, word_problems
from tests.hub_stand_in import REPOSITORY, hub_server
from tests.unit.test_problems import make_context
from tests.word_problem_files import BROKEN, ITEMS, TRAPS, write_items

Numbers = list[Fraction]

SOLVERS: tuple[Callable[[Numbers], Fraction], ...] = (
    lambda n: n[0] + n[0] / 3,
    lambda n: n[0] * n[1] - n[2],
    lambda n: n[0] * n[1] - n[2],
    lambda n: n[0] * (1 - n[1] / 100),
    lambda n: n[0] - n[1] * n[2],
    lambda n: n[1] / n[0],
)
"""For each of ITEMS: the answer, from the numbers of its question in their order."""
CARDINALS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
WORDS = {word: at for at, word in enumerate(CARDINALS, 2)}


def numbers_of(question: str) -> Numbers:
    found = re.findall(r"\d[\d,]*(?:\.\d+)?|" + "|".join(rf"\b{word}\b" for word in WORDS), question)
    return [
        Fraction(WORDS.get(text, text.replace(",", "")) if text in WORDS else text.replace(",", "")) for text in found
    ]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[WordProblem]:
    return read_gsm8k([write_items(tmp_path_factory.mktemp("items") / "train.jsonl", ITEMS)], "train").items


def test_rationales_are_brought_into_one_form(problems: list[WordProblem]) -> None:
    assert problems[1].solution("rationale") == (
        "The rolls bring 1250 * $0.40 = $<<1250*.4=500>>500.00.\n"
        "So $500 - $140 = $<<500-140=360>>360 is left.\n#### 360"
    )
    for problem in problems:
        assert read_rationale(problem.rationale) == problem.rationale
        for form in ("rationale", "program"):
            row = problem.row(form, solved=True)
            assert verify(row, row["solution"]).correct
            assert row["level"] == (
                row["solution"].count("<<") if form == "rationale" else row["solution"].count("\n") + 1
            )
            assert "solution" not in problem.row(form, solved=False)


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ("so 2 + 3 = 5 pens", "so 2 + 3 = <<2+3=5>>5 pens"),
        ("$40 − $4 = $36 more", "$40 − $4 = $<<40-4=36>>36 more"),
        ("4 x 1,000 ÷ 8 = 500.", "4 x 1,000 ÷ 8 = <<4*1000/8=500>>500."),
        *((text, text) for text in ("2 + 3 = 6", "2x + 3 = 5", "x + 2 = 5", "20% * 50 = 10", "1 + 2 + 3x = 5")),
        *((text, text) for text in ("3 pens * 2 = 6", "1/3 + 1/3 = 2/3", "10/3 = 3.33", "2 * 3 + 1 pen = 7", "7 = 7")),
    ],
)
def test_only_right_equations_get_a_note(text: str, noted: str) -> None:
    assert read_rationale(text) == noted


@pytest.mark.parametrize("reason", BROKEN)
def test_items_that_cannot_be_read_are_named(tmp_path: Path, reason: str) -> None:
    read = read_gsm8k([write_items(tmp_path / "a.jsonl", [BROKEN[reason], ITEMS[0]])], "train")
    assert read.rejected == [("gsm8k/train/1", reason)]
    assert [item.id for item in read.items] == ["gsm8k/train/2"]


@pytest.mark.parametrize("part", ["= ", " ", "1  +  ", "1+$ ", "1,111,", "1+", "=$ (", "1 = ", "<<1+1=", "1/1 "])
def test_a_long_rationale_takes_no_long_time(part: str) -> None:
    text = f"={part * (15_000 // len(part))}x <<12/4=3>>3"
    started = time.monotonic()
    with contextlib.suppress(RationaleError):
        template_of(WordProblem("x", "How many are 12 in 4?", read_rationale(text), Fraction(3)))
    assert time.monotonic() - started < 10


def test_programs_name_what_earlier_notes_found(problems: list[WordProblem]) -> None:
    assert [problem.solution("program") for problem in problems] == [
        "a = 36 / 3\nanswer = 36 + a",
        "a = 1250 * 0.4\nanswer = a - 140",
        "a = 7 * 4\nanswer = a - 9",
        "a = 80 * 0.2\nanswer = 80 - a",
        "a = 15 * 6\nanswer = 220 - a",
        "answer = 450 / 18",
    ]


@pytest.mark.parametrize("reason", TRAPS)
def test_what_no_program_and_no_template_can_be_made_of_is_refused(tmp_path: Path, reason: str) -> None:
    [problem] = read_gsm8k([write_items(tmp_path / "a.jsonl", [TRAPS[reason]])], "train").items
    with pytest.raises(RationaleError, match=reason):
        problem.solution("program")
    with pytest.raises(RationaleError, match=reason):
        template_of(problem)


@pytest.mark.parametrize(
    ("question", "rationale", "answer", "reason"),
    [
        ("Ed has 31 hats, and 17 new ones.", "He has 31+17 = <<31+17=48>>48. So x = 3 pens + 5.", 48, "an equation"),
        ("Ed was born in 1990. He is 33.", "That is 1990+33 = <<1990+33=2023>>2023.", 2023, None),
        ("In 1/6 of 84 cases.", "84*1/6 = <<84*1/6=14>>14.", 14, None),
        ("Five girls and five boys sit at 10 desks.", "10*5 = <<10*5=50>>50.", 50, "no number that may vary"),
        ("On the 5th of 15:30.", "5*15 = <<5*15=75>>75.", 75, "no number that may vary"),
        ("He eats 7 pears in a week.", "7*7 = <<7*7=49>>49.", 49, "no number that may vary"),
    ],
)
def test_numbers_that_mean_something_else_stay(question: str, rationale: str, answer: int, reason: str | None) -> None:
    problem = WordProblem("gsm8k/train/1", question, rationale, Fraction(answer))
    if reason is None:
        template = template_of(problem)
        assert [number.value for number in template.varying] == [33 if "1990" in question else 84]
    else:
        with pytest.raises(RationaleError, match=reason):
            template_of(problem)


@given(item=st.integers(0, len(ITEMS) - 1), seed=st.integers(0, 2**63 - 1), variant=st.integers(0, 999))
@settings(max_examples=150)
def test_derived_problems_are_right_by_another_way(
    problems: list[WordProblem], item: int, seed: int, variant: int
) -> None:
    original = problems[item]
    template = template_of(original)
    derived = derive(original, template, seed, variant)
    assert derived == derive(original, template, seed, variant)
    assert derived is not None
    assert derived.id == f"{original.id}/derived/{variant}"
    assert derived.question != original.question
    assert re.sub(r"[\d,.]+|" + "|".join(WORDS), "#", derived.question) == re.sub(
        r"[\d,.]+|" + "|".join(WORDS), "#", original.question
    )
    before, after = numbers_of(original.question), numbers_of(derived.question)
    assert SOLVERS[item](before) == original.answer
    assert SOLVERS[item](after) == derived.answer
    assert [a < b for a in before for b in before] == [a < b for a in after for b in after] or item == 3
    assert read_rationale(derived.rationale) == derived.rationale
    olds, news = list(steps(original.rationale)), list(steps(derived.rationale))
    for old, new in zip(olds, news, strict=True):
        assert Fraction(str(sympy.sympify(new.expression, rational=True))) == new.value
        assert new.value > 0
        assert new.value.denominator == 1 or old.value.denominator != 1
        assert new.value <= max(1000, 5 * old.value)
        shown = re.match(r"[\d,]*\.?\d*", derived.rationale[new.end :])
        assert shown is not None
        assert Fraction(shown[0].strip(",").rstrip(".").replace(",", "")) == new.value
    forms: tuple[Form, ...] = ("rationale", "program")
    for form in forms:
        with contextlib.suppress(AmbiguousProgram):
            row = solved_row(derived, form)
            assert verify(row, row["solution"]).correct


class AmbiguousProgram(Exception):
    """By chance a new number is the value of a note too: no program is made of it."""


def solved_row(problem: WordProblem, form: Form) -> dict[str, object]:
    try:
        return problem.row(form, solved=True)
    except RationaleError as error:
        if form == "program" and str(error) == "a number with two sources":
            raise AmbiguousProgram from error
        raise


def test_variants_and_seeds_give_other_problems(problems: list[WordProblem]) -> None:
    template = template_of(problems[4])
    made = {derived.question for v in range(20) if (derived := derive(problems[4], template, 1, v))}
    assert len(made) > 15
    other = {derived.question for v in range(20) if (derived := derive(problems[4], template, 2, v))}
    assert made != other


def test_a_derived_problem_that_is_a_benchmark_item_is_left_out(problems: list[WordProblem], tmp_path: Path) -> None:
    item = problems[1]
    twin = derive(item, template_of(item), 0, 0)
    assert twin is not None
    report = write_items(tmp_path / "test.jsonl", [(twin.question, twin.solution("rationale"))])
    gate = BenchmarkGate([report])
    assert gate.holds([twin.row("rationale", solved=True), problems[2].row("rationale", solved=True)]) == [True, False]
    free, found = (derived_rows(problems, 3, "rationale", each, 0, lambda done, total: None) for each in (None, gate))
    assert f"{item.id}/derived/0" in [row["id"] for row in free[0][item.id]]
    assert found[0][item.id] == []
    assert found[1].refused[CONTAMINATED] == len(free[0][item.id])
    assert {key: rows for key, rows in found[0].items() if rows} == {k: v for k, v in free[0].items() if k != item.id}


# --- the stage ------------------------------------------------------------------------------------------------------


def many_items(count: int) -> list[tuple[str, str]]:
    names = [
        f"{first}{last}" for first in ("Ada", "Bo", "Cy", "Di", "Eve") for last in ("la", "mir", "nan", "rin", "tos")
    ]
    things = ("lamps", "kites", "maps", "bells", "rings", "drums")
    return [
        (
            f"{names[at % 25]} owns {30 + at} {things[at % 6]} and sells {11 + at % 7} of them to "
            f"{names[(at + 3) % 25]}. How many {things[at % 6]} does {names[at % 25]} keep?",
            f"It is {30 + at}-{11 + at % 7} = <<{30 + at}-{11 + at % 7}={19 + at - at % 7}>>{19 + at - at % 7}.\n"
            f"#### {19 + at - at % 7}",
        )
        for at in range(count)
    ]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train = write_items(tmp_path / "train.jsonl", [*many_items(40), *ITEMS[:2], TRAPS["no calculator note"]])
    return train, write_items(
        tmp_path / "test.jsonl", [ITEMS[1], ITEMS[4], BROKEN["a value that is not written exactly"]]
    )


def run(folder: Path, **given: object) -> Artifact:
    folder.mkdir(exist_ok=True)
    return word_problems.function(WordProblemsSettings(**given), Inputs({}), make_context(folder))


def original(row: dict[str, object]) -> str:
    return str(row["id"]).partition("/derived/")[0]


def test_the_stage_deals_whole_items_and_leaves_out_what_the_report_file_holds(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    train, report = files
    given = {"derived_per_item": 3, "selection_items": 8, "solved_share": 0.5, "prompts": "unsolved"}
    artifact = run(tmp_path / "a", train=str(train), report=str(report), **given)
    rows = {stem: artifact.read_jsonl(f"{stem}.jsonl") for stem in ("solved", "prompts", "selection", "report")}
    home = {stem: {original(row) for row in rows[stem]} for stem in rows}
    assert not home["solved"] & home["prompts"]
    assert not home["selection"] & (home["solved"] | home["prompts"])
    assert (len(home["selection"]), len(home["solved"]), len(home["prompts"])) == (8, 17, 17)
    assert all("/derived/" not in row["id"] for row in rows["selection"])
    assert sum("/derived/" in row["id"] for row in rows["solved"]) > 30
    assert all("solution" not in row and row["answer"] for row in rows["prompts"] + rows["report"])
    assert [row["answer"] for row in rows["report"]] == ["360", "130", "3.33"]
    assert artifact.read_jsonl("rejected.jsonl") == [{"id": "gsm8k/train/42", "reason": CONTAMINATED}]
    assert artifact.metrics["derived.problems"] == sum(
        "/derived/" in row["id"] for row in rows["solved"] + rows["prompts"]
    )
    again = run(tmp_path / "b", train=str(train), report=str(report), **given)
    assert again.digest == artifact.digest


def test_every_item_may_be_asked_and_programs_are_another_form(files: tuple[Path, Path], tmp_path: Path) -> None:
    train, _ = files
    artifact = run(tmp_path / "a", train=str(train), form="program", selection_items=5, report_items=6)
    solved, prompts = artifact.read_jsonl("solved.jsonl"), artifact.read_jsonl("prompts.jsonl")
    assert [row["id"] for row in solved] == [row["id"] for row in prompts]
    assert {row["task"] for row in solved} == {"program"}
    assert len(artifact.read_jsonl("report.jsonl")) == 6
    assert artifact.read_jsonl("rejected.jsonl") == [{"id": "gsm8k/train/43", "reason": "no calculator note"}]


def test_the_recheck_finds_a_changed_solution(files: tuple[Path, Path], tmp_path: Path) -> None:
    settings = WordProblemsSettings(train=str(files[0]), selection_items=5)
    artifact = word_problems.function(settings, Inputs({}), make_context(tmp_path))
    assert recheck(settings, artifact, Inputs({}), make_context(tmp_path)).differences == []
    rows = artifact.read_jsonl("solved.jsonl")
    rows[3]["answer"] = "1000000"
    rows[4]["id"] = artifact.read_jsonl("selection.jsonl")[0]["id"]
    artifact.file("solved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = Artifact.open(artifact.path, verify=False)
    assert recheck(settings, changed, Inputs({}), make_context(tmp_path)).differences == [
        f"solved.jsonl: the solution of {rows[3]['id']} does not give its answer",
        f"selection.jsonl: {rows[4]['id']} is in training too",
    ]


def test_training_on_the_test_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    report = files[1]
    with pytest.raises(InputError, match="Problems are never made from test items"):
        run(tmp_path / "a", train=str(report), report=str(report), selection_items=1)
    mixed = write_items(tmp_path / "mixed.jsonl", [*many_items(10), ITEMS[4]])
    with pytest.raises(InputError, match="Problems are never made from test items"):
        run(tmp_path / "b", train=str(mixed), report=str(report), selection_items=1)


def test_bad_input_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    train = files[0]
    with pytest.raises(InputError, match=r"word_problems\.train"):
        run(tmp_path / "a", train=str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="which leaves none to train on"):
        run(tmp_path / "b", train=str(train), selection_items=500)
    with pytest.raises(InputError, match="leaves no unsolved item to ask"):
        run(tmp_path / "c", train=str(train), prompts="unsolved")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"question": "a"}\n')
    with pytest.raises(InputError, match=r"wrong\.jsonl, row 1, column 'answer': is missing"):
        run(tmp_path / "d", train=str(wrong))
    unfinished = write_items(tmp_path / "unfinished.jsonl", [BROKEN["no final answer that is a number"]])
    with pytest.raises(InputError, match="has to end in a line"):
        read_scored([unfinished], "report", "rationale")


def test_the_identity_is_the_content(files: tuple[Path, Path], tmp_path: Path) -> None:
    train, report = files
    one = identity(WordProblemsSettings(train=str(train)))
    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(train.read_bytes())
    assert identity(WordProblemsSettings(train=str(copy))) == one
    assert identity(WordProblemsSettings(train=str(train), report=str(report))) != one
    copy.write_bytes(train.read_bytes() + b"\n")
    assert identity(WordProblemsSettings(train=str(copy))) != one


def test_files_on_the_hub_are_read(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with hub_server() as hub:
        hub.files = {"main/train.jsonl": files[0].read_bytes()}
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        artifact = run(tmp_path / "a", train=f"hf://datasets/{REPOSITORY}/main/*.jsonl", selection_items=5)
        with pytest.raises(InputError, match=r"^word_problems\.report = hf://"):
            run(tmp_path / "b", train=str(files[0]), report=f"hf://datasets/{REPOSITORY}/test/*.jsonl")
    local = run(tmp_path / "c", train=str(files[0]), selection_items=5)
    assert artifact.read_jsonl("solved.jsonl") == local.read_jsonl("solved.jsonl")
