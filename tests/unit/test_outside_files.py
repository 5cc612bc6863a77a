"""Files outside of a run that are changed or taken away: `verify` names them and lets figures rest, and finds no fault.

A changed file inside of the run stays a difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketlm.data.curation import kept_text
from pocketlm.data.curation.curation_files import files_identity
from pocketlm.data.gates import language
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.coverage import coverage_lines, coverage_of
from pocketlm.pipeline.outside import changed_outside
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner
from pocketlm.pipeline.stage import Inputs
from pocketlm.pipeline.storage import sha256_file, sha256_text
from pocketlm.pipeline.verification import checks_of_run
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import RewardSettings
from pocketlm.stages import registry
from pocketlm.stages.curate import CurateSettings, curate
from pocketlm.stages.distil import DistilSettings, distil
from pocketlm.stages.import_model import ImportModelSettings, import_model
from pocketlm.stages.mixture import MixtureSettings, mixture
from pocketlm.stages.preference import PreferenceSettings, preference
from pocketlm.stages.rejection_sampling import RejectionSamplingSettings, rejection_sampling
from pocketlm.stages.rlvr import RlvrSettings, rlvr
from pocketlm.stages.sample import SampleSettings, sample
from tests import posttraining_world as world
from tests import whole_run
from tests.data_pipeline import corpus, write_jsonl
from tests.token_folders import documents, held_out, tokens_artifact
from tests.toy import Silent
from tests.unit.test_curation_contamination import ITEMS
from tests.unit.test_curation_contamination import documents as curated_documents
from tests.unit.test_curation_units import run as curate_run
from tests.unit.test_other_rechecks import made, recheck
from tests.unit.test_posttraining_rechecks import SHORT, inputs_of

REWARD = "def reward(prompt, completion, row):\n    return 0.125 * len(completion)\n"
ROLLOUTS = RolloutSettings(samples=8, max_tokens=4)
REWARDED: dict[str, tuple[Any, Callable[..., Any], dict[str, Any]]] = {
    "rlvr": (rlvr, RlvrSettings, {"batch_rows": 32, "profile_prompts": 4, "minimum_live_groups": 0.05, **SHORT}),
    "rejection": (
        rejection_sampling,
        RejectionSamplingSettings,
        {"batch_rows": 12, "prompts": 6, "patience": None, "token_budget": 4000, "rounds": 1, **SHORT},
    ),
    "on_policy": (distil, DistilSettings, {"batch_rows": 16, "method": "on_policy", **SHORT}),
    "sample": (sample, SampleSettings, {"minimum_live_groups": 0.05}),
}


def everything_said(found: Any) -> str:
    return " ".join([found.sampled, *found.resting.values(), *found.resting_blocks.values()])


def test_what_is_outside_is_as_it_was_or_said_to_be_changed_or_gone(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("one")
    then = sha256_file(file)
    artifact = Artifact(tmp_path, {"identity": {"external": then}})

    def said() -> str:
        return changed_outside(artifact, f"outside file {file}", lambda: sha256_file(file))

    assert said() == ""
    file.write_text("two")
    assert said() == (
        f"the outside file {file} changed: its content hash is {sha256_text('two')[:16]} now, recorded is the content "
        f"hash {then[:16]}"
    )
    file.unlink()
    assert f"the outside file {file} cannot be read as it was (" in said()
    assert then[:16] in said()


@pytest.mark.parametrize("name", REWARDED)
def test_a_reward_function_that_changed_or_is_gone_is_named_and_no_difference(name: str, tmp_path: Path) -> None:
    definition, settings_of, more = REWARDED[name]
    function = tmp_path / "my_reward.py"
    function.write_text(REWARD)
    settings = settings_of(rollouts=ROLLOUTS, reward=RewardSettings(function=str(function), seconds=60), **more)
    inputs = Inputs(inputs_of(name, tmp_path))
    artifact = made(definition, settings, inputs, tmp_path / "a")
    honest = recheck(definition, settings, artifact, inputs, tmp_path / "b")
    assert (list(honest.differences), "my_reward.py" in everything_said(honest)) == ([], False)

    function.write_text(REWARD.replace("0.125", "-3.5"))
    digest = sha256_file(function)
    changed = recheck(definition, settings, artifact, inputs, tmp_path / "c")
    function.unlink()
    gone = recheck(definition, settings, artifact, inputs, tmp_path / "d")
    for found, said in ((changed, f"changed: its content hash is {digest[:16]} now"), (gone, "cannot be read")):
        assert list(found.differences) == []
        assert f"the outside file {function} {said}" in everything_said(found)
        covered = coverage_of(definition.name, artifact, found)
        assert covered.unfounded == ()
        assert {*covered.derived, *(one for names in covered.resting.values() for one in names)} == {*artifact.metrics}
        if name != "sample":  # its figures follow from the samples, which the run holds
            resting = [one for why, names in covered.resting.items() if str(function) in why for one in names]
            assert "selection.exact_match" in resting

    file = artifact.path / ("samples.jsonl" if name == "sample" else "log.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if name == "sample":
        rows[0]["completions"][0]["correct"] = not rows[0]["completions"][0]["correct"]
    else:
        rows[-1]["tokens"] += 7
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recheck(definition, settings, artifact, inputs, tmp_path / "e").differences, "inside of the run"


@pytest.mark.parametrize("content", ['{"prompt": "1+1=", "chosen": "2", "rejected": "3"}\n', "no JSON\n"])
def test_preferences_that_changed_are_named_and_the_log_still_speaks(content: str, tmp_path: Path) -> None:
    file = tmp_path / "preferences.jsonl"
    rows = [{"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": str(n + 2)} for n in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = PreferenceSettings(batch_rows=6, path=str(file), **SHORT)
    inputs = Inputs({"model": world.model_artifact(tmp_path / "taught", world.taught_model())})
    artifact = made(preference, settings, inputs, tmp_path / "a")
    honest = recheck(preference, settings, artifact, inputs, tmp_path / "b")
    assert (list(honest.differences), set(honest.figures)) == ([], set(artifact.metrics))
    file.write_text(content)
    found = recheck(preference, settings, artifact, inputs, tmp_path / "c")
    assert list(found.differences) == []
    assert {"steps", "held_out.loss"} <= set(found.figures) < set(artifact.metrics)
    assert f"the outside file {file} changed" in found.resting["*"]
    log = artifact.path / "log.jsonl"
    log.write_text(log.read_text().replace('"tokens": ', '"tokens": 1'))
    assert recheck(preference, settings, artifact, inputs, tmp_path / "d").differences, "inside of the run"


@pytest.mark.parametrize("change", ["bytes", "gone", "another artifact"])
def test_a_mixture_whose_replayed_tokens_changed_rests(change: str, tmp_path: Path) -> None:
    web = tokens_artifact(tmp_path / "new", "new", {"train": documents("web", [30] * 200, 1), **held_out(1)})
    old = tokens_artifact(tmp_path / "old", "old", {"train": documents("wiki", [20] * 200, 2), **held_out(2, "wiki")})
    settings = MixtureSettings(shares={"web": 0.5, "old": 0.5}, tokens=4000, replay={"old": str(old.path)})
    inputs = Inputs({"tokens": {"new": web}})
    artifact = made(mixture, settings, inputs, tmp_path / "a")
    honest = recheck(mixture, settings, artifact, inputs, tmp_path / "b")
    assert (list(honest.differences), set(honest.figures)) == ([], set(artifact.metrics))
    if change == "bytes":
        data = bytearray((old.path / "train.npy").read_bytes())
        data[-2] ^= 1
        (old.path / "train.npy").write_bytes(data)
    elif change == "gone":
        (old.path / "manifest.json").unlink()
    else:
        other = {"train": documents("wiki", [25] * 200, 3), **held_out(2, "wiki")}
        settings = settings.model_copy(
            update={"replay": {"old": str(tokens_artifact(tmp_path / "other", "old", other).path)}}
        )
    found = recheck(mixture, settings, artifact, inputs, tmp_path / "c")
    assert (list(found.differences), list(found.figures)) == ([], [])
    assert f"outside folders of mixture.replay ({settings.replay['old']})" in found.resting["*"]


def test_an_imported_model_whose_file_changed_names_it_with_both_hashes(tmp_path: Path) -> None:
    theirs = world.model_artifact(tmp_path / "theirs", world.small_model(3))
    settings = ImportModelSettings(path=str(theirs.path))
    artifact = made(import_model, settings, Inputs({}), tmp_path / "a")
    file = theirs.path / "tokenizer_config.json"
    then = sha256_file(file)
    file.write_text("{ }")
    manifest = json.loads((theirs.path / "manifest.json").read_text())
    manifest["files"]["tokenizer_config.json"] = {"bytes": 3, "sha256": sha256_file(file)}
    manifest["digest"] = sha256_text(
        json.dumps({name: one["sha256"] for name, one in sorted(manifest["files"].items())}, separators=(",", ":"))
    )
    (theirs.path / "manifest.json").write_text(json.dumps(manifest))
    found = recheck(import_model, settings, artifact, Inputs({}), tmp_path / "b")
    assert (list(found.differences), set(found.figures)) == ([], set(artifact.metrics))
    named = f"tokenizer_config.json has the sha256 {sha256_file(file)[:16]} now, {then[:16]} then"
    assert named in found.sampled
    assert named in found.resting_blocks["table What was read"]


def test_benchmarks_and_a_language_model_that_changed_are_named_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changed benchmark asks for what a kept document says; the changed model takes every text for French."""

    def load(model: str) -> SimpleNamespace:
        sure = 0.9 if Path(model).read_bytes() == b"model" else 0.1
        return SimpleNamespace(predict=lambda text, k: (("__label__en",), (sure,)))

    monkeypatch.setattr(language, "_load", load)
    monkeypatch.setattr(kept_text, "find_spec", lambda name: object())
    benchmark, model = tmp_path / "gsm.jsonl", tmp_path / "lid.ftz"
    benchmark.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    model.write_bytes(b"model")
    settings = CurateSettings(
        minimum_bytes=20_000,
        held_out={"minimum_documents": 3},
        contamination={"benchmarks": {"gsm8k": {"path": str(benchmark)}}},
        gates={"minimum_language_confidence": 0.5},
        language_model=str(model),
    )
    given = curated_documents(tmp_path / "sources")
    curated = curate_run(tmp_path / "run", given, settings, threads=1)
    artifact = Artifact(curated.path, {**curated.manifest, "identity": {"external": files_identity(settings)}})

    def found(name: str, asked: CurateSettings = settings) -> Any:
        return recheck(curate, asked, artifact, Inputs({"documents": given}), tmp_path / name)

    honest = found("honest")
    assert (list(honest.differences), "outside file" in honest.sampled) == ([], False)
    kept = pq.read_table(artifact.path / "train.parquet")["text"][0].as_py()
    benchmark.write_text(json.dumps({"question": kept[:400], "answer": "#### 8"}) + "\n", encoding="utf-8")
    for at in range(3):  # the benchmark changed, then the model too, then that is gone
        changed = found(f"changed-{at}")
        assert list(changed.differences) == []
        assert set(changed.figures) == set(honest.figures)
        assert f"benchmarks were not looked for: the outside files {benchmark}, {model}" in changed.sampled
        assert f"languages were not identified: the outside files {benchmark}, {model}" in changed.sampled
        model.write_bytes(b"another") if at == 0 else model.unlink(missing_ok=True)

    model.write_bytes(b"model")
    benchmark.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    monkeypatch.setattr(kept_text, "find_spec", lambda name: None)
    assert "languages were not identified: no fastText runtime is installed here" in found("runtime").sampled
    monkeypatch.setattr(kept_text, "find_spec", lambda name: object())
    held = f"{kept[:200]} {ITEMS[1]['question']}"
    with_text = pq.read_table(artifact.path / "train.parquet")
    column = with_text["text"].to_pylist()
    column[0] = held + column[0]
    place = with_text.schema.get_field_index("text")
    with_text = with_text.set_column(place, "text", pa.array(column, with_text.schema.field("text").type))
    pq.write_table(with_text, artifact.path / "train.parquet")
    assert any("holds the evaluation item 2" in line for line in found("inside").differences), "inside of the run"


