"""What `pocketlm audit-sample` prints and writes of audited documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pocketlm.training.reading import Readings

if TYPE_CHECKING:
    from pocketlm.data.curation.audit import Curated
    from pocketlm.evaluation.audits.audit import Audited

SHOWN_DUPLICATES = 5
NOT_READ = "NOT READ: it lies in the stream, but no step of any pretraining read it, so no model was trained on it"
NOT_SHOWN = (
    "Not shown: whether the source is what it says it is; documents that were compared and found unlike; text that "
    "fine-tuning read (solved problems, instructions, conversations). Hashes are checked by `pocketlm verify`."
)


def audit_json(documents: Sequence[Audited], seed: int) -> dict[str, Any]:
    """Everything, for programs."""
    rows = []
    for document in documents:
        row = asdict(document) | {"read": document.read}
        if document.curation is not None:
            gates = [asdict(gate) | {"passed": gate.passed} for gate in document.curation.gates]
            row["curation"]["gates"] = [
                {**gate, "value": gate["value"] if gate["value"] == gate["value"] else None} for gate in gates
            ]
        rows.append(row)
    return {"format": 2, "seed": seed, "documents": rows, "not_shown": NOT_SHOWN}


def audit_lines(documents: Sequence[Audited]) -> Iterator[str]:
    """One paragraph a document, and what no audit can show."""
    for number, document in enumerate(documents, start=1):
        yield f"[{number}] {document.id or f'document {document.place} of {document.stream}'}"
        if document.read is False:
            yield f"    {NOT_READ}"
        yield from (f"    {line}" for line in _origin(document))
        if document.curation is not None:
            yield from (f"    {line}" for line in _curation(document.curation, document.bytes))
        yield from (f"    {line}" for line in _tokens(document))
        yield from (f"    not shown: {line}" for line in dict.fromkeys(document.missing))
        yield from (f"    PROBLEM: {line}" for line in document.problems)
        if document.excerpt:
            yield f"    excerpt: {document.excerpt}"
        yield ""
    broken = sum(bool(document.problems) for document in documents)
    unread = sum(document.read is False for document in documents)
    left = f"; {unread} of them were read by no step, for no more documents were read" if unread else ""
    yield f"{len(documents)} documents, {broken} with problems{left}"
    yield NOT_SHOWN


def _origin(document: Audited) -> Iterator[str]:
    if not document.id:
        return
    licence = document.licence or "none stated"
    yield f"source: {document.source}; origin: {document.origin or 'not recorded'}; licence: {licence}"
    if document.read_hash:
        yield f"{document.read_hash_of}: {document.read_hash}"
    yield f"text in the stream: {document.bytes:,} bytes, sha256 {document.text_sha256}"


def _curation(curated: Curated, size: int) -> Iterator[str]:
    if curated.given_bytes is not None and curated.cleaned_bytes is not None:
        cut = curated.cleaned_bytes - size
        yield (
            f"given {curated.given_bytes:,} bytes, after cleaning {curated.cleaned_bytes:,}; "
            + (f"{cut:,} of them cut (repeated segments or spans, or evaluation items)" if cut else "nothing was cut")
        )
    yield f"gates, computed again from this text ({len(curated.gates)} are on):"
    for gate in curated.gates:
        side = ">=" if gate.at_least else "<="
        verdict = "passed" if gate.passed else "FAILED"
        yield f"  {verdict} {gate.gate}: {gate.value:.6g} (must be {side} {gate.threshold:.6g}; {gate.source})"
    if curated.gave_way:
        count = len(curated.gave_way)
        yield f"duplicates: {count} document{'s' if count > 1 else ''} gave way to this one:"
        for one in curated.gave_way[:SHOWN_DUPLICATES]:
            yield f"  {one.id} ({one.gate}, similarity {one.similarity:.3f}, limit {one.threshold:.3g})"
    else:
        yield "duplicates: no document gave way to this one"
    if curated.closest is None:
        yield "evaluation items: it shares too few words in a row with any of them to compare"
    else:
        name, share = curated.closest
        yield f"evaluation items: closest is {name}, of which it holds {share:.1%} by weight of words"


def _tokens(document: Audited) -> Iterator[str]:
    last = document.first + document.tokens
    yield (
        f"tokens: {document.tokens:,}, as document {document.place:,} of {document.stream}: train.npy "
        f"[{document.first:,}:{last:,}]"
    )
    for stage, read in document.readings.items():
        if not isinstance(read, Readings):
            yield f"{stage}: which steps read it cannot be told: {read}"
        elif not read.count:
            yield f"{stage}: no step read it"
        else:
            steps = ", ".join(map(str, read.steps)) + (", ..." if read.count > len(read.steps) else "")
            yield (
                f"{stage}: read in {read.count} step{'s' if read.count > 1 else ''} ({steps}), {read.tokens:,} tokens, "
                "repeats included"
            )
