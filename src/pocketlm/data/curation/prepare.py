"""The first pass over a unit of the corpus: from raw rows to cleaned, measured documents and what searches need.

A unit is one row group of the documents file. What it leaves in scratch space depends on nothing but its documents and
the settings: the cleaned texts of those that passed, their content hashes, MinHash band keys, segment keys and span
fingerprints, and the rejects with their reasons. A unit whose last file is there is not worked on again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.curation.rejections import UNIT_REJECTS, Reasons, rejects_table
from pocketlm.data.documents import read_unit, text_bytes
from pocketlm.data.duplicates.duplicates import content_hashes
from pocketlm.data.duplicates.minhash import band_keys
from pocketlm.data.duplicates.segments import segment_keys, segments_of
from pocketlm.data.duplicates.spans import fingerprints_of
from pocketlm.data.gates.c4_lines import cut_c4_lines
from pocketlm.data.gates.cleaning import clean
from pocketlm.data.gates.gate_settings import thresholds_of
from pocketlm.data.gates.gates import GATES, judge, measure
from pocketlm.data.gates.language import identify
from pocketlm.data.gates.masking import mask
from pocketlm.data.scratch import load_arrays, save_array, save_arrays, save_table, write_text
from pocketlm.data.shuffle import write_keys
from pocketlm.data.sources.licences import allowed_mask
from pocketlm.data.text import Text, Tokens, kept_documents, tokens_of

COLUMNS = ("id", "source", "text", "licence", "score", "record")


@dataclass(frozen=True)
class Unit:
    """One unit of the corpus and where its files are."""

    documents: Path
    number: int
    scratch: Path
    settings: CurationSettings

    def file(self, what: str) -> Path:
        """A scratch file of this unit."""
        return self.scratch / what / f"{self.number:06d}"


@dataclass(frozen=True)
class Prepared:
    """The documents of a unit that passed the first pass.

    Attributes (arrays are [documents]):
        row: int64, row in the unit. size: int64, bytes of the cleaned text. content: uint64 [documents, 2], its hash.
        score: float64, NaN without one. structured: bool, has a record beside its text. source: int64, place in
        `sources`. sources: their names in order of appearance; all_sources: also those of which nothing passed.
        steps: name -> (documents in, documents kept, bytes in, bytes in of the rejected, bytes of the kept as they are
        left).
    """

    row: np.ndarray
    size: np.ndarray
    content: np.ndarray
    score: np.ndarray
    structured: np.ndarray
    source: np.ndarray
    sources: tuple[str, ...]
    all_sources: tuple[str, ...]
    steps: dict[str, tuple[int, int, int, int, int]]


def prepare(unit: Unit) -> Prepared:
    """Do the first pass, or take what an earlier process left."""
    if not unit.file("prepared").exists():
        _prepare(unit)
    arrays = load_arrays(unit.file("prepared"))
    sources, names = tuple(arrays.pop("sources").tolist()), arrays.pop("step_names").tolist()
    everyone = tuple(arrays.pop("all_sources").tolist())
    steps = dict(zip(names, map(tuple, arrays.pop("steps").tolist()), strict=True))
    return Prepared(**arrays, sources=sources, all_sources=everyone, steps=steps)


class _Rows:
    """The rows of a unit on their way through the first pass; every row must be kept or rejected."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.row = np.arange(len(table))
        self.rejects: list[pa.Table] = []
        self.steps: dict[str, tuple[int, int, int, int, int]] = {}

    @property
    def texts(self) -> pa.Array:
        return self.table["text"].combine_chunks()

    def reject(self, step: str, reasons: Reasons, texts: pa.Array | None = None) -> np.ndarray:
        """Take the rejected rows out and book the step; `texts` replaces the texts first. Returns what was kept."""
        before = np.asarray(pc.binary_length(self.texts), np.int64)
        if texts is not None:
            self.table = self.table.set_column(self.table.schema.get_field_index("text"), "text", texts)
        kept = np.ones(len(self.table), bool)
        kept[reasons.row] = False
        if not kept.all():
            gone = self.table.take(reasons.row).combine_chunks()
            self.rejects.append(rejects_table(gone, gone["text"].combine_chunks(), self.row[reasons.row], reasons))
            self.table, self.row = self.table.filter(pa.array(kept)).combine_chunks(), self.row[kept]
        rejected = int(before[reasons.row].sum())
        self.steps[step] = (len(before), len(self.table), int(before.sum()), rejected, text_bytes(self.table))
        return kept


