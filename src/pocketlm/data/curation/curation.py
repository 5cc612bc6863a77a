"""The steps of curation over a whole corpus: each is a map over units or a question about hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pocketlm.data.curation.corpus import Corpus, Rejection
from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.curation.held_out import REPORT, SELECTION, TRAIN, split_documents
from pocketlm.data.curation.prepare import Unit, prepare
from pocketlm.data.curation.rejections import Reasons
from pocketlm.data.curation.shorten import final_documents, shortened_documents
from pocketlm.data.documents import count_units
from pocketlm.data.duplicates.duplicates import Removals, exact_duplicates
from pocketlm.data.duplicates.earlier import Earlier
from pocketlm.data.duplicates.near_duplicates import Comparisons, near_duplicates, stored_band
from pocketlm.data.engine import Engine
from pocketlm.data.settings import HeldOutSettings
from pocketlm.errors import InputError

NEGLIGIBLE_LOSS = 0.1
"""Share of the text that curation may take before it, and not the size of the sources, is why too little is left."""

Progress = Callable[[str, int, int], None]
"""Told the step, and how many of how many units are done."""


def open_corpus(
    documents: Path, scratch: Path, settings: CurationSettings, earlier: Earlier, engine: Engine, progress: Progress
) -> Corpus:
    """Licences, cleaning and quality gates, unit by unit; what passed becomes the corpus."""
    units = [Unit(documents, number, scratch, settings) for number in range(count_units(documents))]
    if not units:
        raise InputError(f"{documents}: holds no document. Give a source with text.")
    prepared = []
    for part in engine.map(prepare, units):
        prepared.append(part)
        progress("clean and measure", len(prepared), len(units))
    present = {name.partition("/")[0] for part in prepared for name in part.all_sources}
    if unknown := sorted(settings.source_gates.keys() - present):
        raise InputError(
            f"curate.source_gates.{unknown[0]}: there is no such source. There are {', '.join(sorted(present))}."
        )
    return Corpus(units, prepared, earlier)


def reject_exact_duplicates(corpus: Corpus) -> None:
    """Equal texts: the one of lowest rank stays."""
    removals = exact_duplicates(corpus.content, corpus.rank)
    reason = "the same text as another document"
    corpus.reject("exact duplicates", _duplicates(corpus, removals, "exact_duplicate", reason, 1.0))


def reject_near_duplicates(corpus: Corpus, engine: Engine) -> Comparisons:
    """Near-duplicates across all sources and earlier runs: of every connected group the one of lowest rank stays."""
    threshold = corpus.settings.near_duplicates.threshold
    removals, seen = near_duplicates(
        corpus.band_key_files(), corpus.alive, corpus.rank, corpus.size, corpus.store(), threshold, engine
    )
    reason = "Jaccard similarity of 5-word shingles with the kept document, or a chain of such documents leads to it"
    corpus.reject("near-duplicates", _duplicates(corpus, removals, "near_duplicate", reason, threshold))
    return seen


def _duplicates(corpus: Corpus, removals: Removals, gate: str, reason: str, threshold: float) -> Rejection:
    removed = ~removals.kept
    removed[: len(corpus.earlier)] = False  # earlier documents may be duplicates of each other; they are history
    row = np.flatnonzero(removed & corpus.alive)
    reasons = Reasons.alike(row, gate, reason, removals.similarity[row], threshold)
    return Rejection.of(reasons, removals.keeper[row])


def require_text(corpus: Corpus, needed: int) -> None:
    """InputError when less training text than `needed` bytes is left."""
    counted = corpus.counted
    available = int(corpus.size[counted].sum())
    if available < needed:
        first = corpus.steps[0]
        given = int(first["input_bytes"])
        most = max(corpus.steps, key=_taken_bytes)
        if given < needed or given - available < NEGLIGIBLE_LOSS * given:
            cause = f"The sources are too small: they hold {given / 1e6:.2f} MB in {first['input']} documents."
            remedy = "Give more text, or lower curate.minimum_bytes."
        else:
            cause = (
                f"The step '{most['step']}' took most of {given / 1e6:.2f} MB ({_taken_bytes(most) / 1e6:.2f} MB; "
                f"{most['rejected']} documents rejected)."
            )
            remedy = "Give more text, loosen that step, or lower curate.minimum_bytes."
        raise InputError(
            f"too little text: {available / 1e6:.2f} MB in {int(counted.sum())} documents are left for training after "
            f"curation, at least {needed / 1e6:.2f} MB are needed. {cause} {remedy}"
        )


def _taken_bytes(step: Mapping[str, int | str]) -> int:
    return int(step["input_bytes"]) - int(step["next_bytes"])


def hold_out(corpus: Corpus, settings: HeldOutSettings) -> np.ndarray:
    """TRAIN, REPORT or SELECTION for every document by the hash of its text, int64 [documents]."""
    split = np.full(len(corpus.alive), TRAIN, np.int64)
    counted = corpus.counted
    split[counted] = split_documents(corpus.content[counted], corpus.size[counted], settings)
    corpus.hold_out(split != TRAIN)
    return split


@dataclass(frozen=True)
class HeldOut:
    """The held-out documents: tables with `id` and `text`."""

    report: pa.Table
    selection: pa.Table


def held_out_documents(corpus: Corpus, split: np.ndarray) -> HeldOut:
    """Final texts of the two held-out splits, in document order."""
    return HeldOut(_table(corpus, split == REPORT), _table(corpus, split == SELECTION))


def _table(corpus: Corpus, chosen: np.ndarray) -> pa.Table:
    numbers = np.flatnonzero(chosen & corpus.alive)
    ids = corpus.ids(numbers)
    unit = corpus.unit_of(numbers)
    texts = [
        final_documents(corpus.units[place], numbers[unit == place] - corpus.first[place])
        for place in np.unique(unit).tolist()
    ]
    return pa.table(
        {
            "id": pa.array([ids[number] for number in numbers.tolist()], pa.string()),
            "text": pa.concat_arrays([pa.array([], pa.large_string()), *texts]),
        }
    )


def final_content(corpus: Corpus) -> np.ndarray:
    """Hashes of this run's final texts, uint64 [documents, 2]."""
    content = corpus.content[len(corpus.earlier) :].copy()
    for first, unit in zip(corpus.first - len(corpus.earlier), corpus.units, strict=False):
        cut, _ = shortened_documents(unit)
        if cut:
            content[first + cut["document"]] = cut["content"]
    return content


def final_band_keys(corpus: Corpus, bands: int) -> Iterator[np.ndarray]:
    """MinHash keys of this run's final texts band by band, uint64 [documents]: one band at a time in memory."""
    cuts = [shortened_documents(unit)[0] for unit in corpus.units]
    for band in range(bands):
        keys = [stored_band(unit.file("band-keys"), band) for unit in corpus.units]
        for part, cut in zip(keys, cuts, strict=True):
            if cut:
                part[cut["document"]] = cut["band_keys"][band]
        yield np.concatenate(keys)
