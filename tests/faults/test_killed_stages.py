"""Killed inside of tokenizing, fine-tuning, reinforcement learning, evaluation and the report: the same run in the end.

Pretraining and checkpoints are killed at finer grain in `test_exact_resume.py`, `test_run_faults.py` and
`test_checkpoint_disk.py`. Here kills fall on the operations by which a process changes the disk, in turn into each
stage; the long test kills whole processes at random moments.
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from pyarrow import parquet

from bench.kill_and_resume import _differences, _run_with_kills, _seconds, _stage_under_way
from pocketlm.commands import publish_report
from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.model.storage import save_model
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner
from pocketlm.pipeline.seeds import generator
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, stage
from pocketlm.stages.evaluate import evaluate
from pocketlm.stages.report import report
from pocketlm.stages.rlvr import rlvr
from pocketlm.stages.sft import sft
from pocketlm.stages.tokenize import tokenize
from tests import evaluation_world, posttraining_world
from tests.end_to_end.conftest import rehearse
from tests.faulty_disk import FaultyDisk, Killed

KILLED = ("tokenize", "sft", "rlvr", "evaluate", "report")
RECIPE = """
name: small
seed: 7
model: rlvr
runtime: {threads: 1, device: cpu, disk_megabytes: 1}
texts: {}
tokenizer: {stage: given_tokenizer}
tokenize: {inputs: {documents: texts, tokenizer: tokenizer}}
taught: {}
problems: {stage: both_problems}
sft:
  inputs: {model: taught, problems: problems}
  steps: 6
  batch_rows: 12
  warmup_steps: 1
  validate_every: 3
  patience: null
  max_tokens: 4
  checkpoint_every: 2
rlvr:
  inputs: {model: taught, problems: problems}
  steps: 3
  batch_rows: 48
  warmup_steps: 1
  validate_every: 2
  profile_prompts: 4
  minimum_live_groups: 0
  rollouts: {samples: 8, max_tokens: 4}
  checkpoint_every: 1
evaluate:
  inputs: {models: [sft, rlvr], documents: texts, problems: problems}
  comparisons: [[rlvr, sft]]
