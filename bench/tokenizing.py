"""Encoding and BPE training against the tokenizers library: CPU time of one thread each, same documents, ids compared.

    python -m bench.tokenizing --documents 'texts/*.jsonl.gz' [--megabytes 100] [--tokenizer folder]

Every document is encoded by both and every id compared; every code point is encoded by both in several surroundings.
Training runs at the vocabularies given and compares the whole tokenizer.json. `--tokenizer` adds a foreign tokenizer
(SmolLM2's, say). Memory is that of the process while a gigabyte is encoded, the documents over and over with one
letter in twenty replaced, so that words never seen before keep coming.

CPU time includes loading and, for encoding, the first sight of every word; compiled kernels are there before.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa

from bench.common import write_result
from pocketlm.data.text import Text
from pocketlm.data.tokens.fast_encoding import FastEncoder
from pocketlm.data.tokens.token_units import closed_documents
from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from tests.tokenizer_reference import train_with_tokenizers

UNIT_BYTES = 8_000_000
LONG_RUN_BYTES = 1_000_000_000


def main() -> None:
    """Measure, print and write bench/results/tokenizing.json."""
    arguments = _arguments()
    texts = _texts(arguments.documents, int(arguments.megabytes * 1e6))
    size = sum(len(text.encode()) for text in texts)
    print(f"{len(texts):,} documents, {size / 1e6:.1f} MB")
    trained = [_train(texts, size, vocabulary) for vocabulary in arguments.vocabularies]
    encoders = {f"ours, {row['vocabulary']}": Tokenizer(row.pop("made")) for row in trained}
    if arguments.tokenizer:
        encoders[Path(arguments.tokenizer).name] = Tokenizer.load(arguments.tokenizer)
    units = _units(texts)
    encoded = [_encode(name, tokenizer, units, size) for name, tokenizer in encoders.items()]
    path = write_result(
        "tokenizing",
        {
            "megabytes": round(size / 1e6, 1),
            "documents": len(texts),
            "training": trained,
            "encoding": encoded,
            "memory": _long_run(next(reversed(encoders.values())), units),
            "shard": _shard(units, next(iter(encoders.values()))),
        },
        ("tokenizers", "gigatoken", "numba"),
    )
    print(path.read_text(encoding="utf-8"))


def _train(texts: list[str], size: int, vocabulary: int) -> dict[str, Any]:
    train_tokenizer(texts[: len(texts) // 10], 1000)  # compiles what grows tables, too
    ours, made = _timed(lambda: train_tokenizer(texts, vocabulary))
    theirs, expected = _timed(lambda: train_with_tokenizers(texts, vocabulary))
    return {
        "vocabulary": vocabulary,
        "ours_cpu_seconds": round(ours, 2),
        "tokenizers_cpu_seconds": round(theirs, 2),
        "times_faster": round(theirs / ours, 1),
        "megabytes_per_second": round(size / 1e6 / ours, 1),
        "identical": made.to_str() == expected.to_str(),
        "made": made,
    }


def _encode(name: str, tokenizer: Tokenizer, units: list[pa.Array], size: int) -> dict[str, Any]:
    FastEncoder(tokenizer).encode(units[0].slice(0, 1))
    ours, results = _timed(lambda: [fast.encode(unit) for fast in (FastEncoder(tokenizer),) for unit in units])
    theirs = different = 0
    for unit, result in zip(units, results, strict=True):
        texts = unit.to_pylist()
        seconds, rows = _timed(lambda texts=texts: tokenizer.encode_batch(texts))  # type: ignore[misc]
        theirs += seconds
        own = np.split(result.ids, result.offsets[1:-1])
        different += sum(mine.tolist() != row for mine, row in zip(own, rows, strict=True))
    fast = FastEncoder(tokenizer)
    print(f"{name}: {size / 1e6 / ours:.1f} MB/s against {size / 1e6 / theirs:.1f}, {different} differ")
    return {
        "tokenizer": name,
        "ours_mb_per_cpu_second": round(size / 1e6 / ours, 1),
        "tokenizers_mb_per_cpu_second": round(size / 1e6 / theirs, 1),
        "times_faster": round(theirs / ours, 1),
        "documents_differing": different,
        "documents_by_tokenizers": int(sum(result.slow.sum() for result in results)),
        "bytes_without_token": int(sum(result.dropped.sum() for result in results)),
        "refusal": fast.refusal,
        "code_points_differing": _code_points_differing(fast),
    }


def _code_points_differing(fast: FastEncoder) -> int:
    """Code points whose surroundings are encoded otherwise, of all."""
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    different = 0
    for start in range(0, len(codes), 100_000):
        signs = map(chr, codes[start : start + 100_000])
        texts = [f"a{sign}b {sign}{sign}c '{sign} 1{sign}2\n{sign}\n {sign}  {sign}" for sign in signs]
        result = fast.encode(pa.array(texts, pa.large_string()))
        own = np.split(result.ids, result.offsets[1:-1])
        rows = fast.tokenizer.encode_batch(texts)
        different += sum(mine.tolist() != row for mine, row in zip(own, rows, strict=True))
    return different


def _long_run(tokenizer: Tokenizer, units: list[pa.Array]) -> dict[str, Any]:
    """Resident memory while new words keep coming."""
    generator = np.random.default_rng(0)
    fast = FastEncoder(tokenizer)
    before, done, peak = _resident(), 0, 0.0
    while done < LONG_RUN_BYTES:
        for unit in units:
            text = Text.from_arrow(unit)
            data = text.data[: text.offsets[-1]].copy()
            letters = np.flatnonzero((data >= 97) & (data <= 122))
            replaced = letters[generator.random(len(letters), np.float32) < 0.05]
            data[replaced] = generator.integers(97, 123, len(replaced))
            fast.encode(pa.LargeStringArray.from_buffers(len(unit), pa.py_buffer(text.offsets), pa.py_buffer(data)))
            done += len(data)
            peak = max(peak, _resident())
    return {"megabytes_encoded": round(done / 1e6), "before_mb": round(before), "highest_mb": round(peak)}


def _shard(units: list[pa.Array], tokenizer: Tokenizer) -> dict[str, Any]:
    """Closing documents with borders and narrowing ids to uint16, in MB of text per CPU second."""
    fast = FastEncoder(tokenizer)
    encoded = [fast.encode(unit) for unit in units]
    seconds, _ = _timed(
        lambda: [closed_documents(one.ids, one.offsets, tokenizer.end_of_text, tokenizer.vocabulary) for one in encoded]
    )
    size = sum(int(np.diff(Text.from_arrow(unit).offsets).sum()) for unit in units)
    return {"megabytes_per_cpu_second": round(size / 1e6 / seconds)}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = process_time()
    result = work()
    return process_time() - start, result


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _units(texts: list[str]) -> list[pa.Array]:
    units, batch, size = [], [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size > UNIT_BYTES:
            units.append(pa.array(batch, pa.large_string()))
            batch, size = [], 0
    return [*units, pa.array(batch, pa.large_string())] if batch else units


def _texts(pattern: str, limit: int) -> list[str]:
    """Texts of all files in turn, one of each, until `limit` bytes."""
    files = sorted(glob.glob(pattern))
    if not files:
        raise SystemExit(f"{pattern}: no file")
    open_files: list[Iterator[str]] = [_lines(file) for file in files]
    texts, size = [], 0
    while open_files and size < limit:
        for lines in list(open_files):
            if (text := next(lines, None)) is None:
                open_files.remove(lines)
            elif size < limit:
                texts.append(text)
                size += len(text.encode())
    return texts


def _lines(file: str) -> Iterator[str]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)["text"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", required=True, help="pattern of .jsonl.gz files with a field text")
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[2048, 49_152])
    parser.add_argument("--tokenizer", help="folder of a foreign tokenizer")
    return parser.parse_args()


if __name__ == "__main__":
    main()
