"""Holding a curated corpus against its input and its rules again: counts, funnel, gates, hashes, evaluation items.

What needs the whole search over all documents to be done again (near-duplicates that were compared, spans that were
cut, planted checks) is not: that is running the stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pocketlm.data.curation.curation_figures import RejectCounts, funnel_blocks, licence_block
from pocketlm.data.curation.curation_report import card_figures
from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.curation.data_card import CARD, DESCRIPTION, card_files
from pocketlm.data.curation.held_out import cloze_items
from pocketlm.data.curation.kept_text import checkable, failing, items_held, stored_items
from pocketlm.data.curation.writing import REJECTS_FILE, SPLITS, Contents
from pocketlm.data.documents import count_units, iterate_documents, read_documents, read_unit, text_bytes
from pocketlm.data.duplicates.duplicates import content_hashes
from pocketlm.data.duplicates.earlier import FOLDER
from pocketlm.data.text import Text
from pocketlm.pipeline.artifact import FIGURES, Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.rederivation import compared, stated_blocks
from pocketlm.pipeline.stage import Rederived

SEARCHED_BYTES = 64_000_000
"""Kept text that is held to gates and searched for items again; of a larger corpus, units drawn afresh each time."""
NAMED = 5
SEARCH = "needs the search over all documents again: run the stage"
PLANTED_TABLES = ("Planted near-duplicates", "Planted evaluation items")
PLANTED = "needs the planting again: run the stage"


def recheck_curation(
    settings: CurationSettings,
    artifact: Artifact,
    given: Artifact,
    problems: Artifact | None,
    earlier: bool,
    context: Context,
) -> Rederived:
    """Everything that the files of a curated corpus and of its input show again.

    Args:
        given: the documents that were curated. earlier: whether it was compared with earlier runs.
    """
    kept: dict[str, list[str]] = {}
    sizes: dict[str, dict[str, int]] = {}
    contents, hashes = Contents(), []
    for name in SPLITS:
        kept[name], sizes[name] = [], {"documents": 0, "bytes": 0}
        for unit in iterate_documents(artifact.file(f"{name}.parquet")):
            kept[name] += unit["id"].to_pylist()
            sizes[name]["documents"] += len(unit)
            sizes[name]["bytes"] += text_bytes(unit)
            hashes.append(content_hashes(Text.from_arrow(unit["text"].combine_chunks())))
            if name == "train":
                contents.add(unit)
    input_ids = [name for part in _column(given.file("documents.parquet"), "id") for name in part]
    sources = sorted({name for part in _column(given.file("documents.parquet"), "source") for name in part})
    rejects = RejectCounts(artifact.file(REJECTS_FILE), sources)
    gave_way = _gave_way(artifact.file(REJECTS_FILE))
    steps = artifact.read_json("funnel.json")
    differences = [
        *_lost(input_ids, kept, [name for part in _column(artifact.file(REJECTS_FILE), "id") for name in part]),
        *_leaks(steps, len(input_ids), sum(rejects.gates.values()), sizes),
        *_other_files(artifact, contents, hashes),
        *_other_card(settings, artifact, contents, sizes, steps),
    ]
    found, sampled = _searched(settings, artifact, problems, context)
    everyone = {name for names in kept.values() for name in names}
    metrics: dict[str, Any] = {"input.documents": len(input_ids)}
    metrics |= {f"{name}.{key}": value for name, counts in sizes.items() for key, value in counts.items()}
    metrics["rejected"] = sum(rejects.gates.values())
    metrics |= {f"rejected.{gate}": number for gate, number in rejects.gates.items()}
    metrics["contamination.items_found"] = len(artifact.read_jsonl("contaminated_items.jsonl"))
    if not earlier:
        metrics["duplicates.kept_copy_rejected_later"] = _orphans(gave_way, everyone)
    return compared(
        artifact,
        metrics,
        [*funnel_blocks(steps), licence_block(contents.licences())],
        differences=[*differences, *found],
        sampled=sampled,
        resting={"*": SEARCH, "planted.*": PLANTED},
        resting_blocks={"*": SEARCH, "table Planted*": PLANTED, "line_chart Which pairs*": PLANTED},
    )


def _column(path: Path, name: str) -> Iterator[list[str]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(65_536, columns=[name]):
            yield batch[name].to_pylist()


def _lost(given: list[str], kept: dict[str, list[str]], rejected: list[str]) -> list[str]:
    """Input = kept + rejected, document by document: each id once, none invented."""
    after = [*(name for names in kept.values() for name in names), *rejected]
    if sorted(given) == sorted(after):
        return []
    before, there = set(given), set(after)
    lines = [f"{name} was given and is neither kept nor rejected" for name in sorted(before - there)[:NAMED]]
    lines += [f"{name} is kept or rejected and was not given" for name in sorted(there - before)[:NAMED]]
    return lines or [f"{len(given)} documents were given, {len(after)} kept or rejected: one stands there twice"]


def _leaks(steps: list[dict[str, Any]], given: int, rejected: int, sizes: dict[str, dict[str, int]]) -> list[str]:
    """funnel.json: each step hands on what it does not keep back, and its ends are what the files hold."""
    lines = []
    left, left_bytes = given, None
    for step in steps:
        parts = step["rejected_bytes"] + step["cut_bytes"] + step["held_out_bytes"] + step["next_bytes"]
        if step["input"] != left or step["input_bytes"] != (parts if left_bytes is None else left_bytes):
            lines.append(f"funnel.json: {step['step']} begins with other documents or bytes than were left before it")
        if step["input"] != step["kept"] + step["rejected"] or step["input_bytes"] != parts:
            lines.append(f"funnel.json: {step['step']} does not add up")
        left, left_bytes = step["kept"] - step["held_out"], step["next_bytes"]
    if sum(step["rejected"] for step in steps) != rejected:
        lines.append(f"funnel.json: its steps reject {sum(step['rejected'] for step in steps)}, the file {rejected}")
    if (left, left_bytes) != (sizes["train"]["documents"], sizes["train"]["bytes"]):
        lines.append("funnel.json: what it leaves is not what train.parquet holds")
    held = sum(sizes[name]["documents"] for name in sizes if name != "train")
    if sum(step["held_out"] for step in steps) != held:
        lines.append("funnel.json: what it holds out is not what the held-out files hold")
    return lines


def _other_files(artifact: Artifact, contents: Contents, hashes: list[np.ndarray]) -> list[str]:
    """licences.json, cloze.jsonl and the index for later runs follow from the texts."""
    lines = []
    if artifact.read_json("licences.json") != contents.licences():
        lines.append("licences.json: not the documents and bytes that train.parquet holds")
    if artifact.read_jsonl("cloze.jsonl") != cloze_items(read_documents(artifact.file("heldout.parquet"))):
        lines.append("cloze.jsonl: not the items that heldout.parquet gives")
    stored = np.load(artifact.file(f"{FOLDER}/content.npy"), allow_pickle=False)
    if not np.array_equal(stored, np.concatenate(hashes)):
        lines.append(f"{FOLDER}/content.npy: not the hashes of the kept texts")
    return lines


def _other_card(
    settings: CurationSettings,
    artifact: Artifact,
    contents: Contents,
    sizes: dict[str, dict[str, int]],
    steps: list[dict[str, Any]],
) -> list[str]:
    """The data card and its description follow from the files, and from the report's tables of what was planted."""
    planted: dict[str, list[dict[str, Any]]] = {}
    for block in stated_blocks(artifact):
        if block["kind"] == "table":
            planted[block["title"]] = [{name: row[name] for name in block["columns"]} for row in block["rows"]]
    duplicates, items = (planted.get(title, []) for title in PLANTED_TABLES)
    figures = card_figures(artifact.stage, sizes, steps, contents, duplicates, items, settings)
    files = {
        name: facts for name, facts in artifact.manifest["files"].items() if name not in (CARD, DESCRIPTION, FIGURES)
    }
    return [
        f"{name}: not the card that the files and the settings give"
        for name, content in card_files(artifact.path, figures, files).items()
        if artifact.file(name).read_bytes() != content
    ]