report: {inputs: {stages: "*"}}
"""


class Nothing(Settings):
    pass


@stage(version=1, inputs={}, output="documents")
def texts(settings: Nothing, inputs: Inputs, context: Context) -> Artifact:
    """Documents of three splits, cloze items and licences."""
    draft = context.draft("documents")
    evaluation_world.fill_documents(draft)
    for split in ("train", "heldout", "heldout_selection"):
        rows = evaluation_world.texts()[:20]
        columns = {"id": [f"{split}/{place}" for place in range(len(rows))], "source": ["made"] * len(rows)}
        table = pyarrow.table({**columns, "text": pyarrow.array(rows, pyarrow.large_string())})
        parquet.write_table(table, draft.path / f"{split}.parquet", row_group_size=5)
    return draft.commit({})


@stage(version=1, inputs={}, output="tokenizer")
def given_tokenizer(settings: Nothing, inputs: Inputs, context: Context) -> Artifact:
    """The tokenizer of the taught model."""
    draft = context.draft("tokenizer")
    _write_tokenizer(draft.path)
    return draft.commit({})


@stage(version=1, inputs={}, output="model")
def taught(settings: Nothing, inputs: Inputs, context: Context) -> Artifact:
    """A model that is right now and then."""
    draft = context.draft("model")
    save_model(draft.path, posttraining_world.taught_model())
    _write_tokenizer(draft.path)
    return draft.commit({})


@stage(version=1, inputs={}, output="problems")
def both_problems(settings: Nothing, inputs: Inputs, context: Context) -> Artifact:
    """Problems to learn from and to be scored on."""
    draft = context.draft("problems")
    made = posttraining_world.problems_artifact(context.work / "made")
    for name in ("solved", "instructions", "selection", "prompts"):
        draft.write_jsonl(f"{name}.jsonl", made.read_jsonl(f"{name}.jsonl"))
    evaluation_world.fill_problems(draft)
    return draft.commit({})


def _write_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(posttraining_world.small_tokenizer()._backend.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


STAGES = {
    definition.name: definition
    for definition in (texts, given_tokenizer, tokenize, taught, both_problems, sft, rlvr, evaluate, report)
}


def run(folder: Path) -> None:
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(RECIPE, encoding="utf-8")
    Runner(load_recipe(recipe, STAGES), folder, publish_report, Progress(io.StringIO())).run()


class KilledInside(FaultyDisk):
    """Kills at operation number `after`, counted from the beginning of a stage, or of the next that is still to do."""

    def __init__(self, folder: Path, stage: str, after: int, torn: bool) -> None:
        super().__init__(folder, torn=torn)
        self.stages, self.after = KILLED[KILLED.index(stage) :], after
        self.begun = False

    def _operation(self, kind: str, path: str) -> None:
        self.begun = self.begun or Path(path).name.rpartition("-")[0] in self.stages
        if self.begun and self.at is None:
            self.after -= 1
            if self.after < 0:
                self.at = len(self.operations)
        super()._operation(kind, path)


def state(folder: Path) -> dict[str, Any]:
    """Digests and metrics of everything, the logs, and the figures of the report."""
    artifacts = {path.name: Artifact.open(path) for path in sorted((folder / "artifacts").iterdir())}
    figures = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "digests": {name: artifact.digest for name, artifact in artifacts.items()},
        "metrics": {name: artifact.metrics for name, artifact in artifacts.items()},
        "logs": {name: artifacts[name].read_jsonl("log.jsonl") for name in ("sft", "rlvr")},
        "report": {
            stage: {name: {key: figure[key] for key in figure.keys() - {"ledger"}} for name, figure in found.items()}
            for stage, found in figures["stages"].items()
        },
    }


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
def test_killed_inside_of_each_stage_it_ends_with_the_same_digests_logs_and_report(tmp_path: Path, kills: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with FaultyDisk(whole) as disk:
        run(whole)
    paths = [path for _, path in disk.operations]
    names = list(yaml.safe_load(RECIPE))[4:]
    begins = [next(at for at, path in enumerate(paths) if path.startswith(f"work/{name}-")) for name in names]
    lengths = {name: end - begin for name, (begin, end) in zip(names, pairwise([*begins, len(paths)]), strict=True)}
    rolls = generator(3, "kills")
    killed: Counter[str | None] = Counter()
    for name in KILLED:
        for _ in range(kills):
            after, torn = int(rolls.integers(1, lengths[name] - 4)), bool(rolls.random() < 0.5)
            with suppress(Killed), KilledInside(cut, name, after, torn):
                run(cut)
                continue  # a run that was adopted after a kill has nothing left to be killed in
            killed[_stage_under_way(cut)] += 1
    run(cut)
    assert state(cut) == state(whole)
    assert set(killed) >= set(KILLED), killed


@pytest.mark.long
@pytest.mark.xdist_group("end_to_end")
def test_fifty_processes_killed_at_random_moments_of_all_stages(tmp_path: Path) -> None:
    """The quickstart in miniature, `kill -9`, as `python -m bench.kill_and_resume` does it."""
    reference = tmp_path / "reference"
    assert rehearse(reference).returncode == 0
    chooser, kills, stages = random.Random(1), 0, set()
    for number in range(1, 9):
        folder = tmp_path / f"killed-{number}"
        counted = _run_with_kills(folder, _seconds(tmp_path, reference), "rehearsal", min(14, 50 - kills), chooser)
        assert _differences(reference, folder) == []
        kills += len(counted)
        stages |= {kill["stage"] for kill in counted}
        if kills >= 50:
            break
    assert kills >= 50
    assert stages >= {"tokenize", "pretrain", "sft", "rlvr", "evaluate"}
