"""The engine: cache hits, what a changed setting re-runs, `why`, `--only`, locks, other people's folders."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest

from pocketlm.errors import CorruptionError, HeldError, InputError, Interrupted
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.ledger import Ledger, read_ledger
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner, committed_events
from pocketlm.pipeline.runs import collect_garbage, explain, list_runs, remove
from pocketlm.pipeline.stage import Inputs, stage
from pocketlm.pipeline.storage import json_bytes, sha256_file
from pocketlm.pipeline.verification import verify_run
from tests import toy


def digests(folder: Path) -> dict[str, str]:
    return {path.name: Artifact.open(path).digest for path in sorted((folder / "artifacts").iterdir())}


def test_second_run_is_all_cache_hits(tmp_path: Path) -> None:
    first = toy.run(tmp_path / "run")
    second = toy.run(tmp_path / "run")
    assert first.executed == ("words", "shout", "again", "report")
    assert second.executed == ()
    assert second.cached == first.executed


def test_where_nothing_is_to_do_the_seal_and_the_ledger_stay(tmp_path: Path) -> None:
    ledger = tmp_path / "run" / "ledger.jsonl"
    first = toy.run(tmp_path / "run").seal
    before = ledger.read_bytes()
    (tmp_path / "run" / "report.json").unlink()
    assert toy.run(tmp_path / "run").seal == first
    assert ledger.read_bytes() == before
    assert not any(check.problems for check in verify_run(tmp_path / "run", toy.registry(), toy.derive, first))
    toy.run(tmp_path / "run", only="report")  # made again with the same bytes, and not sealed
    later = toy.run(tmp_path / "run").seal
    assert later != first
    assert len(ledger.read_bytes()) > len(before)
    assert not any(check.problems for check in verify_run(tmp_path / "run", toy.registry(), toy.derive, later))
    problems = verify_run(tmp_path / "run", toy.registry(), toy.derive, first)[-1].problems
    assert len(problems) == 1
    assert "lines stand after this seal" in problems[0]
    assert toy.run(tmp_path / "run", "runtime.threads=1").seal not in (first, later)  # another recipe.yaml


def test_two_runs_from_scratch_have_equal_digests(tmp_path: Path) -> None:
    toy.run(tmp_path / "one")
    toy.run(tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_changed_setting_reruns_only_its_dependents_and_why_names_it(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    changed = toy.recipe(tmp_path / "r", "again.suffix=#")
    explanation = explain(changed, tmp_path / "run", "report")
    assert not explanation.current
    assert explanation.reasons[0] == 'again.suffix: "?" -> "#"'
    assert explanation.last_reasons == ("it had not been made",)
    assert explain(changed, tmp_path / "run", "shout").current
    result = toy.run(tmp_path / "run", "again.suffix=#")
    assert result.executed == ("again", "report")
    again = explain(changed, tmp_path / "run", "again")
    assert again.current
    assert 'settings.suffix: "?" -> "#"' in again.last_reasons


def test_execution_settings_never_enter_the_fingerprint(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    result = toy.run(tmp_path / "run", "words.path=elsewhere", "runtime.threads=1")
    assert result.executed == ()


def test_seed_enters_every_fingerprint(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    assert toy.run(tmp_path / "run", "seed=8").cached == ()


def test_written_recipe_runs_again_as_it_is(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", "words.count=9")
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    toy.run(tmp_path / "copy", text=text)
    assert digests(tmp_path / "copy") == digests(tmp_path / "run")


def test_only_runs_one_stage_and_refuses_missing_inputs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its input words is not up to date"):
        toy.run(tmp_path / "run", only="shout")
    assert not (tmp_path / "run").exists()
    toy.run(tmp_path / "run")
    with pytest.raises(InputError, match=r"its input words is not up to date \(settings\.count"):
        toy.run(tmp_path / "run", "words.count=9", only="shout")
    assert not any(check.problems for check in verify_run(tmp_path / "run", toy.registry(), toy.derive))
    assert toy.run(tmp_path / "run", only="shout").executed == ("shout",)


def test_commit_without_its_ledger_line_is_adopted(tmp_path: Path) -> None:
    """A kill between the rename of an artifact and its ledger line."""
    toy.run(tmp_path / "run")
    ledger = tmp_path / "run" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"stage_committed"' in line and '"stage":"shout"' in line)
    ledger.write_text("".join(lines[:cut]))
    result = toy.run(tmp_path / "run")
    assert "shout" in result.cached
    adopted = [line["body"] for line in read_ledger(ledger) if line["body"].get("recovered")]
    assert [body["stage"] for body in adopted] == ["shout", "again", "report"]


def test_torn_ledger_tail_is_dropped(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    ledger = tmp_path / "run" / "ledger.jsonl"
    with open(ledger, "ab") as stream:
        stream.write(b'{"half a line')
    assert toy.run(tmp_path / "run").executed == ()


def test_corrupt_artifact_is_refused_by_name(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    victim = tmp_path / "run" / "artifacts" / "shout" / "rows.jsonl"
    victim.write_bytes(victim.read_bytes().replace(b"W", b"V", 1))
    with pytest.raises(CorruptionError, match=r"shout/rows\.jsonl.*runs rm"):
        toy.run(tmp_path / "run")
    remove(tmp_path / "run", "shout")
    assert "shout" in toy.run(tmp_path / "run").executed


def test_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    with pytest.raises(InputError, match="holds a run of the recipe 'toy', not 'other'"):
        toy.run(tmp_path / "run", "name=other")


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        toy.run(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["thesis.txt"]


def test_no_disk_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not enough disk space"):
        toy.run(tmp_path / "runs" / "run", "runtime.disk_megabytes=1000000000")
    assert not (tmp_path / "runs" / "run").exists()


def test_held_folder_names_its_holder(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    with open(tmp_path / "run" / ".lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(json.dumps({"pid": 4242, "host": "there", "since": "noon"}))
        stream.flush()
        with pytest.raises(HeldError, match="held by process 4242 on there since noon"):
            toy.run(tmp_path / "run")
        with pytest.raises(HeldError, match="held by process 4242 on there since noon"):
            verify_run(tmp_path / "run", toy.registry(), toy.derive)
    assert toy.run(tmp_path / "run").executed == ()


@pytest.mark.parametrize("killed", [False, True])
def test_a_holder_that_has_not_written_its_name_yet_is_waited_for(tmp_path: Path, killed: bool) -> None:
    toy.run(tmp_path / "run")
    if killed:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        left = {"pid": ended.pid, "host": socket.gethostname(), "since": "morning"}
        (tmp_path / "run" / ".lock").write_text(json.dumps(left))
    with open(tmp_path / "run" / ".lock", "r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        name = json.dumps({"pid": 4242, "host": "there", "since": "noon"}).encode()

        def write() -> None:
            stream.truncate(0)
            os.pwrite(stream.fileno(), name, 0)

        later = Timer(0.3, write)
        later.start()
        with pytest.raises(HeldError, match="held by process 4242 on there since noon"):
            toy.run(tmp_path / "run")
        later.join()


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    (tmp_path / "run" / ".lock").write_text('{"pid": 4242, "host": "there"}')
    toy.run(tmp_path / "run")
    opening = [line for line in read_ledger(tmp_path / "run" / "ledger.jsonl") if line["event"] == "run_started"][-1]
    assert opening["body"]["took_over_lock_of"]["pid"] == 4242
    assert (tmp_path / "run" / ".lock").read_bytes() == b""


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({"steps": 900, "selection.exact_match": {"value": 0.47007, "n": 334}}, " · selection.exact_match 0.4701"),
        ({"train.documents": 1504, "documents": 1856}, " · train.documents 1,504"),
        ({"steps": 900}, ""),
    ],
)
def test_a_stage_ends_with_its_headline_figure(metrics: dict[str, object], shown: str, tmp_path: Path) -> None:
    assert Artifact(tmp_path, {"metrics": metrics}).headline == shown


def test_interrupted_stage_leaves_nothing_half_written(tmp_path: Path) -> None:
    @stage(version=1, inputs={"text": "text"}, output="text")
    def shout(settings: toy.ShoutSettings, inputs: Inputs, context: Context) -> Artifact:
        draft = context.draft("text")
        draft.write_json("half.json", 1)
        (context.work / "checkpoint").write_text("progress")
        os.kill(os.getpid(), 15)
        context.check_stop()
        return draft.commit({})

    registry = toy.registry() | {"shout": shout}
    text = toy.RECIPE.replace("other: shout", "")
    path = toy.recipe_file(tmp_path, text.replace("inputs: {text: words, }", "inputs: {text: words}"))
    recipe = load_recipe(path, registry)
    with pytest.raises(Interrupted):
        Runner(recipe, tmp_path / "run", toy.publish, Progress(toy.Silent())).run()  # type: ignore[arg-type]
    assert [item.name for item in (tmp_path / "run" / "artifacts").iterdir()] == ["words"]
    assert next((tmp_path / "run" / "work").rglob("checkpoint")).read_text() == "progress"
    assert read_ledger(tmp_path / "run" / "ledger.jsonl")[-1]["event"] == "interrupted"


def test_full_disk_in_a_stage_is_one_message(tmp_path: Path) -> None:
    @stage(version=1, inputs={}, output="text")
    def words(settings: toy.WordsSettings, inputs: Inputs, context: Context) -> Artifact:
        draft = context.draft("text")
        raise OSError(28, "No space left on device", str(draft.path / "rows.jsonl"))

    recipe = load_recipe(toy.recipe_file(tmp_path), toy.registry() | {"words": words})
    with pytest.raises(InputError, match="stage words: No space left on device"):
        Runner(recipe, tmp_path / "run", toy.publish, Progress(toy.Silent())).run()  # type: ignore[arg-type]
    assert list((tmp_path / "run" / "artifacts").iterdir()) == []


def test_runs_are_listed_and_collected(tmp_path: Path) -> None:
    toy.run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "a" / "artifacts" / "gone").mkdir()
    (tmp_path / "runs" / "a" / ".tmp-1-x").mkdir()
    [summary] = list_runs(tmp_path / "runs")
    assert (summary.recipe, summary.state) == ("toy", "sealed")
    removed = {path.name for path in collect_garbage(tmp_path / "runs" / "a")}
    assert removed == {"gone", ".tmp-1-x"}
    with pytest.raises(InputError, match="is not a run folder"):
        remove(tmp_path)


@pytest.mark.parametrize("stage", ["..", ".", "", "gone", "../artifacts"])
def test_removing_a_stage_never_removes_more(stage: str, tmp_path: Path) -> None:
    toy.run(tmp_path / "run")
    with pytest.raises(InputError, match="has no artifact of a stage"):
        remove(tmp_path / "run", stage)
    assert toy.run(tmp_path / "run").executed == ()


def test_an_input_made_again_with_other_bytes_reruns_its_dependents(tmp_path: Path) -> None:
    """The same fingerprint, another digest: what another library version would do."""
    toy.run(tmp_path / "run")
    remove(tmp_path / "run", "words")

    @stage(version=1, inputs={}, output="text")
    def words(settings: toy.WordsSettings, inputs: Inputs, context: Context) -> Artifact:
        draft = context.draft("text")
        draft.write_jsonl("rows.jsonl", [{"word": "other"}])
        return draft.commit({})

    recipe = load_recipe(toy.recipe_file(tmp_path), toy.registry() | {"words": words})
    result = Runner(recipe, tmp_path / "run", toy.publish, Progress(toy.Silent())).run()  # type: ignore[arg-type]
    assert result.executed == ("words", "shout", "again", "report")
    assert not any(check.problems for check in verify_run(tmp_path / "run", toy.registry(), toy.derive))


def test_a_run_killed_before_its_first_ledger_line_starts_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.jsonl").write_bytes(b'{"torn')
    assert len(toy.run(tmp_path / "run").executed) == 4


def test_a_missing_source_spoils_no_sealed_run_and_leaves_no_folder(tmp_path: Path) -> None:
    def external(settings: toy.WordsSettings) -> str:
        if settings.path == "gone":
            raise InputError("words.path: no such folder")
        return "content"

    @stage(version=1, inputs={}, output="text", external=external)
    def words(settings: toy.WordsSettings, inputs: Inputs, context: Context) -> Artifact:
        return context.draft("text").commit({})

    registry = toy.registry() | {"words": words}

    def runner(path: str) -> Runner:
        recipe = load_recipe(toy.recipe_file(tmp_path, "name: toy\nwords: {}\n"), registry, [f"words.path={path}"])
        return Runner(recipe, tmp_path / "run", toy.publish, Progress(toy.Silent()))  # type: ignore[arg-type]

    with pytest.raises(InputError, match="no such folder"):
        runner("gone").run()
    assert not (tmp_path / "run").exists()
    runner("here").run()
    with pytest.raises(InputError, match="no such folder"):
        runner("gone").run()
    assert not any(check.problems for check in verify_run(tmp_path / "run", registry, toy.derive))


def test_the_first_seal_finds_a_manifest_that_was_resealed(tmp_path: Path) -> None:
    """A forger edits a manifest, and appends a commit and a seal that fit it."""
    seal = toy.run(tmp_path / "run").seal
    manifest = tmp_path / "run" / "artifacts" / "words" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_bytes(json_bytes({**content, "note": "reviewed"}))
    ledger = Ledger(tmp_path / "run")
    bodies = {line["event"]: line["body"] for line in read_ledger(ledger.path) if line["event"] == "seal"}
    committed = committed_events(tmp_path / "run")["words"]
    ledger.append("stage_committed", {**committed, "manifest_sha256": sha256_file(manifest)})
    toy.publish(tmp_path / "run", ledger.append("seal", bodies["seal"]))
    assert not any(check.problems for check in verify_run(tmp_path / "run", toy.registry(), toy.derive))
    found = [
        line for check in verify_run(tmp_path / "run", toy.registry(), toy.derive, seal) for line in check.problems
    ]
    assert any("2 lines stand after this seal" in line for line in found)


def test_order_of_a_list_input_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", "report.inputs.stages=[words, shout]")
    assert toy.run(tmp_path / "run", "report.inputs.stages=[shout, words]").executed == ("report",)
