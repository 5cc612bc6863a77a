"""The steps of curation: each takes a table of documents and gives the kept ones and the rejects, nothing lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.cleaning import clean
from pocketlm.data.contamination import Index, find_contamination
from pocketlm.data.documents import Reject, excerpt_of
from pocketlm.data.duplicates import Removals, exact_duplicates, near_duplicates
from pocketlm.data.gates import GATES, judge, measure
from pocketlm.data.segments import cut_segments, repeats_of, segments_of
from pocketlm.data.settings import GateSettings, NearDuplicateSettings
from pocketlm.data.text import Text, tokens_of

CONTAMINATION = "contamination"

Outcome = tuple[pa.Table, list[Reject]]
Step = Callable[[pa.Table], Outcome]


@dataclass
class Funnel:
    """Documents on their way through the steps; every step must account for each document that it was given."""

    documents: pa.Table
    rejects: list[Reject] = field(default_factory=list)
    steps: list[dict[str, int | str]] = field(default_factory=list)

    def apply(self, name: str, step: Step) -> None:
        """Run one step and book it. RuntimeError when input = kept + rejected does not hold."""
        before = len(self.documents)
        before_bytes = text_bytes(self.documents)
        kept, rejects = step(self.documents)
        if before != len(kept) + len(rejects):
            raise RuntimeError(f"step {name}: {before} documents in, {len(kept)} kept and {len(rejects)} rejected")
        self.documents = kept
        self.rejects += rejects
        self._book(name, before, len(kept), before_bytes)

    def hold_out(self, training: np.ndarray) -> None:
        """Book the split and go on with the training documents. Held-out ones count as kept: nothing is rejected."""
        whole = self.documents
        self.documents = whole.filter(pa.array(training)).combine_chunks()
        self._book("held-out split", len(whole), len(whole), text_bytes(whole), len(whole) - len(self.documents))

    def _book(self, name: str, before: int, kept: int, before_bytes: int, held_out: int = 0) -> None:
        counts = {"input": before, "kept": kept, "rejected": before - kept, "held_out": held_out}
        sizes = {"input_bytes": before_bytes, "next_bytes": text_bytes(self.documents)}
        self.steps.append({"step": name, **counts, **sizes})


def text_bytes(documents: pa.Table) -> int:
    """UTF-8 bytes of all texts."""
    return int(pc.sum(pc.binary_length(documents["text"])).as_py() or 0)


def clean_step(documents: pa.Table) -> Outcome:
    """Normalise every text; what is empty then is rejected."""
    cleaned = _with_text(documents, clean(documents["text"]))
    empty = np.asarray(pc.binary_length(cleaned["text"])) == 0
    return _outcome(
        cleaned, empty, lambda row: ("empty_after_cleaning", 0.0, 1.0, "nothing is left after cleaning", "")
    )


def gate_step(settings: GateSettings) -> Step:
    """Quality gates: the first that a document fails rejects it."""

    def step(documents: pa.Table) -> Outcome:
        verdicts = judge(measure(_texts(documents)), settings)

        def why(row: int) -> tuple[str, float, float, str, str]:
            gate = GATES[verdicts.gate[row]]
            return gate.name, float(verdicts.value[row]), float(gate.threshold(settings)), gate.reason, ""

        return _outcome(documents, verdicts.gate >= 0, why)

    return step


def exact_step(documents: pa.Table) -> Outcome:
    """Equal texts: the first stays."""
    removals = exact_duplicates(Text.from_arrow(_texts(documents)))
    return _duplicates(documents, removals, "exact_duplicate", 1.0, "the same text as another document")


def near_step(settings: NearDuplicateSettings) -> Step:
    """Near-duplicates across all sources: of every connected group the first document stays."""

    def step(documents: pa.Table) -> Outcome:
        tokens = tokens_of(Text.from_arrow(_texts(documents)))
        removals = near_duplicates(tokens, settings.threshold, settings.bands, settings.rows).removals
        reason = "Jaccard similarity of 5-word shingles with a document of the kept one's group"
        return _duplicates(documents, removals, "near_duplicate", settings.threshold, reason)

    return step


def segment_step(maximum_share: float) -> Step:
    """Cut segments that occurred before; a document that is made of them beyond `maximum_share` is rejected."""

    def step(documents: pa.Table) -> Outcome:
        text = Text.from_arrow(_texts(documents))
        segments = segments_of(text)
        repeats = repeats_of(segments, len(text))
        rejected = repeats.share > maximum_share
        cut = _with_text(documents, cut_segments(text, segments, repeats.cut & ~rejected[segments.document]))
        origin = dict(zip(segments.document[repeats.cut][::-1], repeats.first[repeats.cut][::-1], strict=True))

        def why(row: int) -> tuple[str, float, float, str, str]:
            keeper = documents["id"][int(origin[row])].as_py()
            return (
                "repeated_segments",
                float(repeats.share[row]),
                maximum_share,
                "too many of its segments occurred before",
                keeper,
            )

        return _outcome(cut, rejected, why)

    return step


def contamination_step(index: Index, threshold: float) -> Step:
    """Reject documents that hold an evaluation item; the excerpt is the matched place."""

    def step(documents: pa.Table) -> Outcome:
        text = Text.from_arrow(_texts(documents))
        hits = {hit.document: hit for hit in find_contamination(tokens_of(text), index, threshold)}
        contaminated = np.isin(np.arange(len(documents)), list(hits))

        def why(row: int) -> tuple[str, float, float, str, str]:
            item = index.items[hits[row].item]
            return (
                f"{CONTAMINATION}_{item.kind}",
                hits[row].containment,
                threshold,
                f"holds the evaluation item {item.id}",
                "",
            )

        def excerpt(row: int) -> str:
            return excerpt_of(text.data[hits[row].start : hits[row].end].tobytes().decode("utf-8", "replace"))

        return _outcome(documents, contaminated, why, excerpt)

    return step


def _duplicates(documents: pa.Table, removals: Removals, gate: str, threshold: float, reason: str) -> Outcome:
    def why(row: int) -> tuple[str, float, float, str, str]:
        keeper = documents["id"][int(removals.keeper[row])].as_py()
        return gate, float(removals.similarity[row]), threshold, reason, keeper

    return _outcome(documents, ~removals.kept, why)


def _outcome(
    documents: pa.Table,
    rejected: np.ndarray,
    why: Callable[[int], tuple[str, float, float, str, str]],
    excerpt: Callable[[int], str] | None = None,
) -> Outcome:
    """Split a table; `why(row)` gives gate, value, threshold, reason and removed_by of a rejected row."""
    rejects = []
    for row in np.flatnonzero(rejected).tolist():
        gate, value, threshold, reason, removed_by = why(row)
        shown = excerpt(row) if excerpt else excerpt_of(documents["text"][row].as_py())
        identity, source = documents["id"][row].as_py(), documents["source"][row].as_py()
        rejects.append(Reject(identity, source, gate, value, threshold, reason, shown, removed_by))
    return documents.filter(pa.array(~rejected)).combine_chunks(), rejects


def _texts(documents: pa.Table) -> pa.Array:
    column = documents["text"]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _with_text(documents: pa.Table, texts: pa.Array) -> pa.Table:
    return documents.set_column(documents.schema.get_field_index("text"), "text", texts)


def licences_of(documents: pa.Table) -> dict[str, dict[str, int]]:
    """{licence: {documents, bytes}}, by name."""
    sized = documents.select(["licence"]).append_column("bytes", pc.binary_length(documents["text"]))
    grouped = sized.group_by("licence").aggregate([("bytes", "count"), ("bytes", "sum")]).sort_by("licence")
    return {row["licence"]: {"documents": row["bytes_count"], "bytes": row["bytes_sum"]} for row in grouped.to_pylist()}


def contamination_counts(index: Index, rejects: Sequence[Reject]) -> list[dict[str, int | str]]:
    """Per kind of item: how many there are, how many are too short to look up, how many documents held one."""
    kinds = Counter(item.kind for item in index.items)
    short = Counter(item.kind for item in index.too_short)
    hits = Counter(reject.gate for reject in rejects)
    return [
        {
            "items": kind,
            "number": number,
            "too short to look up": short[kind],
            "documents rejected": hits[f"{CONTAMINATION}_{kind}"],
        }
        for kind, number in kinds.items()
    ]
