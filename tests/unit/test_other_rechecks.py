"""What `verify` asks of mixture, import, export, sweep, conversations and foreign tasks: honest agree, lies do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketlm.evaluation.models.hugging_face import Agreement
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.conversations import ConversationsSettings, conversations
from pocketlm.stages.export import ExportSettings, export
from pocketlm.stages.import_model import ImportModelSettings, import_model
from pocketlm.stages.mixture import MixtureSettings, mixture
from pocketlm.stages.task_problems import TaskProblemsSettings, task_problems
from pocketlm.stages.wind_tunnel import WindTunnelSettings, wind_tunnel
from tests import posttraining_world as world
from tests.evaluation_world import model_artifact, trained
from tests.token_folders import documents, held_out, tokens_artifact


def made(definition: Any, settings: Any, inputs: Inputs, folder: Path) -> Artifact:
    artifact = definition.function(settings, inputs, world.World(folder, definition.name).context)
    external = definition.external(settings) if definition.external is not None else None
    return Artifact(artifact.path, {**artifact.manifest, "identity": {"external": external}})


def recheck(definition: Any, settings: Any, artifact: Artifact, inputs: Inputs, folder: Path) -> Any:
    return definition.recheck(settings, artifact, inputs, world.World(folder, definition.name).context)


def test_a_mixture_is_planned_again_and_its_documents_compared(tmp_path: Path) -> None:
    web = tokens_artifact(tmp_path / "new", "new", {"train": documents("web", [30] * 200, 1), **held_out(1)})
    old = tokens_artifact(tmp_path / "old", "old", {"train": documents("wiki", [20] * 200, 2), **held_out(2, "wiki")})
    settings = MixtureSettings(shares={"web": 0.5, "old": 0.5}, tokens=4000)
    inputs = Inputs({"tokens": {"new": web, "old": old}})
    artifact = made(mixture, settings, inputs, tmp_path / "a")
    honest = recheck(mixture, settings, artifact, inputs, tmp_path / "b")
    assert (list(honest.differences), set(honest.figures)) == ([], set(artifact.metrics))
    tokens = np.load(artifact.path / "train.npy")
    tokens[70] += 1
    np.save(artifact.path / "train.npy", tokens)
    assert (
        "is not the one that was drawn" in recheck(mixture, settings, artifact, inputs, tmp_path / "c").differences[0]
    )
    replaying = settings.model_copy(update={"replay": {"gone": str(tmp_path / "gone")}})
    gone = recheck(mixture, replaying, artifact, inputs, tmp_path / "d")
    assert (list(gone.differences), "needs what it replays" in gone.resting["*"]) == ([], True)


def test_exported_weights_are_those_of_the_model_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = trained()
    inputs = Inputs({"model": model_artifact(tmp_path, "tuned", model, tokenizer)})
    monkeypatch.setattr("pocketlm.evaluation.models.hugging_face.check_agreement", lambda *given: Agreement(0.0, True))
    monkeypatch.setattr(
        "pocketlm.evaluation.models.export_recheck.check_agreement", lambda *given: Agreement(0.0, True)
    )
    artifact = made(export, ExportSettings(), inputs, tmp_path / "a")
    honest = recheck(export, ExportSettings(), artifact, inputs, tmp_path / "b")
    assert (list(honest.differences), set(honest.figures)) == ([], {"parameters", "same_greedy_text"})
    for name in ("README.md", "LICENSE", "generation_config.json", "chat_template.jinja"):
        own = (artifact.path / name).read_bytes()
        (artifact.path / name).write_bytes(own + b" ")
        found = recheck(export, ExportSettings(), artifact, inputs, tmp_path / name)
        assert [line.partition(":")[0] for line in found.differences] == [name]
        (artifact.path / name).write_bytes(own)
    data = bytearray((artifact.path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (artifact.path / "model.safetensors").write_bytes(data)
    assert "is not that of tuned" in recheck(export, ExportSettings(), artifact, inputs, tmp_path / "c").differences[0]


def test_an_imported_model_is_compared_with_its_files_while_they_are_there(tmp_path: Path) -> None:
    theirs = world.model_artifact(tmp_path / "theirs", world.small_model(3))
    settings = ImportModelSettings(path=str(theirs.path))
    artifact = made(import_model, settings, Inputs({}), tmp_path / "a")
    honest = recheck(import_model, settings, artifact, Inputs({}), tmp_path / "b")
    assert (list(honest.differences), set(honest.figures)) == ([], set(artifact.metrics))
    assert "bit by bit" in honest.sampled
    data = bytearray((artifact.path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (artifact.path / "model.safetensors").write_bytes(data)
    lying = recheck(import_model, settings, artifact, Inputs({}), tmp_path / "c")
    assert "is not that of the file that was read" in lying.differences[0]
    elsewhere = ImportModelSettings(path=str(tmp_path / "elsewhere"))
    assert "cannot be read as it was" in recheck(import_model, elsewhere, artifact, Inputs({}), tmp_path / "d").sampled


def test_a_sweep_is_fitted_again(tmp_path: Path) -> None:
    tokens = tokens_artifact(tmp_path / "t", "t", {"train": documents("web", [60] * 100, 1), **held_out(1)})
    settings = WindTunnelSettings(
        proxies=("0.3m",), learning_rates=(1e-4, 1e-3, 1e-2), tokens_per_parameter=0.001, batch_rows=1,
        warmup_fraction=0.5,
    )  # fmt: skip
    rows = [{"proxy": "0.3m", "learning_rate": rate, "bits_per_byte": bits, "start": 8.0}
            for rate, bits in ((1e-4, 3.0), (1e-3, 2.0), (1e-2, 2.5))]  # fmt: skip
    from pocketlm.stages.wind_tunnel import _fitted

    fitted = _fitted(settings, rows, world.World(tmp_path / "w", "wind_tunnel").context)
    artifact = world.artifact(
        tmp_path / "sweep", "sweep", {"": lambda path: (path / "sweep.json").write_text(json.dumps({"runs": rows}))},
        fitted.metrics,
    )  # fmt: skip
    (artifact.path / "figures.json").write_text(json.dumps({"metrics": {}, "blocks": fitted.blocks}))
    inputs = Inputs({"tokens": tokens})
    honest = recheck(wind_tunnel, settings, artifact, inputs, tmp_path / "b")
    assert (list(honest.differences), set(honest.figures)) == ([], set(artifact.metrics))
    rows[1]["bits_per_byte"] = 1.5
    (artifact.path / "sweep.json").write_text(json.dumps({"runs": rows}))
    assert recheck(wind_tunnel, settings, artifact, inputs, tmp_path / "c").differences


def test_conversations_are_counted_again(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    turns = [
        [("user", f"Name number {n}."), ("assistant", f"The number is {n}, and it is a good one.")] for n in range(20)
    ]
    file.write_text("".join(
        json.dumps({"messages": [{"role": role, "content": text} for role, text in turn]}) + "\n" for turn in turns
    ))  # fmt: skip
    settings = ConversationsSettings.model_validate({"sources": {"mine": {"path": str(file), "form": "messages"}}})
    artifact = made(conversations, settings, Inputs({}), tmp_path / "a")
    honest = recheck(conversations, settings, artifact, Inputs({}), tmp_path / "b")
    assert not honest.differences
    assert {"conversations", "selection", "rejected", "read", "answers"} <= set(honest.figures)
    rows = (artifact.path / "training.jsonl").read_text().splitlines(keepends=True)
    (artifact.path / "training.jsonl").write_text("".join([*rows[1:], rows[1]]))
    assert (
        "stand in the files twice"
        in recheck(conversations, settings, artifact, Inputs({}), tmp_path / "c").differences[0]
    )


@pytest.mark.parametrize("stem", ["solved", "prompts", "selection", "report"])
def test_foreign_tasks_are_counted_again(stem: str, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    rows = [{"prompt": f"Say {at}", "answer": str(at)} for at in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = TaskProblemsSettings(own={"path": str(file)}, selection_items=3, report_items=2)
    artifact = made(task_problems, settings, Inputs({}), tmp_path / "a")
    honest = recheck(task_problems, settings, artifact, Inputs({}), tmp_path / "b")
    assert (list(honest.differences), set(honest.figures)) == ([], set(artifact.metrics))
    path = artifact.path / f"{stem}.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert recheck(task_problems, settings, artifact, Inputs({}), tmp_path / "c").differences
