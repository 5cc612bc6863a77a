"""What the report shows of curation: metrics and blocks, from counts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.data.documents import Reject
from pocketlm.pipeline.figures import Block, bar_chart, samples, table

SAMPLES_PER_GATE = 2
SAMPLES = 24


def funnel_block(steps: Sequence[Mapping[str, Any]]) -> Block:
    """Documents and megabytes before and after every step."""
    columns = ["step", "input", "kept", "rejected", "held_out"]
    rows = [{**{key: step[key] for key in columns}, "MB after": round(step["next_bytes"] / 1e6, 3)} for step in steps]
    note = "input = kept + rejected at every step, checked. Held-out documents are kept, but leave the training text."
    return table("Data funnel", [*columns, "MB after"], rows, note)


def reject_blocks(rejects: Sequence[Reject]) -> list[Block]:
    """Rejects by gate and source, and the first of every gate to read."""
    counts = Counter((reject.gate, reject.source) for reject in rejects)
    rows = [{"gate": gate, "source": source, "documents": number} for (gate, source), number in sorted(counts.items())]
    taken: Counter[str] = Counter()
    shown: list[dict[str, str]] = []
    for reject in rejects:
        taken[reject.gate] += 1
        if taken[reject.gate] <= SAMPLES_PER_GATE and len(shown) < SAMPLES:
            kept = f"; kept: {reject.removed_by}" if reject.removed_by else ""
            label = (
                f"{reject.gate}: {reject.id} ({reject.reason}: {reject.value:.3g}, limit {reject.threshold:.3g}{kept})"
            )
            shown.append({"label": label, "text": reject.excerpt})
    return [
        bar_chart("Rejected documents by gate", rows, x="gate", y="documents", series="source"),
        samples("Rejected documents", shown, note=f"The first {SAMPLES_PER_GATE} of every gate, in document order."),
    ]


def duplicate_block(rejects: Sequence[Reject]) -> Block:
    """From which source duplicates were removed, and which source kept its copy."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for reject in rejects:
        if reject.removed_by:
            counts[reject.gate, reject.source, "/".join(reject.removed_by.split("/")[:2])] += 1
    rows = [
        {"rule": rule, "removed from": source, "kept": keeper, "documents": number}
        for (rule, source, keeper), number in sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0]))
    ]
    return table("Duplicates: who gave way to whom", ["rule", "removed from", "kept", "documents"], rows)


def licence_block(licences: Mapping[str, Mapping[str, int]]) -> Block:
    """Documents and bytes of training text by licence."""
    rows = [
        {"licence": name, "documents": row["documents"], "MB": round(row["bytes"] / 1e6, 3)}
        for name, row in licences.items()
    ]
    return table("Licences of the training text", ["licence", "documents", "MB"], rows)


def planted_blocks(
    duplicates: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]], threshold: float
) -> list[Block]:
    """What was planted and what was found."""
    note = f"Edited copies in a sample of this run's documents. LSH proposes; exact Jaccard >= {threshold} removes."
    blocks = [
        table(
            "Planted near-duplicates",
            ["intended Jaccard", "planted", "proposed by LSH", "mean exact Jaccard", "removed"],
            duplicates,
            note,
        )
    ]
    if items:
        blocks.append(
            table(
                "Planted evaluation items",
                ["items", "form", "planted", "found"],
                items,
                "In a sample of this run's documents.",
            )
        )
    return blocks


def contamination_block(kinds: Sequence[Mapping[str, Any]]) -> Block:
    """Items looked for, and documents that held one."""
    return table(
        "Contamination",
        ["items", "number", "too short to look up", "documents rejected"],
        kinds,
        note="Items that models are chosen or reported by, and held-out documents in windows of 64 words.",
    )


def planted_metrics(duplicates: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts of planted and found, by similarity and by kind."""
    metrics: dict[str, int] = {}
    for row in duplicates:
        name = f"planted.duplicates.{round(100 * row['intended Jaccard'])}"
        metrics |= {
            f"{name}.planted": row["planted"],
            f"{name}.proposed": row["proposed by LSH"],
            f"{name}.removed": row["removed"],
        }
    for row in items:
        for key in ("planted", "found"):
            metrics[f"planted.items.{row['items']}.{key}"] = (
                metrics.get(f"planted.items.{row['items']}.{key}", 0) + row[key]
            )
    return metrics
