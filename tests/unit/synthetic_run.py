"""Builds a run folder as the quickstart leaves it, without running anything: for tests of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pocketlm.pipeline import figures
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.ledger import Ledger
from pocketlm.pipeline.storage import MANIFEST, sha256_file, sha256_text

INPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sources": ("documents", {}),
    "problems": ("problems", {}),
    "curate": ("documents", {"documents": "sources"}),
    "tokenizer": ("tokenizer", {"documents": "curate"}),
    "tokenize": ("tokens", {"documents": "curate", "tokenizer": "tokenizer"}),
    "pretrain": ("model", {"tokens": "tokenize"}),
    "sft": ("model", {"model": "pretrain", "problems": "problems"}),
    "interpolate": ("model", {"first": "pretrain", "second": "sft", "problems": "problems", "documents": "curate"}),
    "continued_sft": ("model", {"model": "interpolate", "problems": "problems"}),
    "rejection_sampling": ("model", {"model": "interpolate", "problems": "problems"}),
    "rlvr": ("model", {"model": "interpolate", "problems": "problems"}),
    "evaluate": (
        "evaluation",
        {
            "documents": "curate",
            "problems": "problems",
            "models": ["pretrain", "sft", "interpolate", "continued_sft", "rejection_sampling", "rlvr"],
        },
    ),
    "export": ("hugging_face", {"model": "rlvr"}),
}
GATES = {"too_short": 812, "not_prose": 96, "exact_duplicate": 431, "near_duplicate": 207, "contamination": 3}


def build(
    folder: Path,
    extra: Mapping[str, Sequence[figures.Block]] = {},
    sealed: bool = True,
    seed: int = 7,
    item_digests: Mapping[str, str] = {},
) -> str | None:
    """Write the run; `extra` adds blocks to stages by name (a new name becomes a stage), `item_digests` a results.json.

    Returns the seal.
    """
    inputs = {**INPUTS, **{name: ("other", {"model": "rlvr"}) for name in extra if name not in INPUTS}}
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"name": "quickstart", "description": "The documentation of Python, from raw text to a model that adds."}
    recipe |= {"seed": seed, "model": "rlvr", "runtime": {"threads": 2}}
    stages = {name: {"inputs": reads, **settings_of(name)} for name, (_, reads) in inputs.items()}
    stages["sources"]["docs"] = {"path": "python://documentation"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | stages, sort_keys=False), encoding="utf-8")
    ledger = Ledger(folder)
    machine = {"python": "3.11.9", "platform": "Linux", "cpu": "A processor", "cores": 2, "memory_gb": 16.0}
    environment = {**machine, "versions": {"torch": "2.13.0", "numpy": "2.4.6"}}
    ledger.append(
        "run_started", {"argv": ["pocketlm", "run", "quickstart"], "commit": None, "environment": environment}
    )
    made: dict[str, Artifact] = {}
    for position, (name, (kind, reads)) in enumerate(inputs.items()):
        made[name] = commit(folder, name, kind, reads, made, list(extra.get(name, [])), item_digests)
        ledger.append("stage_started", {"stage": name, "fingerprint": made[name].fingerprint, "reasons": []})
        ledger.append("stage_committed", work_of(made[name], position))
    ledger.append("warning", {"stage": "rlvr", "message": "9 of 100 steps had no live group"})
    if not sealed:
        return None
    ledger.append("run_finished", {"stages": list(made)})
    return ledger.append("seal", {"artifacts": {name: artifact.digest for name, artifact in made.items()}})


def settings_of(name: str) -> dict[str, Any]:
    return {"steps": 600, "optimizer": {"learning_rate": 0.003}} if name == "pretrain" else {}


def work_of(artifact: Artifact, position: int) -> dict[str, Any]:
    return {
        "stage": artifact.stage,
        "fingerprint": artifact.fingerprint,
        "digest": artifact.digest,
        "manifest_sha256": sha256_file(artifact.path / MANIFEST),
        "seconds": 3.5 * (1 + position * 7 % 11),
        "peak_memory_bytes": 400_000_000 + position * 150_000_000,
        "energy_joules": None,
    }


def commit(
    folder: Path,
    name: str,
    kind: str,
    reads: Mapping[str, Any],
    made: Mapping[str, Artifact],
    extra: list[figures.Block],
    item_digests: Mapping[str, str],
) -> Artifact:
    """Commit one artifact with the figures that such a stage would have."""
    references = {
        key: made[value].reference() if isinstance(value, str) else {one: made[one].reference() for one in value}
        for key, value in reads.items()
    }
    manifest = {"kind": kind, "stage": name, "version": 1, "fingerprint": sha256_text(name), "inputs": references}
    manifest["identity"] = {"external": sha256_text("content") if name == "sources" else None}
    draft = Draft(folder / "artifacts" / name, {**manifest, "settings": settings_of(name)})
    if name == "curate":
        write_curation(draft)
    if name == "evaluate" and item_digests:
        tasks = {task: {"sha256": known} for task, known in item_digests.items()}
        draft.write_json("results.json", {"models": {}, "tasks": tasks})
    metrics, blocks = FIGURES_OF.get(name, lambda: ({"files": 4}, []))()
    return draft.commit(metrics, [*blocks, *extra])


def write_curation(draft: Draft) -> None:
    """Licences and rejects of a curation."""
    import pyarrow
    import pyarrow.parquet

    (draft.path / "README.md").write_text("# A data card\n", encoding="utf-8")
    licences = {"PSF-2.0": 15_011, "BSD-3-Clause": 5_214, "MIT": 1_930, "Apache-2.0": 402, "NOASSERTION": 212}
    draft.write_json("licences.json", {key: {"documents": n, "bytes": 8_000 * n} for key, n in licences.items()})
    rows = [
        {
            "id": f"stdlib/{gate}/{number}", "source": "stdlib", "gate": gate, "value": float(number),
            "threshold": 40.0, "reason": f"{gate} of document {number}", "excerpt": "Return a\x1b[31m new list\nof it",
        }
        for gate, count in GATES.items()
        for number in range(count)
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), draft.path / "rejects.parquet")


def pretraining() -> tuple[dict[str, Any], list[figures.Block]]:
    steps = range(0, 601, 2)
    loss = [
        {"step": step, "loss": 2.1 + 5.4 * math.exp(-step / (70 + 12 * shift)) + 0.04 * math.sin(step), "split": split}
        for shift, split in enumerate(("train", "held-out"))
        for step in steps
    ]
    ratio = [{"step": step, "ratio": 0.0012 + 0.0004 * math.cos(step / 40)} for step in steps]
    metrics = {
        "parameters": 983_424,
        "steps": 600,
        "tokens": 4_915_200,
        "heldout.bits_per_byte": figures.figure(2.104, n=1_204, low=2.071, high=2.139, unit="bits/byte"),
    }
    baselines = [
        {"model": name, "bits": bits, "low": bits - 0.03, "high": bits + 0.03}
        for name, bits in (("byte trigram", 2.91), ("interpolated byte 6-gram", 2.23), ("this model", 2.104))
    ]
    return metrics, [
        figures.line_chart("Loss", loss, "step", "loss", "split", "step", "nats per token", "Held-out: whole split."),
        figures.line_chart("Update-to-weight ratio", ratio, "step", "ratio", None, "step", "ratio"),
        figures.bar_chart("Held-out bits per byte", baselines, "model", "bits", None, "", "bits per byte"),
    ]


def evaluation() -> tuple[dict[str, Any], list[figures.Block]]:
    scores = {"pretrain": 0.01, "sft": 0.34, "interpolate": 0.35, "continued_sft": 0.33, "rejection_sampling": 0.44,
              "rlvr": 0.62}  # fmt: skip
    rows = [{"model": name, "exact match": s, "low": max(0, s - 0.04), "high": s + 0.04} for name, s in scores.items()]
    levels = [
        {"level": level, "exact match": max(0.0, s - 0.13 * level), "model": name}
        for name, s in scores.items()
        for level in range(1, 5)
    ]
    table = [{**row, "n": 600, "bits per byte": 2.1 + 0.01 * index} for index, row in enumerate(rows)]
    metrics = {
        "rlvr.arithmetic.exact_match": figures.figure(0.62, n=600, low=0.58, high=0.66),
        "rlvr.arithmetic_level_1.exact_match": figures.figure(0.91, n=150, low=0.85, high=0.95),
        "continued_sft.arithmetic.exact_match": figures.figure(0.33, n=600, low=0.29, high=0.37),
        "pretrain.arithmetic.exact_match": figures.figure(0.013, n=600, low=0.007, high=0.024),
        "interpolate.arithmetic.exact_match": figures.figure(0.45, n=600, low=0.41, high=0.49),
        "rejection_sampling.arithmetic.exact_match": figures.figure(0.44, n=600, low=0.4, high=0.48),
        "rlvr_vs_interpolate.arithmetic.exact_match": figures.figure(0.17, n=600, low=0.13, high=0.21),
        "rlvr_vs_continued_sft.arithmetic.exact_match": figures.figure(0.29, n=600, low=0.25, high=0.33),
        "rlvr_vs_rejection_sampling.arithmetic.exact_match": figures.figure(0.18, n=600, low=0.13, high=0.22),
        "rlvr.heldout_bits_per_byte.bits_per_byte": figures.figure(
            2.181, n=1_204, low=2.150, high=2.215, unit="bits/byte"
        ),
        "rlvr.last_word_cloze.accuracy": figures.figure(0.113, n=400, low=0.085, high=0.148),
        "pass_at_8": 0.81,
    }
    outputs = [
        {"label": "12+34= · level 2 · right", "text": "12+34=46"},
        {"label": "97+88= · level 3 · wrong", "text": "97+88=175\n\nReturn a list of the words in the string."},
    ]
    return metrics, [
        figures.paragraph("Reinforcement learning beats continued SFT on the same problems by 29 points (25 to 33)."),
        figures.paragraph("Reinforcement learning beats rejection sampling on the same prompts by 18 points."),
        figures.bar_chart("Exact match by model", rows, "model", "exact match", None, "", "exact match"),
        figures.bar_chart("Exact match by level", levels, "level", "exact match", "model", "level", "exact match"),
        figures.table(
            "Before and after", ["model", "exact match", "low", "high", "n", "bits per byte"], table, "95 %."
        ),
        figures.samples("Answers", outputs, "The first two problems of the report split."),
    ]


def sources() -> tuple[dict[str, Any], list[figures.Block]]:
    rows = [
        {"source": "docs", "file": f"part {n}.jsonl", "sha256": sha256_text(str(n)), "documents": 40 + n, "bytes": 900}
        for n in range(3)
    ]
    licences = [{"source": "docs/texts", "licence": "PSF-2.0", "documents": 123}]
    blocks = [
        figures.table("Licences", ["source", "licence", "documents"], licences),
        figures.table("Files that were read", list(rows[0]), rows),
    ]
    return {"documents": 123}, blocks


FIGURES_OF = {"sources": sources, "pretrain": pretraining, "evaluate": evaluation}
