"""Faults around a training run in its folder: damaged tokens, a folder that vanishes, full disks, a second process."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketlm.data.tokens.tokenizer import train_tokenizer
from pocketlm.errors import CorruptionError, InputError, Interrupted, PocketError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.ledger import Ledger, read_ledger
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, StageDefinition, stage
from pocketlm.pipeline.storage import TEMPORARY_PREFIX
from pocketlm.stages.pretrain import pretrain
from tests.faulty_disk import FaultyDisk, Killed
from tests.small_training import make_context, make_trainer
from tests.token_folders import documents, held_out, write_tokens

RECIPE = """
name: small
seed: 7
runtime: {threads: 1, device: cpu, disk_megabytes: 1}
text: {}
pretrain:
  inputs: {tokens: [text]}
  model: {width: 16, layers: 1, heads: 2, kv_heads: 2, head_dim: 8, ffn_width: 24, context: 16}
  steps: 12
  batch_rows: 4
  warmup_steps: 4
  validate_every: 6
  validation_documents: 2
  checkpoint_every: 5
"""


class TextSettings(Settings):
    seed: int = 0


@cache
def tokenizer() -> str:
    ends = ("ba", "ce", "di", "fo", "gu", "hel", "jim", "kor")
    words = [f"{one}{two}{three}" for one in ends for two in ends for three in ends]
    return str(train_tokenizer(words, 300).to_str())


@stage(version=1, inputs={}, output="tokens")
def text(settings: TextSettings, inputs: Inputs, context: Context) -> Artifact:
    """Random documents, tokenized."""
    draft = context.draft("tokens")
    write_tokens(draft.path, {"train": documents("web", [60] * 40, settings.seed), **held_out(1)})
    (draft.path / "tokenizer.json").write_text(tokenizer(), encoding="utf-8")
    return draft.commit({})


class Stopping:
    """Runs the recipe; `at(step)` is called when a step of the training is reported."""

    def __init__(self, folder: Path, *overrides: str, registry: dict[str, StageDefinition] | None = None) -> None:
        (folder.parent / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
        stages = registry or {"text": text, "pretrain": pretrain}
        recipe = load_recipe(folder.parent / "recipe.yaml", stages, ["pretrain.log_every=1", *overrides])
        self.runner = Runner(recipe, folder, lambda *_: None, Progress(io.StringIO()))

    def run(self, at: Any = None) -> Any:
        def update(done: float, total: float, unit: str, figures: Any) -> None:
            if at is not None and unit == "step":
                at(int(done))

        self.runner._progress.update = update  # type: ignore[method-assign]
        return self.runner.run()

    def stop_after(self, step: int) -> None:
        def stop(done: int) -> None:
            if done == step:
                self.runner._stop.request()

        with pytest.raises(Interrupted):
            self.run(stop)


def digest(folder: Path) -> str:
    return Artifact.open(folder / "artifacts" / "pretrain").digest


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line["body"] for line in read_ledger(folder / "ledger.jsonl") if line["event"] == kind]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    Stopping(folder).run()
    return folder


@pytest.mark.parametrize("name", ["train.npy", "train_offsets.npy", "train_sources.npy", "heldout.npy", "tokens.json"])
@pytest.mark.parametrize("fault", ["one bit", "missing", "another of equal size"])
def test_damaged_tokens_are_named_and_not_trained_on(tmp_path: Path, whole: Path, name: str, fault: str) -> None:
    folder = tmp_path / "run"
    Stopping(folder).stop_after(7)
    shard = folder / "artifacts" / "text" / name
    original = shard.read_bytes()
    if fault == "missing":
        shard.unlink()
    elif fault == "one bit":
        shard.write_bytes(original[:-3] + bytes([original[-3] ^ 16]) + original[-2:])
    elif name.endswith(".npy"):  # a valid file of another run: the same numbers the other way round
        np.save(shard, np.load(shard)[::-1].copy())
        if shard.read_bytes() == original:
            np.save(shard, np.load(shard) + np.load(shard).dtype.type(1))
    else:
        shard.write_bytes(original.replace(b"300", b"301", 1))
    assert fault == "missing" or (len(shard.read_bytes()) == len(original) and shard.read_bytes() != original)
    resumed = len(events(folder, "training_resumed"))
    with pytest.raises(CorruptionError, match=f"text/{name}"):
        Stopping(folder).run(lambda step: pytest.fail("trained on damaged tokens"))
    assert len(events(folder, "training_resumed")) == resumed
    shard.write_bytes(original)
    Stopping(folder).run()
    assert digest(folder) == digest(whole)
    assert [body["step"] for body in events(folder, "training_resumed")] == [7]


def test_other_data_or_settings_never_continue_from_the_checkpoint(tmp_path: Path, whole: Path) -> None:
    """They are another fingerprint, so another scratch folder; going back to the former ones continues."""
    folder = tmp_path / "run"
    Stopping(folder).stop_after(7)
    for other in ("text.seed=5", "pretrain.learning_rate=0.02"):
        steps: list[int] = []
        Stopping(folder, other).run(steps.append)
        assert steps == list(range(1, 13))
        assert digest(folder) != digest(whole)
    assert events(folder, "training_resumed") == []
    Stopping(folder).run()
    assert [body["step"] for body in events(folder, "training_resumed")] == [7]
    assert digest(folder) == digest(whole)


def test_tokens_of_other_text_under_the_checkpoint_are_refused_by_name(tmp_path: Path) -> None:
    """Forced together: the scratch folder of one text moved to where that of another is looked for."""
    one, other = tmp_path / "one" / "run", tmp_path / "other" / "run"
    for folder, overrides in ((one, []), (other, ["text.seed=5"])):
        folder.parent.mkdir()
        Stopping(folder, *overrides).stop_after(7)
    [old], [new] = (list((folder / "work").glob("pretrain-*")) for folder in (one, other))
    shutil.rmtree(new)
    shutil.copytree(old, new)
    with pytest.raises(InputError, match=r"\(different: data\); continue with the former ones"):
        Stopping(other, "text.seed=5").run(lambda step: pytest.fail("trained on other data"))


def test_a_runtime_that_changed_is_in_the_ledger_as_a_warning(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    Stopping(folder).stop_after(7)
    Stopping(folder, "runtime.micro_batch=3").run()
    [body] = events(folder, "training_resumed")
    assert (body["runtime_before"]["micro_batch"], body["runtime"]["micro_batch"]) == (4, 3)
    assert "micro_batch 4 -> 3" in events(folder, "warning")[-1]["message"]
    losses = [
        [row["loss"] for row in Artifact.open(run / "artifacts" / "pretrain").read_jsonl("log.jsonl")]
        for run in (folder, whole)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("at", [3, 7, 12])
def test_a_run_folder_that_vanishes_is_one_message_and_does_not_come_back(tmp_path: Path, at: int) -> None:
    folder = tmp_path / "run"

    def vanish(step: int) -> None:
        if step == at:
            shutil.rmtree(folder)

    with pytest.raises(PocketError) as raised:
        Stopping(folder).run(vanish)
    assert raised.value.exit_code == 2
    assert str(folder) in str(raised.value)
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize("stride", [12, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_at_any_operation_of_a_run_is_one_message_and_the_next_run_is_equal(
    tmp_path: Path, whole: Path, error: int, stride: int
) -> None:
    """From the lock to the seal; each operation at a stride, another one with each error."""
    folder = tmp_path / "run"
    disk = FaultyDisk(folder)
    with disk:
        Stopping(folder).run()
    total = len(disk.operations)
    assert total > 80
    refused, codes = 0, set()
    for at in range(error % stride, total, stride):
        shutil.rmtree(folder)
        try:
            with FaultyDisk(folder, at, error):
                Stopping(folder).run()
        except (PocketError, OSError) as problem:  # the command line makes one line of either
            refused += 1
            codes.add(getattr(problem, "exit_code", 2))
        for artifact in (folder / "artifacts").glob("*"):
            assert artifact.name.startswith(TEMPORARY_PREFIX) or Artifact.open(artifact)
        Stopping(folder).run()
        assert digest(folder) == digest(whole)
        assert not list(folder.rglob(f"{TEMPORARY_PREFIX}*"))
    assert refused > total // (4 * stride)
    assert codes == {2}


@pytest.mark.parametrize("stride", [9, pytest.param(3, marks=pytest.mark.long)])
def test_killed_at_any_operation_of_a_run_the_next_one_ends_with_the_same_bits(
    tmp_path: Path, whole: Path, stride: int
) -> None:
    """Each operation at a stride from the lock to the seal, with the power lost at each second of them."""
    folder = tmp_path / "run"
    disk = FaultyDisk(folder)
    with disk:
        Stopping(folder).run()
    for at in range(1, len(disk.operations), stride):
        shutil.rmtree(folder)
        with FaultyDisk(folder, at, torn=at % 2 == 0), pytest.raises(Killed):
            Stopping(folder).run()
        Stopping(folder).run()
        assert digest(folder) == digest(whole), disk.operations[at]
        assert not list(folder.rglob(f"{TEMPORARY_PREFIX}*"))


Usage = namedtuple("Usage", ["total", "used", "free"])


def test_too_little_disk_for_checkpoints_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_context(tmp_path), change_batch=lambda step, batch: pytest.fail("a step was made"))
    needed = 3 * 4 * 4 * trainer.model.settings.parameter_count()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed - 1))
    with pytest.raises(InputError, match=r"not enough disk space at .*: \d+ MB free, \d+ MB needed"):
        trainer.run()
    assert not (tmp_path / "checkpoints").exists()


def test_a_folder_without_permission_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write anywhere
    with pytest.raises(InputError, match="no permission to write"):
        Stopping(tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


PROCESS = """
import os, sys, time
from pathlib import Path
from pocketlm.errors import PocketError
from pocketlm.pipeline.stage import stage
from tests import toy
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner

