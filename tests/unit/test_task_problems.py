"""Problems of other people's tasks: a user's rows with and without a reward function, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.problems import rewards
from pocketlm.problems.contaminated import CONTAMINATED
from pocketlm.problems.foreign_tasks import NO_JSON, Judged, without_repeats
from pocketlm.problems.rewards import OWN_REWARD, RewardSettings, Scorer
from pocketlm.stages.task_problems import GSM_SYMBOLIC, TaskProblemsSettings, identity, task_problems
from tests.unit.test_problems import make_context
from tests.word_problem_files import ITEMS, write_items

NO_TEXT = "an answer or a solution that is no text, or empty"
REWARD = "def reward(prompt, completion, row): return float(completion == prompt[::-1])\n"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(folder: Path, **given: object) -> Artifact:
    folder.mkdir(exist_ok=True)
    settings = TaskProblemsSettings(**{"selection_items": 3, "report_items": 2, **given})
    return task_problems.function(settings, Inputs({}), make_context(folder))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Say {at} backwards", "answer": str(at)[::-1], "level": at % 2} for at in range(100, 120)]
    rows[5]["solution"] = "Slowly."
    bad = [{"answer": "no prompt"}, {"prompt": " "}, {"prompt": "a"}, {"prompt": "b", "answer": 3}, rows[0]]
    bad += [{"prompt": "c", "answer": " "}, {"prompt": "d", "answer": "x", "solution": 1}]
    return write_rows(tmp_path / "own.jsonl", [*rows, *bad, {"prompt": "e", "answer": "x", "level": [1]}])


def test_rows_with_an_answer_are_dealt_and_the_others_named(own: Path, tmp_path: Path) -> None:
    artifact = run(tmp_path / "a", own={"path": str(own)}, solved_share=0.4)
    rows = {stem: artifact.read_jsonl(f"{stem}.jsonl") for stem in ("solved", "prompts", "selection", "report")}
    assert {stem: len(found) for stem, found in rows.items()} == {
        "solved": 6,
        "prompts": 9,
        "selection": 3,
        "report": 2,
    }
    ids = [row["id"] for found in rows.values() for row in found]
    assert len(set(ids)) == 20
    assert all(row["task"] == "answer" and row["level"] in (0, 1) for found in rows.values() for row in found)
    assert all("solution" not in row for row in rows["prompts"])
    assert [row["reason"] for row in artifact.read_jsonl("rejected.jsonl")] == [
        *("no prompt", "no prompt", "no answer", NO_TEXT, "a prompt again", NO_TEXT, NO_TEXT),
        "a level that is neither text nor a whole number",
    ]
    with Scorer(RewardSettings()) as scorer:
        scorer.check(rows["prompts"])
        assert all(scorer.score(row, row["answer"]).correct for row in rows["prompts"])
        assert not any(scorer.score(row, "0" + row["answer"]).correct for row in rows["prompts"])
    assert run(tmp_path / "b", own={"path": str(own)}, solved_share=0.4).digest == artifact.digest


def test_every_row_may_be_asked(own: Path, tmp_path: Path) -> None:
    artifact = run(tmp_path / "a", own={"path": str(own)}, solved_share=1.0, prompts="all")
    solved, prompts = artifact.read_jsonl("solved.jsonl"), artifact.read_jsonl("prompts.jsonl")
    assert [row["id"] for row in solved] == [row["id"] for row in prompts]


def test_a_reward_function_travels_with_its_rows(tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text(REWARD)
    rows = write_rows(tmp_path / "own.jsonl", [{"prompt": f"word {at}", "id": at} for at in range(12)])
    artifact = run(tmp_path / "a", own={"path": str(rows), "reward": str(reward)})
    assert artifact.read_jsonl("solved.jsonl") == []  # nothing to learn from without an answer
    [row, *_] = prompts = artifact.read_jsonl("prompts.jsonl")
    reward.write_text("raise SystemExit")
    with Scorer(RewardSettings(), artifact.file(OWN_REWARD)) as scorer:
        scorer.check(prompts)
        assert scorer.score(row, row["prompt"][::-1]).correct
        assert scorer.score(row, row["prompt"]).value == 0.0


def test_the_identity_is_the_content_of_rows_and_reward(own: Path, tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text(REWARD)

    def of(**given: object) -> str:
        return identity(TaskProblemsSettings(own={"path": str(own), **given}))  # type: ignore[arg-type]

    without, with_reward = of(), of(reward=str(reward))
    assert without != with_reward
    reward.write_text(REWARD + "\n")
    assert of(reward=str(reward)) != with_reward


def test_rows_of_a_benchmark_are_left_out(tmp_path: Path) -> None:
    benchmark = write_items(tmp_path / "test.jsonl", ITEMS)
    plain = [{"prompt": f"Write the number that follows {at}", "answer": str(at + 1)} for at in range(40)]
    leaked = {"prompt": ITEMS[4][0].replace("220", "240"), "answer": "150"}
    rows = write_rows(tmp_path / "own.jsonl", [*plain, leaked])
    artifact = run(tmp_path / "a", own={"path": str(rows)}, benchmark=str(benchmark))
    assert artifact.read_jsonl("rejected.jsonl") == [{"id": "own/41", "reason": CONTAMINATED}]
    write_rows(rows, [*plain[:8], leaked])
    with pytest.raises(InputError, match="1 of 9 rows hold an item of the benchmark"):
        run(tmp_path / "b", own={"path": str(rows)}, benchmark=str(benchmark))


@pytest.mark.parametrize("column", ["prompt", "answer", "id", "level", "note"])
def test_half_of_a_surrogate_pair_is_rejected_with_its_row(own: Path, tmp_path: Path, column: str) -> None:
    """JSON can spell it; no UTF-8 file, and no tokenizer, can hold it."""
    before = len(run(tmp_path / "a", own={"path": str(own)}).read_jsonl("rejected.jsonl"))
    with own.open("a") as stream:
        stream.write(json.dumps({"prompt": "q", "answer": "z", column: "\ud800"}) + "\n")
    rejected = run(tmp_path / "b", own={"path": str(own)}).read_jsonl("rejected.jsonl")
    assert len(rejected) == before + 1
    assert rejected[-1] == {"id": "own/\\ud800" if column == "id" else "own/29", "reason": NO_JSON}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_brackets_without_end_are_named(tmp_path: Path, suffix: str) -> None:
    rows = tmp_path / f"deep.{suffix}"
    rows.write_text("[" * 100_000)
    with pytest.raises(InputError, match=rf"deep\.{suffix}"):
        run(tmp_path / "a", own={"path": str(rows)})


def test_bad_input_is_named(own: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task is given"):
        run(tmp_path / "a")
    with pytest.raises(InputError, match="built on templates of GSM8K's test split"):
        run(tmp_path / "b", reasoning_gym={GSM_SYMBOLIC: {}})
    with pytest.raises(InputError, match="which leaves none to train on"):
        run(tmp_path / "c", own={"path": str(own)}, selection_items=100)
    with pytest.raises(InputError, match=r"task_problems\.own\.path"):
        run(tmp_path / "d", own={"path": str(tmp_path / "none.jsonl")})
    empty = write_rows(tmp_path / "empty.jsonl", [{"prompt": ""}, {"text": "x"}])
    with pytest.raises(InputError, match=r"task own: not one of 2 rows is of use \(no prompt\)"):
        run(tmp_path / "e", own={"path": str(empty)})
    broken = tmp_path / "broken.py"
    broken.write_text("reward = (")
    with pytest.raises(InputError, match=r"reward\.py cannot be loaded: SyntaxError"):
        run(tmp_path / "f", own={"path": str(own), "reward": str(broken)})


def test_reasoning_gym_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed\. Install it: pip install"):
        run(tmp_path / "a", reasoning_gym={"chain_sum": {}})


def test_repeats_are_named_once() -> None:
    rows: list[Judged] = [
        ({"id": "1", "prompt": "a"}, ""),
        ({"id": "2", "prompt": "a"}, ""),
        ({"id": "1", "prompt": "b"}, ""),
        ({"id": "3"}, NO_JSON),
        ({"id": "2", "prompt": "c"}, ""),
    ]
    assert [reason for _, reason in without_repeats(iter(rows))] == ["", "a prompt again", "an id again", NO_JSON, ""]
