"""The stages that train adapters on a tiny world: what they write, what `verify` holds them to, and the export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketlm.commands import export_model
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError, Interrupted
from pocketlm.model.formats.hugging_face import NAMING
from pocketlm.model.formats.peft import merge_adapter
from pocketlm.model.lora_settings import LoraSettings
from pocketlm.model.storage import load_model
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.stages.import_model import ImportModelSettings, import_model
from pocketlm.stages.preference import PreferenceSettings, preference
from pocketlm.stages.rlvr import RlvrSettings, rlvr
from pocketlm.stages.sft import SftSettings, sft
from tests import posttraining_world as world
from tests.small_training import StopAfter
from tests.unit.test_preference_stage import samples_of

SHORT: dict[str, Any] = {"steps": 4, "warmup_steps": 1, "validate_every": 2, "learning_rate": 1e-2}
LORA = LoraSettings(rank=4)
ROLLOUTS = {"rollouts": RolloutSettings(samples=8, max_tokens=4), "profile_prompts": 4, "minimum_live_groups": 0.05}
STAGES: dict[str, tuple[Any, Any]] = {
    "sft": (sft, SftSettings(batch_rows=12, max_tokens=4, lora=LORA, **SHORT)),
    "dpo": (preference, PreferenceSettings(batch_rows=6, lora=LORA, **SHORT)),
    "kto": (preference, PreferenceSettings(batch_rows=6, loss={"form": "kto"}, lora=LORA, **SHORT)),
    "rlvr": (rlvr, RlvrSettings(batch_rows=32, lora=LORA, kl_coefficient=0.1, **ROLLOUTS, **SHORT)),
    "rlvr twice": (
        rlvr,
        RlvrSettings(
            batch_rows=32, updates_per_batch=2, lora=LoraSettings(targets=("value", "up")), **ROLLOUTS, **SHORT
        ),
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    taught = world.model_artifact(folder / "taught", world.taught_model())
    samples = samples_of(folder, Tokenizer.load(taught.path))
    return {"model": taught, "problems": world.problems_artifact(folder / "problems"), "samples": samples}


def run(name: str, inputs: dict[str, Artifact], folder: Path, polls: int | None = None) -> Artifact:
    definition, settings = STAGES[name]
    surroundings = world.World(folder, definition.name)
    if polls is not None:
        surroundings.context._stop = StopAfter(polls)
    made: Artifact = definition.function(settings, Inputs(given(name, inputs)), surroundings.context)
    return made


def given(name: str, inputs: dict[str, Artifact]) -> dict[str, Artifact]:
    definition, _ = STAGES[name]
    left_out = {"samples"} if name == "sft" else set()
    return {key: inputs[key] for key in definition.inputs if key in inputs and key not in left_out}


def recheck(name: str, made: Artifact, inputs: dict[str, Artifact], folder: Path) -> Any:
    definition, settings = STAGES[name]
    return definition.recheck(settings, made, Inputs(given(name, inputs)), world.World(folder, definition.name).context)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_writes_the_merged_model_and_the_adapter_beside_it(
    name: str, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    made = run(name, inputs, tmp_path)
    start, kept = load_model(inputs["model"].path), load_model(made.path).state_dict()
    files = {file for file in made.manifest["files"] if file.startswith("adapter/")}
    assert files == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    before = {key: weight.clone() for key, weight in start.state_dict().items()}
    targets = STAGES[name][1].lora.targets
    merge_adapter(start, made.path / "adapter")
    changed = {key for key, weight in before.items() if not torch.equal(weight, kept[key])}
    assert changed == {key for key in before if key.startswith("blocks.") and _is_target(key, targets)}
    for key, weight in start.state_dict().items():
        torch.testing.assert_close(kept[key], weight, rtol=1e-6, atol=1e-7)
    log = made.read_jsonl("log.jsonl")
    if name.startswith("rlvr"):  # the engine samples from what is trained
        first = [row["engine_distance"] for row in log if not name.endswith("twice") or row["step"] % 2]
        assert max(first) < 1e-5
    if name == "rlvr":
        assert log[0]["kl"] == pytest.approx(0, abs=1e-9)
        assert log[-1]["kl"] > 0
    found = recheck(name, made, inputs, tmp_path / "again")
    assert not found.differences
    assert "taken again" in found.sampled


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    theirs = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output", "gate_proj": "gate"}
    parts = [part.split(".")[-2] for part in NAMING.parts(name)]
    return any(theirs.get(part, part.removesuffix("_proj")) in targets for part in parts)


@pytest.mark.parametrize(("name", "polls"), [("sft", 2), ("rlvr twice", 3)])
def test_a_stopped_stage_ends_with_the_bytes_of_the_whole_one(
    name: str, polls: int, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    whole = run(name, inputs, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(name, inputs, tmp_path / "cut", polls)
    assert any((tmp_path / "cut" / "work").rglob("step-*/model.safetensors"))
    assert run(name, inputs, tmp_path / "cut").digest == whole.digest


@pytest.mark.parametrize("fault", ["factor", "weights", "settings", "missing"])
def test_an_adapter_that_is_not_what_the_weights_were_merged_with_is_found(
    fault: str, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    made = run("sft", inputs, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(made.path, copy)
    file = copy / ("model.safetensors" if fault == "weights" else "adapter/adapter_model.safetensors")
    if fault == "missing":
        file.unlink()
    elif fault == "settings":
        path = copy / "adapter/adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 33}))
    else:
        tensors = load_file(file)
        name = next(name for name in sorted(tensors) if "down" in name)
        tensors[name][0, 0] += 0.1
        save_file(tensors, file)
    lying = recheck("sft", Artifact(copy, made.manifest), inputs, tmp_path / "lying")
    assert any("adapter" in line for line in lying.differences)


def test_what_was_not_trained_has_no_adapter(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    settings = STAGES["rlvr"][1].model_copy(update={"minimum_live_groups": 0.999})
    surroundings = world.World(tmp_path, "rlvr")
    made = rlvr.function(settings, Inputs(given("rlvr", inputs)), surroundings.context)
    assert made.read_jsonl("log.jsonl") == []
    assert made.file("model.safetensors").read_bytes() == inputs["model"].file("model.safetensors").read_bytes()
    assert not (made.path / "adapter").exists()
    with pytest.raises(InputError, match="has no adapter"):
        export_model(str(made.path), "peft", tmp_path / "exported", None)
    assert not (tmp_path / "exported").exists()


def test_an_adapter_is_exported_and_imported_on_its_base(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    made = run("sft", inputs, tmp_path)
    draft = Draft(tmp_path / "as in a run", {**made.manifest, "inputs": {"model": inputs["model"].reference()}})
    shutil.copytree(made.path, draft.path, dirs_exist_ok=True)
    committed = draft.commit({})
    out = tmp_path / "exported"
    assert "the stage taught" in export_model(str(committed.path), "peft", out, None)[0]
    assert {file.name for file in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert "the model of the stage `taught`" in (out / "README.md").read_text()
    with pytest.raises(InputError, match="exists and is not empty"):
        export_model(str(committed.path), "peft", out, None)
    settings = ImportModelSettings(path=str(inputs["model"].path), adapter=str(out))
    imported = import_model.function(settings, Inputs({}), world.World(tmp_path, "import_model").context)
    kept = load_model(made.path).state_dict()
    for name, weight in load_model(imported.path).state_dict().items():
        torch.testing.assert_close(kept[name], weight, rtol=1e-6, atol=1e-7)
    table = imported.read_json("figures.json")["blocks"][0]
    assert any("adapter_model.safetensors" in str(row) for row in table["rows"])
    plain = ImportModelSettings(path=str(inputs["model"].path))
    assert import_model.external(plain) != import_model.external(settings)
    again = world.World(tmp_path / "again", "import_model").context
    manifest = {**imported.manifest, "identity": {"external": import_model.external(settings)}}
    found = import_model.recheck(settings, Artifact(imported.path, manifest), Inputs({}), again)
    assert not found.differences
    assert "weights compared with" in found.sampled
    (out / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"it has no adapter_model\.safetensors"):
        import_model.external(settings)