def _gave_way(path: Path) -> dict[str, str]:
    """Rejected document -> the one that was kept in its place."""
    with pq.ParquetFile(path) as file:
        table = file.read(["id", "removed_by"])
    return {row["id"]: row["removed_by"] for row in table.to_pylist() if row["removed_by"]}


def _orphans(gave_way: dict[str, str], kept: set[str]) -> int:
    """Documents in whose place none is kept in the end, as `Corpus.orphans` counts them."""
    orphans = 0
    for name in gave_way:
        last, seen = name, set[str]()
        while last in gave_way and last not in seen:
            seen.add(last)
            last = gave_way[last]
        orphans += last not in kept
    return orphans


def _searched(
    settings: CurationSettings, artifact: Artifact, problems: Artifact | None, context: Context
) -> tuple[list[str], str]:
    """Gates and items over kept text once more; differences, and words on how much was looked at."""
    path = artifact.file("train.parquet")
    settings, left_out = checkable(settings, artifact)
    index = stored_items(artifact.path, settings, problems.path if problems else None)
    lines: list[str] = []
    documents = size = 0
    order = context.sample_generator("units").permutation(count_units(path)).tolist()
    for number in order:
        unit = read_unit(path, number)
        lines += failing(unit, settings)[:NAMED]
        lines += _held(unit, settings, index)
        documents, size = documents + len(unit), size + text_bytes(unit)
        if size >= SEARCHED_BYTES:
            break
    words = (
        f"{documents:,} kept training documents ({size / 1e6:.1f} MB) held to every gate and searched for "
        f"{len(index.items):,} evaluation items"
    )
    return lines, "; ".join([words, *left_out])


def _held(unit: pa.Table, settings: CurationSettings, index: Any) -> list[str]:
    hits = items_held(unit, index, settings)
    return [
        f"{unit['id'][document].as_py()} is kept, but holds the evaluation item {index.items[item].id} "
        f"(containment {containment:.3f})"
        for document, item, containment in list(
            zip(hits.document.tolist(), hits.item.tolist(), hits.containment.tolist(), strict=True)
        )[:NAMED]
    ]