registry, seconds = toy.registry(), float(sys.argv[2])
words = registry["words"].function
@stage(version=1, inputs={}, output="text")
def slow(settings: toy.WordsSettings, inputs, context):
    print("inside", flush=True)
    time.sleep(seconds)
    return words(settings, inputs, context)
folder = Path(sys.argv[1])
recipe = load_recipe(toy.recipe_file(folder.parent / str(os.getpid())), {**registry, "words": slow})
try:
    Runner(recipe, folder, toy.publish, Progress(toy.Silent())).run()
except PocketError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    command = [sys.executable, "-c", PROCESS, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_of_processes_that_start_at_once_on_one_folder_one_runs_and_the_others_say_who(tmp_path: Path) -> None:
    processes = [start(tmp_path / "run", 5) for _ in range(4)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 73, 73, 73]
    winner = processes[codes.index(0)]
    for output, code in zip(outputs, codes, strict=True):
        assert code == 0 or f"is held by process {winner.pid} on" in output
    lines = read_ledger(tmp_path / "run" / "ledger.jsonl")  # the chain holds: no line of another in between
    assert [line["event"] for line in lines].count("run_started") == 1
    assert lines[-1]["event"] == "seal"


def test_the_lock_of_a_killed_process_is_taken_over_at_once_and_says_whose_it_was(tmp_path: Path) -> None:
    first = start(tmp_path / "run", 300)
    assert first.stdout is not None
    assert first.stdout.readline() == "inside\n"
    second = start(tmp_path / "run", 0)
    second.communicate(timeout=60)
    assert second.returncode == 73
    first.send_signal(signal.SIGKILL)
    first.communicate()
    began = time.monotonic()
    third = start(tmp_path / "run", 0)
    third.communicate(timeout=60)
    assert third.returncode == 0
    assert time.monotonic() - began < 60
    opening = events(tmp_path / "run", "run_started")
    assert [(body["took_over_lock_of"] or {}).get("pid") for body in opening] == [None, first.pid]
    assert json.loads((tmp_path / "run" / "report.json").read_text())["seal"]


def test_a_ledger_that_vanished_is_not_begun_anew_in_the_middle(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append("one", {})
    ledger.path.unlink()
    with pytest.raises(FileNotFoundError, match=r"ledger\.jsonl"):
        ledger.append("two", {})
    assert not ledger.path.exists()
