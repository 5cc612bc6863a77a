"""How long the report of a run of 135M parameters takes to render, how large it is, and when a browser has loaded it.

    python -m bench.report_rendering

The run folder is made up, not trained: 30 stages, training logs and curves of 20,000 rows, 13,000 items a task of eight
models, 50,000 rejected documents a curation. Writes bench/results/report_rendering.json.

Not covered: how long the stages take to write these files, and `pocketlm verify`, which also hashes every file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from pocketlm.pipeline import figures
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.ledger import Ledger
from pocketlm.pipeline.storage import MANIFEST, sha256_file, sha256_text

STAGES = {
    "problems": ("problems", []),
    "sources_1": ("documents", []),
    "sources_2": ("documents", []),
    "curate_1": ("documents", ["sources_1", "problems"]),
    "curate_2": ("documents", ["sources_2", "problems", "curate_1"]),
    "tokenizer": ("tokenizer", ["curate_1"]),
    "tokenize_1": ("tokens", ["curate_1", "tokenizer"]),
    "tokenize_2": ("tokens", ["curate_2", "tokenizer"]),
    "phase_1": ("model", ["tokenize_1"]),
    **{f"mixture_{n}": ("tokens", ["tokenize_1", "tokenize_2"]) for n in (2, 3, 4)},
    "phase_2": ("model", ["mixture_2", "phase_1"]),
    "phase_3": ("model", ["mixture_3", "phase_2"]),
    "phase_4": ("model", ["mixture_4", "phase_3"]),
    "conversations": ("conversations", ["tokenizer", "problems"]),
    "sft": ("model", ["phase_4", "conversations"]),
    "distil": ("model", ["sft", "conversations"]),
    "interpolate": ("model", ["phase_4", "distil"]),
    "preference": ("model", ["interpolate", "conversations"]),
    **{f"rlvr_{n}": ("model", ["preference", "problems"]) for n in range(1, 6)},
    "continued_sft": ("model", ["preference", "problems"]),
    "rejection_sampling": ("model", ["preference", "problems"]),
    "evaluate": ("evaluation", ["curate_2", "problems", "phase_1", "phase_4", "sft", "preference", "rlvr_1"]),
    "export": ("hugging_face", ["rlvr_1"]),
    "report": ("report", ["evaluate", "rlvr_1"]),
}
MODELS = ("phase_1", "phase_2", "phase_3", "phase_4", "sft", "preference", "rlvr_1", "continued_sft")
TASKS = ("arc_challenge", "arc_easy", "hellaswag", "lambada_openai", "piqa", "winogrande", "gsm8k", "arithmetic")
TASKS += tuple(f"blimp_{n}" for n in range(67))
GATES = ("too_short", "not_prose", "exact_duplicate", "near_duplicate", "contamination")


def build(folder: Path, log_rows: int = 20_000, items: int = 13_000, rejects: int = 50_000) -> str:
    """Write the run folder; returns its seal."""
    recipe: dict[str, Any] = {"name": "large", "description": "Made up.", "seed": 1, "model": "rlvr_1", "runtime": {}}
    recipe |= {name: {"inputs": {"of": list(reads)}, "steps": log_rows} for name, (_, reads) in STAGES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    ledger = Ledger(folder)
    ledger.append("run_started", {"argv": ["pocketlm", "run", "large"], "commit": None, "environment": {}})
    made: dict[str, Artifact] = {}
    for name, (kind, reads) in STAGES.items():
        ledger.append("stage_started", {"stage": name, "fingerprint": sha256_text(name), "reasons": []})
        inputs = {"of": {one: made[one].reference() for one in reads}}
        identity = {"external": sha256_text(name) if name.startswith("sources") else None}
        manifest = {"kind": kind, "stage": name, "version": 1, "fingerprint": sha256_text(name), "identity": identity}
        draft = Draft(folder / "artifacts" / name, {**manifest, "settings": {"steps": log_rows}, "inputs": inputs})
        made[name] = fill(draft, name, kind, log_rows, items, rejects)
        work = {"stage": name, "digest": made[name].digest, "fingerprint": made[name].fingerprint, "seconds": 9_000.0}
        work |= {"peak_memory_bytes": 10**10, "energy_joules": 4.5e6, "kind": kind}
        ledger.append("stage_committed", {**work, "manifest_sha256": sha256_file(made[name].path / MANIFEST)})
    ledger.append("run_finished", {"stages": list(made)})
    return ledger.append("seal", {"artifacts": {name: artifact.digest for name, artifact in made.items()}})


def fill(draft: Draft, name: str, kind: str, log_rows: int, items: int, rejects: int) -> Artifact:
    """Commit an artifact with about the figures that such a stage has."""
    if kind == "model" and name != "interpolate":
        rows = training_rows(log_rows)
        draft.write_jsonl("log.jsonl", rows)
        titles = {"Training loss": "loss", "Learning rate": "learning_rate", "Update-to-weight ratio": "update_ratio"}
        blocks = [figures.line_chart(title, rows, "step", column) for title, column in titles.items()]
        levels = [
            {"step": row["step"], "reward": row["loss"] / 9, "of": f"level {1 + row['step'] % 4}"} for row in rows
        ]
        blocks.append(figures.line_chart("Mean reward", levels, "step", "reward", "of"))
        return draft.commit({"parameters": 134_515_008, "steps": log_rows, "tokens": 10_001_252_352}, blocks)
    if name.startswith("sources"):
        files = [
            {"source": "web", "file": f"part/{n}.parquet", "sha256": sha256_text(str(n)), "documents": 9, "bytes": 9}
            for n in range(1_000)
        ]
        blocks = [figures.table("Files that were read", list(files[0]), files)]
        return draft.commit({"documents": 9_700_000}, blocks)
    if name.startswith("curate"):
        return draft.commit({f"gate.{n}": n for n in range(80)}, curation_blocks(draft, rejects))
    if kind == "evaluation":
        return draft.commit(*evaluation(draft, items))
    return draft.commit({f"figure.{n}": n / 7 for n in range(40)}, [figures.paragraph("Made up.")])


def training_rows(count: int) -> list[dict[str, Any]]:
    """A falling, rough curve with the columns of a training log."""
    return [
        {
            "step": step,
            "loss": 2.7 + 8 * math.exp(-step / (count / 12)) + 0.07 * math.sin(step * 12.9898),
            "learning_rate": 4e-4 * (1 - step / count),
            "update_ratio": 1.1e-3 + 2e-4 * math.sin(step * 78.233),
            "gradient_norm": 0.31,
            "skipped": 0,
            "tokens": 528_384 * step,
        }
        for step in range(count)
    ]


def curation_blocks(draft: Draft, rejects: int) -> Sequence[figures.Block]:
    """Rejected documents as a file, and the tables and samples of a curation."""
    import pyarrow
    import pyarrow.parquet

    columns = {"id": [f"web/{n}" for n in range(rejects)], "gate": [GATES[n % len(GATES)] for n in range(rejects)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), draft.path / "rejects.parquet")
    funnel = [
        {"step": gate, "input": 10**7 - n, "rejected": n, "to the next step": 10**7} for n, gate in enumerate(GATES)
    ]
    by_gate = [{"gate": f"gate {n}", "documents": n, "source": f"source {n % 12}"} for n in range(80)]
    texts = [{"label": f"document {n}", "text": "A sentence of a document. " * 100} for n in range(200)]
    planted = [{"items": f"benchmark {n}", "planted": 40, "found": 40} for n in range(60)]
    return [
        figures.table("Data funnel: documents", list(funnel[0]), funnel),
        figures.bar_chart("Rejected documents by gate", by_gate, "gate", "documents", "source"),
        figures.samples("Rejected documents", texts, "The first of every gate."),
        figures.table("Contamination", list(planted[0]), planted),
    ]


def evaluation(draft: Draft, items: int) -> tuple[dict[str, Any], list[figures.Block]]:
    """Item logs of every model and task, scores with intervals, answers."""
    line = {"id": "item", "hash": sha256_text("item"), "log_likelihoods": [-1.5] * 4, "gold": 1, "correct": True}
    log = (json.dumps(line) + "\n") * items
    (draft.path / "items").mkdir()
    for model in MODELS:
        for task in TASKS[:7]:
            (draft.path / "items" / f"{model}.{task}.jsonl").write_text(log, encoding="utf-8")
    score = figures.figure(0.31, n=items, low=0.3, high=0.32)
    metrics = {
        f"{model}.{task}.{metric}": score for model in MODELS for task in TASKS for metric in ("acc_norm", "acc")
    }
    rows = [{"model": model, **dict.fromkeys(TASKS[:8], "31.0 % [30.0, 32.0]")} for model in MODELS]
    bars = [{"task": task, "value": 0.31, "low": 0.3, "high": 0.32, "model": m} for m in MODELS for task in TASKS]
    answers = [{"label": f"question {n}", "text": "An answer. " * 80} for n in range(100)]
    blocks = [
        figures.table("Scores", list(rows[0]), rows),
        figures.bar_chart("Scores by task", bars, "task", "value", "model"),
        figures.samples("Answers", answers, "The first in the order of their hashes."),
    ]
    return metrics, blocks


def loading_seconds(page: Path) -> dict[str, float] | None:
    """Seconds until Chromium has drawn every chart, at desktop and phone width; None without Chromium."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))
    import browser

    if browser.find_chromium() is None:
        return None
    found = {}
    with tempfile.TemporaryDirectory() as profile, browser.Browser(Path(profile)) as chromium:
        for name, width in (("desktop", 1280), ("phone", 390)):
            start = perf_counter()
            chromium.open(page, width)
            undrawn = "[...document.querySelectorAll('.drawing')].filter(one => !one.querySelector('svg')).length"
            while chromium.evaluate(undrawn):
                pass
            found[name] = round(perf_counter() - start, 2)
        if chromium.messages:
            raise RuntimeError(f"the page complains: {chromium.messages}")
    return found


