"""reasoning-gym's own data sets and scorers behind our stage and our worker."""

from __future__ import annotations

from pathlib import Path

import pytest
import reasoning_gym

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.problems.contaminated import BenchmarkGate
from pocketlm.problems.rewards import RewardSettings, Scored, Scorer
from pocketlm.stages.task_problems import TaskProblemsSettings, task_problems
from tests.unit.test_problems import make_context
from tests.word_problem_files import write_items

pytestmark = pytest.mark.filterwarnings("default")  # the peer's own

EASY = {
    "chain_sum": {"size": 40, "config": {"max_terms": 3}},
    "countdown": {"size": 40},
    "letter_counting": {"size": 40},
}


def run(folder: Path, **given: object) -> Artifact:
    folder.mkdir(exist_ok=True)
    settings = TaskProblemsSettings(**{"selection_items": 5, "report_items": 5, **given})
    return task_problems.function(settings, Inputs({}), make_context(folder))


def test_rows_are_made_from_the_seed_and_scored_as_the_library_does(tmp_path: Path) -> None:
    artifact = run(tmp_path / "a", reasoning_gym=EASY)
    assert run(tmp_path / "b", reasoning_gym=EASY).digest == artifact.digest
    rows = artifact.read_jsonl("prompts.jsonl")
    assert {row["level"] for row in rows} == set(EASY)
    with Scorer(RewardSettings()) as scorer:
        scorer.check(rows)
        for row in rows:
            data = reasoning_gym.create_dataset(row["dataset"], size=1)
            for completion in (row["answer"], f" {row['answer']}\n", "0", "", "nonsense", "1 + 1"):
                theirs = data.score_answer(completion.strip(), row["entry"])
                assert scorer.score(row, completion) == Scored(float(theirs >= 1), theirs >= 1), completion
        assert not scorer.faults


def test_their_scorers_stay_inside_the_worker(tmp_path: Path) -> None:
    artifact = run(tmp_path / "a", reasoning_gym={"countdown": {"size": 20}})
    row = artifact.read_jsonl("prompts.jsonl")[0]
    target = tmp_path / "escaped"
    with Scorer(RewardSettings(seconds=2)) as scorer:
        for attack in (
            f"open({str(target)!r}, 'w')",
            "__import__('os').fork()",
            "9**9**9**9",
            "(" * 5000,
            "[0]*10**12",
        ):
            assert not scorer.score(row, attack).correct
        assert scorer.score(row, row["answer"]).correct
    assert not target.exists()


def test_gsm_symbolic_is_refused_for_what_it_is_made_of(tmp_path: Path) -> None:
    made = reasoning_gym.create_dataset("gsm_symbolic", size=60, seed=5)
    source = [(made[at]["question"], f"{made[at]['metadata']['answer_cot']}") for at in range(60)]
    benchmark = write_items(tmp_path / "test.jsonl", source)
    assert BenchmarkGate([benchmark]).is_the_benchmark([question for question, _ in source])
    with pytest.raises(InputError, match="rows hold an item of the benchmark, so it is made from the benchmark"):
        run(tmp_path / "a", reasoning_gym={"gsm_symbolic": {"size": 60}}, benchmark=str(benchmark))


def test_its_refusals_become_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no data set of this name\. Nearest: chain_sum"):
        run(tmp_path / "a", reasoning_gym={"chain_sums": {}})
    with pytest.raises(InputError, match=r"chain_sum\.config: reasoning-gym refuses it \(AssertionError"):
        run(tmp_path / "b", reasoning_gym={"chain_sum": {"config": {"max_terms": -1}}})
    with pytest.raises(InputError, match=r"chain_sum\.config: reasoning-gym refuses it \(TypeError"):
        run(tmp_path / "c", reasoning_gym={"chain_sum": {"config": {"depth": 1}}})