RECIPE = """
name: outside
seed: 7
runtime: {threads: 1, device: cpu}
sources:
  mine: {path: "%s", licence: MIT}
curate:
  inputs: {documents: sources}
  minimum_bytes: 20000
  held_out: {minimum_documents: 3}
  contamination: {benchmarks: {gsm8k: {path: "%s"}}}
report:
  inputs: {stages: "*"}
"""


def test_verify_passes_over_what_changed_outside_and_stops_at_what_changed_inside(tmp_path: Path) -> None:
    benchmark, texts = tmp_path / "gsm.jsonl", write_jsonl(tmp_path / "texts.jsonl", corpus(40))
    benchmark.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE % (texts, benchmark), encoding="utf-8")
    recipe, run = load_recipe(tmp_path / "recipe.yaml", registry()), tmp_path / "run"
    Runner(recipe, run, lambda folder, seal: None, Progress(Silent())).run()  # type: ignore[arg-type]
    kept = pq.read_table(run / "artifacts/curate/train.parquet")["text"][0].as_py()
    benchmark.write_text(json.dumps({"question": kept[:400], "answer": "#### 8"}) + "\n", encoding="utf-8")
    Path(texts).unlink()

    def verified() -> tuple[list[str], str]:
        checks = list(checks_of_run(run, registry(), whole_run.derive))
        lines = coverage_lines([check.coverage for check in checks if check.coverage is not None])
        return [line for check in checks for line in check.problems], "\n".join(lines)

    problems, said = verified()
    assert problems == []
    assert f"benchmarks were not looked for: the outside file {benchmark} changed: its content hash is " in said
    benchmark.unlink()
    problems, said = verified()
    assert (problems, f"the outside file {benchmark} cannot be read as it was" in said) == ([], True)
    (run / "artifacts/curate/cloze.jsonl").write_text("")
    assert any("cloze.jsonl" in line for line in verified()[0])
