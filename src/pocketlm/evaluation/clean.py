"""Which scored items some training document held, as the contamination scan of `curate` recorded it.

What the scan finds it also removes from the training text. A score on the items that it never found tells whether the
others are worth more than they should be: the removal works on documents, and a paraphrase nearby may have stayed.

Not covered: items of which the scan says that they are too short to look up count as not found; held-out documents
themselves (bits per byte), for what holds a part of them was removed whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.benchmarks.tasks import BLIMP, benchmark_of
from pocketlm.evaluation.task_data import ARITHMETIC, CLOZE, INSTRUCTIONS, family

if TYPE_CHECKING:
    from pocketlm.evaluation.items import Item
    from pocketlm.pipeline.artifact import Artifact

CONTAMINATED_ITEMS = "contaminated_items.jsonl"
OWN_KINDS = {ARITHMETIC: "arithmetic", INSTRUCTIONS: "instruction", CLOZE: "cloze"}
"""Task of ours -> what the scan calls its items."""


@dataclass(frozen=True)
class Flags:
    """What the scans of some training texts looked for, and found.

    Attributes:
        kinds: benchmarks, and kinds of our own items, that every scan looked for.
        held: (kind, id of an item of ours or hash of a benchmark's question) of what was found.
    """

    kinds: frozenset[str] = frozenset()
    held: frozenset[tuple[str, str]] = frozenset()

    def of(self, task: str, rows: Sequence[Mapping[str, Any]]) -> list[bool] | None:
        """Whether each row of a task's data was found in training text; None where it was not looked for."""
        kind = benchmark_of(task) or OWN_KINDS.get(family(task))
        if kind is None or kind == BLIMP or kind not in self.kinds:
            return None
        return [(kind, _key(kind, row)) in self.held for row in rows]


def read_flags(artifacts: Iterable[Artifact]) -> Flags:
    """What the scans of curated documents found; a kind that one of them did not look for is left out.

    Artifacts that curation did not make are passed over.
    """
    kinds: list[set[str]] = []
    held: set[tuple[str, str]] = set()
    for artifact in artifacts:
        if CONTAMINATED_ITEMS not in artifact.manifest["files"]:
            continue
        looked_for = {"cloze", *artifact.manifest["settings"]["contamination"]["benchmarks"]}
        if "problems" in artifact.manifest["inputs"]:
            looked_for |= {"arithmetic", "instruction"}
        kinds.append(looked_for)
        for row in artifact.read_jsonl(CONTAMINATED_ITEMS):
            held |= {(row["kind"], row["id"]), (row["kind"], row["question"])}
    return Flags(frozenset(set.intersection(*kinds)) if kinds else frozenset(), frozenset(held))


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


def _key(kind: str, row: Mapping[str, Any]) -> str:
    from pocketlm.data.contamination.benchmarks import READERS, Row
    from pocketlm.data.contamination.contamination_index import question_hash

    if kind not in READERS:
        return str(row["id"])
    return question_hash(READERS[kind](Row(kind, row)).item(kind, ""))
