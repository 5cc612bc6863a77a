"""How fast sources are read: from files to documents.parquet, MB of text per second of CPU time.

    python -m bench.sources TEXTS.jsonl.gz

The rows of one file are written as JSONL, .gz, .zst and Parquet, and once more cut into pieces of 1,500 characters.
Every form is read by `read_source` and written by `TableWriter`, in turn, and the median of the rounds is taken. Beside
it stands what `json.loads` and nothing else needs for the same lines: the floor of any reader of JSON in Python.
One thread; pyarrow compresses in the same one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from bench.common import write_result

PIECE_CHARACTERS = 1_500
ROUNDS = 5


def write_forms(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Path]:
    """The same rows in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    paths = {suffix: folder / f"texts.{suffix}" for suffix in ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")}
    paths["jsonl"].write_bytes(lines)
    paths["jsonl.gz"].write_bytes(gzip.compress(lines, 6))
    paths["jsonl.zst"].write_bytes(zstandard.compress(lines))
    pq.write_table(pa.Table.from_pylist(rows), paths["parquet"], compression="zstd")
    return paths


def read_and_write(path: Path, target: Path) -> int:
    """What the stage does with a source; returns the bytes of text."""
    from pocketlm.data.documents import DOCUMENTS, TableWriter
    from pocketlm.data.sources.row_forms import Fault
    from pocketlm.data.sources.source_settings import SourceSettings
    from pocketlm.data.sources.sources import read_source

    size = 0
    with TableWriter(target, DOCUMENTS) as kept:
        for entry in read_source("texts", SourceSettings(path=str(path))):
            if isinstance(entry.content, Fault):
                raise RuntimeError(f"{path}: {entry.content}")
            facts = (entry.licence, entry.origin, entry.score, entry.record)
            kept.write((entry.id, entry.source, entry.content, *facts), len(entry.content))
            size += len(entry.content)
    return size


def parse_only(path: Path) -> None:
    """The floor: lines through the JSON parser."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            json.loads(line)


def cpu_seconds(action: Callable[[], object]) -> float:
    start = process_time()
    action()
    return process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a .jsonl.gz file with a column `text`")
    with gzip.open(parser.parse_args().texts, "rt", encoding="utf-8") as stream:
        whole = [{"text": json.loads(line)["text"]} for line in stream]
    pieces = [
        {"text": row["text"][start : start + PIECE_CHARACTERS]}
        for row in whole
        for start in range(0, len(row["text"]), PIECE_CHARACTERS)
    ]
    pieces = [piece for piece in pieces if piece["text"].strip()]
    rows = []
    for size_name, documents in (("whole documents", whole), ("pieces", pieces)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths = write_forms(folder, documents)
            target = folder / "documents"
            actions: dict[str, Callable[[], object]] = {
                kind: partial(read_and_write, path, target) for kind, path in paths.items()
            }
            actions["json.loads alone"] = partial(parse_only, paths["jsonl"])
            megabytes = read_and_write(paths["jsonl"], target) / 1e6
            seconds: dict[str, list[float]] = {kind: [] for kind in actions}
            for _ in range(ROUNDS):
                for kind, action in actions.items():
                    seconds[kind].append(cpu_seconds(action))
        for kind, found in seconds.items():
            rates = [megabytes / one for one in found]
            rows.append(
                {
                    "documents": size_name,
                    "count": len(documents),
                    "format": kind,
                    "megabytes": round(megabytes, 1),
                    "megabytes_per_cpu_second": round(median(rates), 1),
                    "lowest": round(min(rates), 1),
                    "highest": round(max(rates), 1),
                }
            )
            print(f"{size_name:16} {kind:18} {median(rates):7.1f} MB/s ({min(rates):.1f} to {max(rates):.1f})")
    print(write_result("sources", {"rounds": ROUNDS, "rows": rows}, ("pyarrow", "zstandard")))


if __name__ == "__main__":
    main()
