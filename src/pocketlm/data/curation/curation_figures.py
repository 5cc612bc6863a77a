"""What the report shows of curation: metrics and blocks, from counts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pocketlm.data.curation.data_card import ADDS_UP, BYTES_CUT, funnel_rows
from pocketlm.data.curation.planting import Planted
from pocketlm.data.curation.repeats import Cut
from pocketlm.data.duplicates.minhash import candidate_probability
from pocketlm.data.duplicates.near_duplicates import Comparisons
from pocketlm.data.duplicates.span_samples import SpanSample
from pocketlm.data.settings import NearDuplicateSettings
from pocketlm.pipeline.figures import Block, bar_chart, line_chart, samples, table

SAMPLES_PER_GATE = 2
SAMPLES = 24


class RejectCounts:
    """Counts over rejects.parquet, read in batches: by gate and source, who gave way to whom, and the first of each."""

    def __init__(self, path: Path, sources: Sequence[str]) -> None:
        self.by_gate: Counter[tuple[str, str]] = Counter()
        self.by_keeper: Counter[tuple[str, str, str]] = Counter()
        self.shown: list[dict[str, str]] = []
        taken: Counter[str] = Counter()
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(4096):
                columns = {name: batch[name].to_pylist() for name in ("gate", "source", "removed_by")}
                self.by_gate.update(zip(columns["gate"], columns["source"], strict=True))
                for gate, source, keeper in zip(*columns.values(), strict=True):
                    if keeper:
                        self.by_keeper[gate, source, _source_of(keeper, sources)] += 1
                for row, gate in enumerate(columns["gate"]):
                    taken[gate] += 1
                    if taken[gate] <= SAMPLES_PER_GATE and len(self.shown) < SAMPLES:
                        self.shown.append(_sample(batch.slice(row, 1).to_pylist()[0]))

    @property
    def gates(self) -> dict[str, int]:
        """Rejected documents by gate, in name order."""
        counts: Counter[str] = Counter()
        for (gate, _), number in self.by_gate.items():
            counts[gate] += number
        return dict(sorted(counts.items()))


def _source_of(document: str, sources: Sequence[str]) -> str:
    """The source that a document's id begins with; of an earlier run's document the first part of its id."""
    known = [source for source in sources if document.startswith(f"{source}/")]
    return max(known, key=len, default=document.partition("/")[0])


def _sample(reject: Mapping[str, Any]) -> dict[str, str]:
    kept = f"; kept: {reject['removed_by']}" if reject["removed_by"] else ""
    label = (
        f"{reject['gate']}: {reject['id']} ({reject['reason']}: {reject['value']:.3g}, limit {reject['threshold']:.3g}"
    )
    return {"label": f"{label}{kept})", "text": reject["excerpt"]}


def funnel_blocks(steps: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Documents, then bytes, in and out of every step."""
    documents, sizes = funnel_rows(steps)
    return [
        table(
            "Data funnel: documents", list(documents[0]), documents, f"{ADDS_UP} That no document is lost is checked."
        ),
        table("Data funnel: bytes of text", list(sizes[0]), sizes, BYTES_CUT),
    ]


def reject_blocks(rejects: RejectCounts, orphans: int) -> list[Block]:
    """Rejects by gate and source, the first of every gate to read, and which source's copy stayed."""
    rows = [
        {"gate": gate, "source": source, "documents": number}
        for (gate, source), number in sorted(rejects.by_gate.items())
    ]
    keepers = [
        {"rule": rule, "removed from": source, "kept": keeper, "documents": number}
        for (rule, source, keeper), number in sorted(
            rejects.by_keeper.items(), key=lambda item: (item[0][0], -item[1], item[0])
        )
    ]
    note = f"The first {SAMPLES_PER_GATE} of every gate, in document order."
    lost = (
        f"{orphans} of them are left without a document in their place: the one that they gave way to was rejected "
        "later, and gave way to none that is kept."
    )
    return [
        bar_chart("Rejected documents by gate", rows, x="gate", y="documents", series="source"),
        samples("Rejected documents", rejects.shown, note=note),
        table("Duplicates: who gave way to whom", ["rule", "removed from", "kept", "documents"], keepers, lost),
    ]


