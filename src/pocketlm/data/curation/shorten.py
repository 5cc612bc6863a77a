"""Documents that lose text after the first pass: their new texts, hashes and verdicts, beside those of their unit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.curation.prepare import Unit, gate_reasons
from pocketlm.data.curation.rejections import Reasons, joined_reasons
from pocketlm.data.duplicates.cutting import cut_ranges
from pocketlm.data.duplicates.duplicates import content_hashes
from pocketlm.data.duplicates.minhash import band_keys
from pocketlm.data.duplicates.segments import too_little_left
from pocketlm.data.scratch import load_arrays, read_some, read_text, save_arrays, write_text
from pocketlm.data.text import Text, tokens_of

REPEATS, CONTAMINATION = "repeats", "contamination"
STEPS = (REPEATS, CONTAMINATION)
"""The steps that cut texts, in their order."""
REASON = "too little is left after repeated or contaminated text was cut"


@dataclass(frozen=True)
class Shortened:
    """Documents of a unit that lost text in one step.

    Attributes:
        document: int64, places in the unit, ascending. size: int64, bytes left. reasons: those that now fail, by place.
    """

    document: np.ndarray
    size: np.ndarray
    reasons: Reasons

    @classmethod
    def nothing(cls) -> Shortened:
        """No document lost anything."""
        empty = np.empty(0, np.int64)
        return cls(empty, empty, Reasons.none())


def forget(unit: Unit, step: str) -> None:
    """Undo what an interrupted process may have cut in a step, and in those after it."""
    for later in STEPS[STEPS.index(step) :]:
        _changes(unit, later).unlink(missing_ok=True)


def shortened_documents(unit: Unit, before: str | None = None) -> tuple[dict[str, np.ndarray], Path]:
    """Places (`document`), `content` hashes and `band_keys` of all documents of a unit that lost text, in all steps or
    in those before one, and the file of their texts; empty when none did."""
    for step in reversed(STEPS[: STEPS.index(before) if before else None]):
        if _changes(unit, step).exists():
            return load_arrays(_changes(unit, step)), _texts(unit, step)
    return {}, unit.file("text")


def final_text(unit: Unit, before: str | None = None) -> Text:
    """The texts of a unit's documents after all cuts (or those of the steps before one), rejected ones included."""
    text = read_text(unit.file("text"))
    changed, file = shortened_documents(unit, before)
    return _replaced(text, changed["document"], read_text(file)) if changed else text


def final_documents(unit: Unit, documents: np.ndarray) -> pa.Array:
    """Some of the texts of `final_text` (places in the unit, ascending), without reading the others; large_string."""
    arrays, file = shortened_documents(unit)
    changed = arrays.get("document", np.empty(0, np.int64))
    cut = np.flatnonzero(np.isin(documents, changed))
    text = read_some(unit.file("text"), documents)
    if len(cut):
        text = _replaced(text, cut, read_some(file, np.searchsorted(changed, documents[cut])))
    return text.to_arrow()


def _replaced(text: Text, documents: np.ndarray, others: Text) -> Text:
    """The texts with those of some documents exchanged for others."""
    place = np.arange(len(text))
    place[documents] = len(text) + np.arange(len(others))
    return Text.from_arrow(pa.concat_arrays([text.to_arrow(), others.to_arrow()]).take(pa.array(place)))


def _changes(unit: Unit, step: str) -> Path:
    return unit.file(f"cut-{step}")


def _texts(unit: Unit, step: str) -> Path:
    return unit.file(f"cut-{step}-text")


def shorten(unit: Unit, step: str, starts: np.ndarray, ends: np.ndarray) -> Shortened:
    """Cut byte ranges and judge what is left of those documents. `starts` and `ends` are positions in the data of the
    texts before this step; what the step leaves is a file of its own, so it may be run again."""
    settings = unit.settings
    text = final_text(unit, before=step)
    document = np.unique(np.searchsorted(text.offsets, starts, "right") - 1)
    before = text.to_arrow().take(pa.array(document))
    after = cut_ranges(text, starts, ends).take(pa.array(document))
    tokens = tokens_of(Text.from_arrow(after))
    prepared = load_arrays(unit.file("prepared"))
    little = np.flatnonzero(too_little_left(before, after, settings.segments))
    left = np.asarray(pc.utf8_length(after.take(pa.array(little))), np.float64)
    limit = float(settings.segments.minimum_characters_left)
    names, source = prepared["sources"].tolist(), prepared["source"][document]
    failed = gate_reasons(after, tokens, prepared["score"][document], names, source, settings)
    failed = failed.only(~np.isin(failed.row, little))
    reasons = joined_reasons([Reasons.alike(little, "too_little_left", REASON, left, limit), failed])

    near = settings.near_duplicates
    former, _ = shortened_documents(unit, before=step)
    everyone = np.union1d(document, former.get("document", document))
    all_before = Text.from_arrow(text.to_arrow().take(pa.array(everyone)))
    shortened = _replaced(all_before, np.searchsorted(everyone, document), Text.from_arrow(after))
    write_text(_texts(unit, step), shortened)
    keys = band_keys(tokens_of(shortened), near.bands, near.rows)
    arrays = {"document": everyone, "content": content_hashes(shortened), "band_keys": keys}
    save_arrays(_changes(unit, step), arrays)
    return Shortened(document, np.asarray(pc.binary_length(after), np.int64), reasons.at(document[reasons.row]))
