"""Curation gives the same result however the corpus is divided and wherever its units are worked on."""

from __future__ import annotations

import contextlib
import errno
import io
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pocketlm.data import documents as documents_module
from pocketlm.data import scratch
from pocketlm.data.curation import prepare as prepare_module
from pocketlm.data.curation import writing
from pocketlm.data.documents import DOCUMENTS, TableWriter
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime, Settings
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.curate import CurateSettings, curate
from pocketlm.stages.tokenizer import TokenizerSettings
from tests.data_pipeline import prose

SETTINGS = CurateSettings(minimum_bytes=20_000, held_out={"minimum_documents": 3}, segments={"span_words": 20})
SPAN = " ".join(prose(900, 3).split())


def corpus(documents: int = 60) -> list[str]:
    """Documents with exact, near and partial duplicates of each other, far apart."""
    stream = random.Random(1)
    texts = [prose(seed, 12) for seed in range(documents)]
    for at in range(0, documents, 12):
        words = texts[at].split(" ")
        words[20] = f"edited{at}"
        texts.append(" ".join(words))
    texts += [texts[3], texts[7], "Too short."]
    for at in (11, 29, 47):
        texts[at] = f"{texts[at]} And so {SPAN} it went on."
    paragraph = prose(901, 5).split("\n\n")[0]
    for at in (5, 33, 50):
        texts[at] = f"{texts[at]}\n\n{paragraph}"
    stream.shuffle(texts)
    return texts


def write_documents(folder: Path, texts: list[str]) -> Artifact:
    folder.mkdir(parents=True)
    with TableWriter(folder / "documents.parquet", DOCUMENTS) as writer:
        for at, text in enumerate(texts):
            score = float(at % 5) if at % 3 else None
            row = (f"{'ab'[at % 2]}/{at}", "ab"[at % 2], text, "MIT", "made", score, None)
            writer.write(row, len(text.encode()))
    return Artifact(folder, {"files": {"documents.parquet": {}}})