def _prepare(unit: Unit) -> None:
    settings = unit.settings
    rows = _Rows(read_unit(unit.documents, unit.number, COLUMNS))
    everyone = rows.table["source"].unique().to_pylist()
    if settings.allowed_licences is not None:
        allowed = allowed_mask(rows.table["licence"].combine_chunks(), settings.allowed_licences)
        reason = "its licence is not on the list of allowed licences"
        rows.reject("licences", Reasons.alike(np.flatnonzero(~allowed), "licence", reason, 0.0, 1.0))
    cleaned = cleaned_texts(rows.table, settings)
    empty = np.flatnonzero(np.asarray(pc.binary_length(cleaned)) == 0)
    rows.reject(
        "clean", Reasons.alike(empty, "empty_after_cleaning", "nothing is left after cleaning", 0.0, 1.0), cleaned
    )

    sources = rows.table["source"].combine_chunks().dictionary_encode()
    names, source = sources.dictionary.to_pylist(), np.asarray(sources.indices, np.int64)
    score = scores_of(rows.table)
    text = Text.from_arrow(rows.texts)
    tokens = tokens_of(text)
    kept = rows.reject("gates", gate_reasons(rows.texts, tokens, score, names, source, settings))
    text, tokens = kept_documents(text, tokens, kept)

    near = settings.near_duplicates
    save_array(unit.file("band-keys"), band_keys(tokens, near.bands, near.rows))
    segments = segments_of(text, settings.segments)
    write_keys(unit.file("segment-keys"), *segment_keys(segments, 0))
    save_arrays(unit.file("segments"), vars(segments))
    if settings.segments.span_words is not None:
        fingerprints = fingerprints_of(text, tokens, settings.segments.span_words)
        write_keys(unit.file("fingerprints"), fingerprints.keys, fingerprints.places[:, None])
    write_text(unit.file("text"), text)
    save_table(unit.file("rejects"), pa.concat_tables([UNIT_REJECTS.empty_table(), *rows.rejects]))
    save_arrays(
        unit.file("prepared"),
        {
            "row": rows.row,
            "size": np.diff(text.offsets),
            "content": content_hashes(text),
            "score": score[kept],
            "structured": np.asarray(rows.table["record"].is_valid()),
            "source": source[kept],
            "sources": np.array(names, np.str_),
            "all_sources": np.array(everyone, np.str_),
            "step_names": np.array(list(rows.steps)),
            "steps": np.array(list(rows.steps.values()), np.int64),
        },
    )


def cleaned_texts(documents: pa.Table, settings: CurationSettings) -> pa.Array:
    """Texts (columns `text`, `source`) as the gates see them, large_string: cleaned, lines cut, addresses masked."""
    cleaned = _without_c4_lines(clean(documents["text"].combine_chunks()), documents, settings)
    if settings.mask_emails or settings.mask_addresses:
        cleaned = mask(cleaned, settings.mask_emails, settings.mask_addresses)
    return cleaned


def gate_reasons(
    texts: pa.Array, tokens: Tokens, score: np.ndarray, names: list[str], source: np.ndarray, settings: CurationSettings
) -> Reasons:
    """Which documents of a batch fail which quality gate."""
    thresholds = [thresholds_of(settings.gates, settings.source_gates, name) for name in names]
    confidence = None
    if settings.language_model is not None:
        confidence = identify(texts, settings.language_model, thresholds, source)
    verdicts = judge(measure(texts, tokens, score, confidence), thresholds, source)
    failed = np.flatnonzero(verdicts.gate >= 0)
    gate = pa.array(verdicts.gate[failed])
    return Reasons(
        row=failed,
        gate=pa.array([rule.name for rule in GATES], pa.string()).take(gate),
        value=verdicts.value[failed],
        threshold=verdicts.threshold[failed],
        reason=pa.array([rule.reason for rule in GATES], pa.string()).take(gate),
    )


def _without_c4_lines(texts: pa.Array, table: pa.Table, settings: CurationSettings) -> pa.Array:
    """The texts, without the lines that C4 cuts where a document's source asks for that."""
    sources = table["source"].combine_chunks().dictionary_encode()
    asks = [
        thresholds_of(settings.gates, settings.source_gates, name).cut_c4_lines
        for name in sources.dictionary.to_pylist()
    ]
    if not any(asks):
        return texts
    chosen = pa.array(np.array(asks, bool)[np.asarray(sources.indices)])
    return pc.if_else(chosen, cut_c4_lines(texts), texts)


def scores_of(table: pa.Table) -> np.ndarray:
    """Quality scores, float64, NaN where there is none."""
    return np.asarray(pc.fill_null(table["score"].combine_chunks(), float("nan")))