def main() -> None:
    import resource

    from bench.common import RESULTS, machine, versions
    from pocketlm.commands import derive_report
    from pocketlm.reporting.html import render
    from pocketlm.reporting.reading import read_run

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="Keep the run folder here; a temporary one when left out.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = parser.parse_args().folder or Path(temporary) / "run"
        began = perf_counter()
        seal = build(folder)
        built = perf_counter() - began
        began = perf_counter()
        page = render(read_run(folder), seal)
        rendered = perf_counter() - began
        began = perf_counter()
        derived = derive_report(folder, seal)
        (folder / "report.html").write_bytes(derived["report.html"])
        result = {
            "machine": machine(),
            "versions": versions("altair", "vl-convert-python", "jinja2"),
            "stages": len(STAGES),
            "bytes_of_figures_read": sum(path.stat().st_size for path in folder.glob("artifacts/*/figures.json")),
            "bytes_of_run_folder": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "seconds_to_build_the_folder": round(built, 2),
            "seconds_to_render_the_page": round(rendered, 2),
            "seconds_to_derive_all_files": round(perf_counter() - began, 2),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "bytes_of_the_page": len(page.encode()),
            "bytes_of_report_json": len(derived["report.json"]),
            "seconds_until_drawn": loading_seconds(folder / "report.html"),
        }
    (RESULTS / "report_rendering.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
