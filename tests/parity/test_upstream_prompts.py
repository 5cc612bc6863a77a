"""Prompts, choices, targets and hashes of the benchmarks against upstream's own definitions, loaded as they are.

Upstream's side reads "the hub": `datasets.load_dataset` is replaced by one that returns the same rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import pytest

from pocketlm.evaluation.benchmarks.tasks import BENCHMARKS, benchmark_of, find_benchmarks, upstream_definition
from pocketlm.evaluation.harness import FEW_SHOT_SEED, Suite, open_suite
from pocketlm.evaluation.task_data import TaskData, read_benchmarks
from tests.benchmark_files import benchmark_rows, by_split, write_benchmarks

TASKS = [*(name for name in BENCHMARKS if name != "blimp"), "blimp_anaphor_number_agreement", "blimp_complex_NP_island"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


def requests(task: Any, chat: Any = None) -> list[tuple[Any, ...]]:
    task.set_fewshot_seed(seed=FEW_SHOT_SEED)
    task.build_all_requests(
        limit=None, rank=0, world_size=1, apply_chat_template=chat is not None, fewshot_as_multiturn=chat is not None,
        chat_template=chat, tokenizer_name="t",
    )  # fmt: skip
    return [(one.request_type, one.doc_id, one.idx, one.args) for one in task.instances]


def rendered(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    return "|".join(f"{turn['role']}:{turn['content']}" for turn in history) + ("|" if add_generation_prompt else "")


def upstream(name: str) -> Any:
    """The task as upstream defines it; the network is not reached."""
    from lm_eval.tasks import TaskManager

    rows = benchmark_rows()
    benchmark = benchmark_of(name) or name
    splits = by_split(rows, benchmark)
    if benchmark == "blimp":
        splits = {"train": [row for row in rows["blimp"] if f"blimp_{row['UID']}" == name]}
    for absent in ("train", "validation", "test"):
        splits.setdefault(absent, next(iter(splits.values())))
    loaded = datasets.DatasetDict({split: datasets.Dataset.from_list(own) for split, own in splits.items()})
    with patch.object(datasets, "load_dataset", lambda *arguments, **options: loaded):
        manager = TaskManager(include_path=str(upstream_definition(name).parent), include_defaults=False)
        (task,) = manager.load([name])["tasks"].values()
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    return task


@pytest.fixture(scope="module")
def suite(folder: Path) -> Any:
    with open_suite(read_benchmarks(TaskData({}), find_benchmarks(folder))) as opened:
        yield opened


@pytest.mark.parametrize("name", TASKS)
def test_prompts_and_targets_are_upstreams(suite: Suite, name: str) -> None:
    ours, theirs = suite._tasks[name], upstream(name)
    for chat in (None, rendered):
        asked = requests(ours, chat)
        assert asked == requests(theirs, chat)
        assert len(asked) >= 3
    documents = list(zip(ours.eval_docs, theirs.eval_docs, strict=True))
    assert documents
    for own, other in documents:
        assert own == other
        assert ours.doc_to_target(own) == theirs.doc_to_target(other)
    assert ours.config.metric_list == theirs.config.metric_list
    assert ours.config.filter_list == theirs.config.filter_list
    assert ours.config.generation_kwargs == theirs.config.generation_kwargs


def test_five_examples_of_the_training_split_stand_before_each_question_of_gsm8k(suite: Suite) -> None:
    for _, _, _, (prompt, _) in requests(suite._tasks["gsm8k"]):
        assert prompt.count("Question: ") == 6
        assert prompt.count("Question: A young ") == 5


def test_every_phenomenon_of_blimp_is_known_upstream() -> None:
    from pocketlm.evaluation.scores import BLIMP_TASKS

    parts = {path.stem for path in upstream_definition("blimp_wh_island").parent.glob("*.yaml")} - {"_blimp"}
    assert len(parts) == BLIMP_TASKS