def run(
    folder: Path,
    documents: Artifact,
    settings: CurateSettings = SETTINGS,
    earlier: dict[str, Artifact] | None = None,
    **runtime: Any,
) -> Artifact:
    """Curate in a folder whose scratch space survives a failure, as a run's does."""
    context = Context(
        stage="curate",
        root_seed=1,
        runtime=Runtime(**runtime),
        work=folder / "work",
        make_draft=lambda kind: Draft(folder / "curate", {"kind": kind, "stage": "curate", "fingerprint": "f" * 64}),
        record=lambda kind, body: None,
        progress=Progress(io.StringIO()),
        stop=StopRequest(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    return curate.function(settings, Inputs({"documents": documents, "earlier": earlier or {}}), context)


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return pq.read_table(artifact.path / name).to_pylist()


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "ROW_GROUP_BYTES", 6_000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("whole")
    return run(folder / "run", write_documents(folder / "sources", corpus()))


def test_every_kind_of_repeat_is_there(whole: Artifact) -> None:
    gates = {row["gate"] for row in rows(whole, "rejects.parquet")}
    assert {"exact_duplicate", "near_duplicate", "too_short"} <= gates
    assert whole.metrics["cut.segments"] >= 2
    assert whole.metrics["cut.spans"] >= 2
    texts = [row["text"] for name in writing.SPLITS for row in rows(whole, f"{name}.parquet")]
    assert sum(SPAN in " ".join(text.split()) for text in texts) == 1


@pytest.mark.usefixtures("small_units")
def test_the_division_into_units_changes_no_document(whole: Artifact, tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "sources", corpus())
    assert pq.ParquetFile(documents.path / "documents.parquet").num_row_groups > 10
    divided = run(tmp_path / "run", documents)
    for name in (*(f"{split}.parquet" for split in writing.SPLITS), "rejects.parquet"):
        assert rows(divided, name) == rows(whole, name)
    assert divided.read_json("funnel.json") == whole.read_json("funnel.json")
    assert divided.read_jsonl("cloze.jsonl") == whole.read_jsonl("cloze.jsonl")


@pytest.mark.usefixtures("small_units")
def test_threads_and_partitions_do_not_change_a_byte(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "sources", corpus())
    ways = [{"threads": 1}, {"threads": 2}, *({"threads": 2, "partitions": number} for number in (1, 7, 64))]
    digests = {run(tmp_path / f"run{at}", documents, **way).digest for at, way in enumerate(ways)}
    assert len(digests) == 1


class _Named(Exception):
    """A full disk that was reported as it should be."""


def _curated(folder: Path, documents: Artifact) -> str:
    try:
        return run(folder, documents, threads=1).digest
    except InputError as error:
        if "the disk is full" not in str(error) or list((folder / "work").rglob(".tmp-*")):
            raise AssertionError("a full disk must be named and leave nothing half-written") from error
        raise _Named from error


@pytest.mark.usefixtures("small_units")
def test_a_disk_full_in_any_spill_is_named_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = write_documents(tmp_path / "sources", corpus())
    undisturbed = run(tmp_path / "undisturbed", documents).digest
    replace, prepare = scratch.os.replace, prepare_module._prepare
    room, prepared = 40, []

    def sometimes_full(source: Any, target: Any) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(scratch.os, "replace", sometimes_full)
    monkeypatch.setattr(prepare_module, "_prepare", lambda unit: (prepared.append(unit.number), prepare(unit)))
    failures = 0
    while True:
        with contextlib.suppress(_Named):
            digest = _curated(tmp_path / "disturbed", documents)
            break
        failures += 1
        room = 40 * (failures + 1)
    assert failures >= 2
    assert digest == undisturbed
    units = pq.ParquetFile(documents.path / "documents.parquet").num_row_groups
    assert len(prepared) <= units + failures  # what was whole is not done again


def test_sources_before_quality_before_position_decide_who_stays(tmp_path: Path) -> None:
    texts = corpus()
    text = prose(950, 12)
    folder = tmp_path / "sources"
    folder.mkdir()
    with TableWriter(folder / "documents.parquet", DOCUMENTS) as writer:
        for at, other in enumerate(texts):
            writer.write((f"first/{at}", "first", other, "MIT", "made", None, None), len(other))
        for at, score in enumerate([None, 2.0, 4.0, 4.0]):
            copy = text.replace(".", f" {at}.", 1)
            writer.write((f"second/{at}", "second", copy, "MIT", "made", score, None), len(copy))
    made = run(tmp_path / "run", Artifact(folder, {"files": {"documents.parquet": {}}}))
    removed = {row["id"]: row["removed_by"] for row in rows(made, "rejects.parquet") if "second/" in row["id"]}
    assert removed == {"second/0": "second/2", "second/1": "second/2", "second/3": "second/2"}


def test_an_earlier_run_keeps_its_documents_from_a_later_one(whole: Artifact, tmp_path: Path) -> None:
    kept = [row for name in writing.SPLITS for row in rows(whole, f"{name}.parquet")]
    fresh = [prose(seed, 12) for seed in range(2000, 2040)]
    near = " ".join(f"word{at}" if at == 30 else word for at, word in enumerate(kept[0]["text"].split(" ")))
    documents = write_documents(tmp_path / "sources", [*fresh, kept[5]["text"], near])
    made = run(tmp_path / "run", documents, earlier={"whole": whole})
    removed = {row["id"]: (row["gate"], row["removed_by"]) for row in rows(made, "rejects.parquet")}
    assert removed == {
        f"{'ab'[40 % 2]}/40": ("exact_duplicate", kept[5]["id"]),
        f"{'ab'[41 % 2]}/41": ("near_duplicate", kept[0]["id"]),
    }
    with pytest.raises(InputError, match="25 bands of 5 rows, this run has 10 of 4"):
        run(tmp_path / "other", documents, CurateSettings(near_duplicates={"bands": 10, "rows": 4}), {"whole": whole})


def test_allowed_licences_fail_closed(tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    licences = ["MIT", "NOASSERTION", "GPL-3.0-only", "MIT OR GPL-3.0-only"]
    with TableWriter(folder / "documents.parquet", DOCUMENTS) as writer:
        for at, text in enumerate(corpus()):
            writer.write((f"s/{at}", "s", text, licences[at % 4], "made", None, None), len(text))
    settings = SETTINGS.model_copy(update={"allowed_licences": ("MIT",), "minimum_bytes": 1000})
    made = run(tmp_path / "run", Artifact(folder, {"files": {"documents.parquet": {}}}), settings)
    kept = {row["licence"] for name in writing.SPLITS for row in rows(made, f"{name}.parquet")}
    assert kept == {"MIT", "MIT OR GPL-3.0-only"}
    assert made.read_json("funnel.json")[0]["step"] == "licences"
    assert made.metrics["rejected.licence"] == sum(at % 4 in (1, 2) for at in range(len(corpus())))


def test_the_card_says_what_was_masked(tmp_path: Path) -> None:
    texts = corpus()
    texts[1] = f"{texts[1]} Write to somebody@example.com."
    documents = write_documents(tmp_path / "sources", texts)
    made = run(tmp_path / "run", documents, SETTINGS.model_copy(update={"mask_emails": True}))
    assert not any(
        "somebody@example.com" in row["text"] for name in writing.SPLITS for row in rows(made, f"{name}.parquet")
    )
    said = made.read_json("croissant.json")["rai:personalSensitiveInformation"]
    assert said.endswith("Masked by pattern: e-mail addresses.")


@pytest.mark.parametrize(("kind", "setting"), [(CurateSettings, "language_model"), (TokenizerSettings, "path")])
def test_a_written_recipe_runs_again_from_another_folder(
    kind: type[Settings], setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = kind(**{setting: "models/one"})
    assert getattr(settings, setting) == str(tmp_path / "models" / "one")
    assert settings.identity() == kind().identity()
