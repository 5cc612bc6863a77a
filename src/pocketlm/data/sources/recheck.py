"""Counting a `documents` artifact of the stage `sources` again, from its files alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pocketlm.data.documents import iterate_documents
from pocketlm.data.sources.source_figures import SourceCounts
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.stage import Rederived

STORED = ("documents", "bytes", "rejected", "without_licence")
BLOCKS = ("Sources, in order of priority", "Licences", "Rows that are no documents")
RAW = "needs the raw sources: what was not taken is not kept"


def recheck_sources(artifact: Artifact) -> Rederived:
    """Documents, bytes, licences and rejected rows as the files hold them; no id may be there twice."""
    counts = SourceCounts()
    ids: set[str] = set()
    twice = rows = 0
    for unit in iterate_documents(artifact.file("documents.parquet"), ("id", "source", "text", "licence")):
        rows += len(unit)
        before = len(ids)
        ids.update(unit["id"].to_pylist())
        twice += before + len(unit) - len(ids)
        sized = unit.select(["source", "licence"]).append_column("bytes", pc.binary_length(unit["text"]))
        groups = sized.group_by(["source", "licence"], use_threads=False)
        for row in groups.aggregate([("bytes", "count"), ("bytes", "sum")]).to_pylist():
            counts.documents[row["source"]] += row["bytes_count"]
            counts.bytes[row["source"]] += row["bytes_sum"]
            counts.licences[row["source"], row["licence"]] += row["bytes_count"]
    for table in _rejects(artifact.file("rejects.parquet")):
        for row in table.group_by(["source", "gate"]).aggregate([("gate", "count")]).to_pylist():
            counts.rejects[row["source"], row["gate"]] += row["gate_count"]
    metrics = counts.metrics()
    return compared(
        artifact,
        {name: metrics[name] for name in STORED},
        [block for block in counts.blocks() if block["title"] in BLOCKS],
        differences=[f"documents.parquet: {twice} ids of {rows} stand there twice"] if twice else [],
        resting={"*": RAW},
        resting_blocks={"*": RAW},
    )


def _rejects(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(4096, columns=["source", "gate"]):
            yield pa.Table.from_batches([batch])
