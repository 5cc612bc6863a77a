"""Documents that lose text after the first pass: their new texts, hashes and verdicts, beside those of their unit."""

from __future__ import annotations

from dataclasses import dataclass

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
        return cls(empty, empty, Reasons.alike(empty, "", "", 0.0, 0.0))


def forget(unit: Unit) -> None:
    """Undo what an interrupted process may have cut."""
    unit.file("cut").unlink(missing_ok=True)


def shortened_documents(unit: Unit) -> dict[str, np.ndarray]:
    """Places (`document`), `content` hashes and `band_keys` of all documents of a unit that lost text so far."""
    if not unit.file("cut").exists():
        return {}
    return load_arrays(unit.file("cut"))


def final_text(unit: Unit) -> Text:
    """The texts of a unit's documents after all cuts, rejected ones included."""
    text = read_text(unit.file("text"))
    changed = shortened_documents(unit)
    if not changed:
        return text
    place = np.arange(len(text))
    place[changed["document"]] = len(text) + np.arange(len(changed["document"]))
    both = pa.concat_arrays([text.to_arrow(), read_text(unit.file("cut-text")).to_arrow()])
    return Text.from_arrow(both.take(pa.array(place)))


def final_documents(unit: Unit, documents: np.ndarray) -> pa.Array:
    """Some of the texts of `final_text` (places in the unit, ascending), without reading the others; large_string."""
    changed = shortened_documents(unit).get("document", np.empty(0, np.int64))
    cut = np.isin(documents, changed)
    texts = read_some(unit.file("text"), documents[~cut]).to_arrow()
    if not cut.any():
        return texts
    shorter = read_some(unit.file("cut-text"), np.searchsorted(changed, documents[cut])).to_arrow()
    place = np.empty(len(documents), np.int64)
    place[~cut], place[cut] = np.arange(len(texts)), len(texts) + np.arange(len(shorter))
    return pa.concat_arrays([texts, shorter]).take(pa.array(place))


def shorten(unit: Unit, starts: np.ndarray, ends: np.ndarray) -> Shortened:
    """Cut byte ranges (positions in the data of `final_text`) and judge what is left of those documents."""
    settings = unit.settings
    text = final_text(unit)
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
    former = shortened_documents(unit)
    everyone = np.union1d(document, former.get("document", document))
    place = np.arange(len(everyone))
    place[np.searchsorted(everyone, document)] = len(everyone) + np.arange(len(document))
    both = pa.concat_arrays([text.to_arrow().take(pa.array(everyone)), after])
    shortened = Text.from_arrow(both.take(pa.array(place)))
    write_text(unit.file("cut-text"), shortened)
    keys = band_keys(tokens_of(shortened), near.bands, near.rows)
    arrays = {"document": everyone, "content": content_hashes(shortened), "band_keys": keys}
    save_arrays(unit.file("cut"), arrays)
    return Shortened(document, np.asarray(pc.binary_length(after), np.int64), reasons.at(document[reasons.row]))
