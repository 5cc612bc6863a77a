"""The last pass: what was kept goes to its file, what was rejected to rejects.parquet, both in document order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.curation.corpus import NOBODY, Corpus, Rejection, merged
from pocketlm.data.curation.curation import Progress, final_band_keys, final_content
from pocketlm.data.curation.held_out import REPORT, SELECTION, TRAIN
from pocketlm.data.curation.rejections import rejects_table
from pocketlm.data.curation.shorten import CONTAMINATION, final_text
from pocketlm.data.documents import DOCUMENTS, REJECTS, TableWriter, read_unit, text_bytes
from pocketlm.data.duplicates import earlier
from pocketlm.data.scratch import load_table
from pocketlm.data.settings import NearDuplicateSettings
from pocketlm.data.sources.licences import NOASSERTION
from pocketlm.data.text import Text

SPLITS = dict(zip(earlier.SPLITS, (TRAIN, REPORT, SELECTION), strict=True))
REJECTS_FILE = "rejects.parquet"
WITHOUT_TEXT = tuple(name for name in DOCUMENTS.names if name != "text")


@dataclass
class Contents:
    """Documents and bytes of the training text, by source and licence."""

    documents: Counter[tuple[str, str]] = field(default_factory=Counter)
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        """Count some documents."""
        sized = table.select(["source", "licence"]).append_column("bytes", pc.binary_length(table["text"]))
        groups = sized.group_by(["source", "licence"], use_threads=False)  # threads would shuffle the sources
        for row in groups.aggregate([("bytes", "count"), ("bytes", "sum")]).to_pylist():
            key = row["source"], row["licence"]
            self.documents[key] += row["bytes_count"]
            self.bytes[key] += row["bytes_sum"]

    def licences(self) -> dict[str, dict[str, int]]:
        """{licence: {documents, bytes}}, by name."""
        counts: dict[str, dict[str, int]] = {}
        for source, licence in sorted(self.documents, key=lambda key: key[1]):
            entry = counts.setdefault(licence, {"documents": 0, "bytes": 0})
            entry["documents"] += self.documents[source, licence]
            entry["bytes"] += self.bytes[source, licence]
        return counts

    def sources(self) -> list[dict[str, Any]]:
        """Rows {name, licence, documents, bytes}, in order of priority; several licences are listed."""
        rows = []
        for name in dict.fromkeys(source for source, _ in self.documents):
            keys = sorted(key for key in self.documents if key[0] == name)
            documents, size = (sum(counts[key] for key in keys) for counts in (self.documents, self.bytes))
            licences = ", ".join(licence for _, licence in keys)
            rows.append({"name": name, "licence": licences, "documents": documents, "bytes": size})
        return rows


def write_corpus(folder: Path, corpus: Corpus, split: np.ndarray, progress: Progress) -> Contents:
    """Write the three splits (`split`: TRAIN, REPORT or SELECTION, int64 [documents]) and the rejects of a corpus."""
    contents = Contents()
    late = merged(corpus.rejections)
    keepers = corpus.ids(np.unique(late.keeper[late.keeper != NOBODY]))
    with ExitStack() as files:
        writers = {
            code: files.enter_context(TableWriter(folder / f"{name}.parquet", DOCUMENTS))
            for name, code in SPLITS.items()
        }
        rejected = files.enter_context(TableWriter(folder / REJECTS_FILE, REJECTS))
        for place, unit in enumerate(corpus.units):
            text = final_text(unit)
            numbers = corpus.numbers_of(place)
            table = read_unit(unit.documents, unit.number, WITHOUT_TEXT).take(corpus.prepared[place].row)
            table = table.append_column("text", text.to_arrow())
            licence = pc.fill_null(table["licence"], NOASSERTION)
            table = table.set_column(table.schema.get_field_index("licence"), "licence", licence)
            for code, writer in writers.items():
                chosen = table.filter(pa.array(corpus.alive[numbers] & (split[numbers] == code)))
                writer.write_table(chosen, text_bytes(chosen))
                if code == TRAIN:
                    contents.add(chosen)
            first, last = np.searchsorted(late.reasons.row, [numbers.start, numbers.stop])
            mine = late.part(slice(int(first), int(last)))
            seen = final_text(unit, before=CONTAMINATION) if (mine.window >= 0).any() else text
            parts = [load_table(unit.file("rejects")), _rejects(mine, table, seen, corpus, place, keepers)]
            gone = pa.concat_tables(parts).sort_by("row")
            rejected.write_table(gone, text_bytes(gone, "excerpt"))
            progress("write", place + 1, len(corpus.units))
    return contents


def write_corpus_index(folder: Path, corpus: Corpus, split: np.ndarray, settings: NearDuplicateSettings) -> None:
    """Write what later runs compare with: hashes and band keys of the kept documents, in the order of the files."""
    mine = slice(len(corpus.earlier), None)
    alive, code = corpus.alive[mine], split[mine]
    order = np.concatenate([np.flatnonzero(alive & (code == value)) for value in SPLITS.values()])
    keys = (band[order] for band in final_band_keys(corpus, settings.bands))
    earlier.write_index(folder, final_content(corpus)[order], corpus.size[mine][order], keys, settings)


def _rejects(
    late: Rejection, table: pa.Table, text: Text, corpus: Corpus, place: int, keepers: Mapping[int, str]
) -> pa.Table:
    """The documents of a unit that the global steps rejected."""
    local = late.reasons.row - corpus.first[place]
    gone = table.take(local)
    shown = [
        text.data[first:last].tobytes().decode("utf-8", "replace") if first >= 0 else None
        for first, last in (late.window + (late.window >= 0) * text.offsets[0]).tolist()
    ]
    heads = gone["text"].combine_chunks()
    excerpt = pc.coalesce(pa.array(shown, pa.large_string()), heads)
    removed_by = pa.array([keepers.get(keeper, "") for keeper in late.keeper.tolist()], pa.string())
    return rejects_table(gone, excerpt, corpus.prepared[place].row[local], late.reasons, removed_by)