def cut_blocks(cuts: Sequence[Cut], spans: Sequence[SpanSample]) -> list[Block]:
    """What repeats inside documents, how many were shortened (none in a dry run), and the heaviest spans to read."""
    row = {
        "documents shortened": sum(len(cut.shortened.document) for cut in cuts),
        "repeated segments": sum(cut.segments for cut in cuts),
        "repeated spans": sum(cut.spans for cut in cuts),
        "MB of spans": round(sum(cut.span_bytes for cut in cuts) / 1e6, 3),
    }
    blocks = [table("Repeated text inside documents", list(row), [row], "The first occurrence stays where it is.")]
    shown = [
        {
            "label": f"{span.words_cut} words in {span.times} spans; first cut from {span.document}, kept in "
            f"{span.first_document}",
            "text": span.excerpt,
        }
        for span in spans
    ]
    return [*blocks, samples("Repeated spans", shown, "Those that cost the most words.")] if shown else blocks


def licence_block(licences: Mapping[str, Mapping[str, int]]) -> Block:
    """Documents and bytes of training text by licence."""
    rows = [
        {"licence": name, "documents": row["documents"], "MB": round(row["bytes"] / 1e6, 3)}
        for name, row in licences.items()
    ]
    return table("Licences of the training text", ["licence", "documents", "MB"], rows)


def near_duplicate_blocks(
    comparisons: Comparisons, planted: Sequence[Mapping[str, Any]], settings: NearDuplicateSettings
) -> list[Block]:
    """Planted pairs, and the S-curve: the share of pairs that banding proposes, in theory and as measured."""
    similar = int((comparisons.jaccard >= settings.threshold).sum())
    note = (
        f"Edited copies in a sample of this run's documents. LSH ({settings.bands} bands of {settings.rows} rows) "
        f"proposes; exact Jaccard >= {settings.threshold} removes. In the run itself {len(comparisons.jaccard)} pairs "
        f"were proposed and compared exactly, {similar} of them were similar enough."
    )
    theory = [
        {"similarity": value, "share proposed": candidate_probability(value, settings.bands, settings.rows)}
        for value in np.linspace(0.2, 1.0, 33).round(3).tolist()
    ]
    measured = [
        {"similarity": row["mean exact Jaccard"], "share proposed": row["proposed by LSH"] / row["planted"]}
        for row in planted
        if row["planted"]
    ]
    curve = [{**row, "curve": "theory"} for row in theory] + [{**row, "curve": "measured"} for row in measured]
    return [
        table("Planted near-duplicates", list(planted[0]) if planted else [], planted, note),
        line_chart(
            "Which pairs are proposed: the S-curve",
            curve,
            x="similarity",
            y="share proposed",
            series="curve",
            x_title="exact Jaccard similarity",
        ),
    ]


def contamination_blocks(counts: Sequence[Mapping[str, Any]], planted: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Items looked for and found, and planted items with the share that is found in every form."""
    note = "Items that models are chosen or reported by, benchmarks, and held-out documents in windows of 64 words."
    blocks = [table("Contamination", list(counts[0]), counts, note)] if counts else []
    if planted:
        title = "Planted evaluation items"
        blocks.append(table(title, list(planted[0]), planted, "In a sample of this run's documents."))
    return blocks


def planted_metrics(planted: Planted) -> dict[str, int]:
    """Counts of planted and found, by similarity, and by kind and form of item."""
    metrics: dict[str, int] = {}
    for row in planted.duplicates:
        name = f"planted.duplicates.{round(100 * row['intended Jaccard'])}"
        metrics |= {
            f"{name}.planted": row["planted"],
            f"{name}.proposed": row["proposed by LSH"],
            f"{name}.removed": row["removed"],
        }
    for row in planted.items:
        for key in ("planted", "found"):
            name = f"planted.items.{row['items']}.{row['form'].replace(' ', '_').replace(',', '')}.{key}"
            metrics[name] = row[key] + row[f"short {key}"]
    return metrics
