"""Which scored items some training document held, as the contamination scan of `curate` recorded it.

What the scan finds it also removes from the training text. A score on the items that it never found tells whether the
others are worth more than they should be: the removal works on documents, and a paraphrase nearby may have stayed.

Not covered: items of which the scan says that they are too short to look up count as not found; held-out documents
themselves (bits per byte), for what holds a part of them was removed whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.benchmarks.tasks import benchmark_of, indexed_hash
from pocketlm.evaluation.task_data import ARITHMETIC, CLOZE, INSTRUCTIONS, family

if TYPE_CHECKING:
    from pocketlm.evaluation.items import Item
    from pocketlm.pipeline.artifact import Artifact

CONTAMINATED_ITEMS = "contaminated_items.jsonl"
OWN_KINDS = {ARITHMETIC: "arithmetic", INSTRUCTIONS: "instruction", CLOZE: "cloze"}
"""Task of ours -> what the scan calls its items."""


@dataclass(frozen=True)
class Flags:
    """What the scans of a model's training texts looked for, and found.

    Attributes:
        kinds: benchmarks, and kinds of our own items, that every scan looked for; empty when nothing is known.
        held: (kind, id of an item of ours or hash of a benchmark's question) of what was found.
    """

    kinds: frozenset[str] = frozenset()
    held: frozenset[tuple[str, str]] = frozenset()

    def of(self, task: str, rows: Sequence[Mapping[str, Any]]) -> list[bool] | None:
        """Whether each row of a task's data was found in training text; None where it was not looked for."""
        kind = benchmark_of(task) or OWN_KINDS.get(family(task))
        if kind is None or kind not in self.kinds:
            return None
        own = kind in OWN_KINDS.values()
        return [(kind, str(row["id"]) if own else indexed_hash(task, row)) in self.held for row in rows]


def flags_of(model: Artifact) -> Flags:
    """What the scans of the very texts that a model was trained on looked for, and found.

    Nothing is known of a model that was made elsewhere, that was trained on text which no scan saw (a file of one's
    own, documents that were not curated), or whose lineage does not lie beside it.
    """
    from pocketlm.evaluation.models.model_lineage import lineage_of, references

    lineage = {artifact.stage: artifact for artifact in lineage_of(model)}
    made_of = [(artifact, reference) for artifact in lineage.values() for reference in references(artifact)]
    if any(reference["stage"] not in lineage for _, reference in made_of):
        return Flags()
    if any(artifact.kind == "model" and artifact.external for artifact in lineage.values()):
        return Flags()
    tokenized = {reference["stage"] for artifact, reference in made_of if artifact.kind == "tokens"}
    documents = [one for name, one in lineage.items() if name in tokenized and one.kind == "documents"]
    if not documents or any(CONTAMINATED_ITEMS not in one.manifest["files"] for one in documents):
        return Flags()
    conversations = [artifact for artifact in lineage.values() if artifact.kind == "conversations"]
    held = {
        (row["kind"], key)
        for one in documents
        for row in one.read_jsonl(CONTAMINATED_ITEMS)
        for key in (row["id"], row["question"])
    }
    return Flags(frozenset.intersection(*map(_looked_for, [*documents, *conversations])), frozenset(held))


def _looked_for(scanned: Artifact) -> frozenset[str]:
    """Kinds of items that the scan of curated documents or of conversations looked for."""
    inputs = scanned.manifest["inputs"]
    kinds = set(scanned.manifest["settings"]["contamination"]["benchmarks"])
    kinds |= {"cloze"} if scanned.kind == "documents" or "documents" in inputs else set()
    return frozenset(kinds | ({"arithmetic", "instruction"} if "problems" in inputs else set()))


def mark(items: Sequence[Item], flags: Sequence[bool] | None) -> list[Item]:
    """The items with `contaminated`, where the scan looked for them."""
    if flags is None:
        return list(items)
    return [{**item, "contaminated": flag} for item, flag in zip(items, flags, strict=True)]


def clean(items: Sequence[Item]) -> list[Item] | None:
    """The items that no training document held; None where nothing was looked for, or nothing was found."""
    if not any(item.get("contaminated") for item in items):
        return None
    return [item for item in items if not item["contaminated"]]
