"""What the page says beyond the stages' own blocks: summary, lineage, licences, sessions, ledger, limits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pocketlm.pipeline import figures
from pocketlm.pipeline.figures import Block
from pocketlm.pipeline.replicas import entry_of
from pocketlm.reporting import formatting
from pocketlm.reporting.figures import model_stage
from pocketlm.reporting.graph import Node, draw
from pocketlm.reporting.reading import ARTIFACTS, RunView, StageView

LICENCES = "licences.json"

SAFE_ID = r"[A-Za-z][A-Za-z0-9_]*"
OWN_IDS = ("summary", "pipeline", "data", "cost", "environment", "ledger", "limits", "glossary", "contents")
"""Ids of the page's own parts; those of charts have a hyphen."""

LIMITS = (
    "An interval describes chance among the test items, for this one trained model. What other random seeds would "
    "give, only a stage that compares models of several seeds (a study) describes.",
    "A model of this size reproduces the style of its training text and solves the narrow tasks that it was trained "
    "on. It states falsehoods fluently and has had no safety training.",
    "Times, memory and energy hold for the machine named above under whatever else ran on it.",
    "A digest proves that bytes are unchanged, not that they are good. The seal proves that the run folder is the one "
    "that was sealed; keep it outside of the folder.",
)


def anchors(run: RunView) -> dict[str, str]:
    """Stage name -> element id: the name itself, or a counted id where the name is no safe id or names another part."""
    return {
        stage.name: stage.name if re.fullmatch(SAFE_ID, stage.name) and stage.name not in OWN_IDS else f"stage-{place}"
        for place, stage in enumerate(run.stages, start=1)
    }


def reads(run: RunView, stage: StageView) -> list[str]:
    """The stages that a stage reads, in the order of the recipe (a manifest holds them in the order of their names)."""
    order = [one.name for one in run.stages]
    return sorted(stage.input_stages, key=lambda name: order.index(name) if name in order else len(order))


def lineage_graph(run: RunView) -> str:
    """The stages and what each reads, drawn; the replicas of an entry are one box, which leads to the first of them."""
    ids = anchors(run)
    nodes: dict[str, Node] = {}
    parents: dict[str, list[str]] = {}
    times = Counter(entry_of(stage.name) for stage in run.stages)
    for stage in run.stages:
        entry = entry_of(stage.name)
        kind = stage.artifact.kind.replace("_", " ")
        subtitle = f"{kind} × {times[entry]} seeds" if times[entry] > 1 else kind
        nodes.setdefault(entry, Node(entry, subtitle, ids[stage.name]))
        above = [entry_of(name) for name in reads(run, stage) if name in ids]
        parents[entry] = list(dict.fromkeys([*parents.get(entry, []), *above]))
    return draw(list(nodes.values()), parents)


def conclusions(run: RunView) -> list[str]:
    """The sentences that evaluations and studies derive from their figures, by rule."""
    judges = [stage for stage in run.stages if stage.artifact.kind in ("evaluation", "study")]
    return [block["text"] for stage in judges for block in stage.blocks if block["kind"] == "paragraph"]


def parameters(run: RunView) -> int | None:
    """Number of weights of the final model, as the last model stage that counted them says."""
    final = model_stage(run)
    candidates = [stage for stage in run.stages if stage.artifact.kind == "model"]
    for stage in [*([final] if final else []), *reversed(candidates)]:
        value = stage.metrics.get("parameters", {}).get("value")
        if isinstance(value, int):
            return value
    return None


def licence_blocks(stages: Sequence[StageView]) -> list[Block]:
    """Licences of the documents, for every stage that lists them: {licence: {documents, bytes}}."""
    blocks = []
    for stage in stages:
        if LICENCES in stage.artifact.manifest["files"]:
            rows = [{"licence": name, **counts} for name, counts in stage.artifact.read_json(LICENCES).items()]
            columns = ["licence", "documents", "bytes"]
            blocks.append(figures.table(f"Licences of the documents of {stage.name}", columns, rows))
    return blocks


def session_block(run: RunView) -> Block:
    """One row for every process that worked on the run folder, so that interruptions show."""
    rows: list[dict[str, Any]] = []
    for line in run.ledger:
        if line["event"] == "run_started":
            command = " ".join(str(part) for part in line["body"].get("argv") or [])
            start = {"started": formatting.moment(line["time"]), "command": command, "made": 0, "reused": 0}
            rows.append({**start, "finished": "no"})
        elif rows and line["event"] == "stage_committed":
            rows[-1]["made"] += 1
        elif rows and line["event"] == "stage_cached":
            rows[-1]["reused"] += 1
        elif rows and line["event"] == "run_finished":
            rows[-1]["finished"] = "yes"
    columns = ["started", "command", "made", "reused", "finished"]
    return figures.table("Sessions: every process that worked on this run", columns, rows)


LEDGER_EVENTS = ("run_started", "stage_committed", "stage_failed", "interrupted", "run_finished", "seal")
"""Lines that the page shows; what else happened stands in `ledger.jsonl`."""


def ledger_rows(run: RunView) -> list[dict[str, Any]]:
    """The lines of the ledger that figures come from, and those that begin and end the work."""
    return [
        {
            "sequence": line["sequence"],
            "time": formatting.moment(line["time"]),
            "event": line["event"].replace("_", " "),
            "stage": line["body"].get("stage", ""),
            "digest": line["body"].get("digest", "") if line["event"] == "stage_committed" else "",
            "hash": line["hash"],
        }
        for line in run.ledger
        if line["event"] in LEDGER_EVENTS
    ]


def cards(stage: StageView) -> dict[str, str]:
    """Path inside the run folder -> name, of the cards that an artifact holds."""
    names = {"README.md": "model card" if stage.artifact.kind == "hugging_face" else "data card"}
    names["croissant.json"] = "Croissant description"
    held = stage.artifact.manifest["files"]
    return {f"{ARTIFACTS}/{quote(stage.name)}/{file}": name for file, name in names.items() if file in held}


def warnings(run: RunView) -> list[str]:
    """What stages warned about, in order, each once."""
    lines = (line["body"] for line in run.events("warning"))
    return list(dict.fromkeys(f"{body.get('stage', '')}: {body.get('message', '')}" for body in lines))


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A nested mapping as (dotted name, value) pairs, in order."""
    pairs: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            pairs += flat(item, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", item))
    return pairs
