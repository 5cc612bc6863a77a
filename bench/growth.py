"""Does curation stay flat? Time per megabyte and peak memory from 0.1 to 2 GB of text, sources to tokens.

    python -m bench.growth CORPUS_FOLDER WORK_FOLDER [--gigabytes 0.1 0.25 0.5 1 2] [--threads 2]

The corpus (JSONL files of the folder) is repeated until there is enough text; in every copy but the first each word
is replaced with probability 0.45 by another word of the corpus of the same length, so that copies are no duplicates of
each other (a 5-word shingle survives in both of two copies with probability 0.55^10). Each size is its own process,
`pocketlm run`, of sources, curate, tokenizer and tokenize; times and memory are those of its ledger. Kernels are
compiled before. Times are processor seconds: of all threads, so per core. The tokenizer is trained on a fixed sample,
a cost that does not grow, and is stated apart. Needs about five times the largest size as disk space.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from bench.common import write_result
from bench.data_stages import run_data_stages
from bench.pieces import documents
from pocketlm.data.text import Text, tokens_of

REPLACED = 0.45
FILE_BYTES = 64_000_000
TOKENIZER_BYTES = 10_000_000


@numba.njit
def replace_words(data, starts, ends, pool, pool_offsets, seed, probability):  # type: ignore[no-untyped-def]
    np.random.seed(seed)
    for word in range(len(starts)):
        length = ends[word] - starts[word]
        if length < len(pool_offsets) - 1 and np.random.random() < probability:
            first, last = pool_offsets[length], pool_offsets[length + 1]
            if last > first:
                choice = first + np.random.randint((last - first) // length) * length
                for place in range(length):
                    data[starts[word] + place] = pool[choice + place]


def word_pool(text: Text, longest: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """The words of a text in ASCII letters, by length: their bytes, and where each length begins."""
    tokens = tokens_of(text)
    words = {text.data[start:end].tobytes() for start, end in zip(tokens.starts, tokens.ends, strict=True)}
    lengths: list[list[bytes]] = [[] for _ in range(longest + 1)]
    for word in sorted(words):
        if len(word) <= longest and word.isalpha():
            lengths[len(word)].append(word)
    joined = [b"".join(group) for group in lengths]
    offsets = np.cumsum([0, *map(len, joined)], dtype=np.int64)
    return np.frombuffer(b"".join(joined), np.uint8), offsets


def copies(texts: list[str]) -> Iterator[Iterator[str]]:
    """The texts, then copies of them with words replaced, without end."""
    yield iter(texts)
    whole = Text.from_arrow(pa.array(texts, pa.large_string()))
    pool = word_pool(Text.from_arrow(pa.array(texts[:2000], pa.large_string())))
    tokens = tokens_of(whole)
    seed = 0
    while True:
        seed += 1
        data = whole.data.copy()
        replace_words(data, tokens.starts, tokens.ends, *pool, seed, REPLACED)
        changed = Text(data, whole.offsets)
        yield (changed.bytes_of(document).decode() for document in range(len(changed)))


def _in_a_process_of_its_own(corpus: Path, folder: Path, size: int) -> int:
    """`write_corpus`, whose memory must not stay with the process that starts the runs."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(write_corpus, corpus, folder, size).result()


def write_corpus(corpus: Path, folder: Path, size: int) -> int:
    """JSONL files with `size` bytes of text; returns the bytes."""
    texts = [text for _, text in documents(corpus)]
    folder.mkdir(parents=True)
    written, number, stream = 0, 0, None
    for copy in copies(texts):
        for text in copy:
            if stream is None or stream.tell() > FILE_BYTES:
                if stream is not None:
                    stream.close()
                stream = (folder / f"{number:04d}.jsonl").open("w", encoding="utf-8")
                number += 1
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            if written >= size:
                stream.close()
                return written
    raise RuntimeError("copies never end")


def measure(folder: Path, size: int, threads: int) -> dict[str, Any]:
    """Run the data stages over a folder in a process of their own."""
    stages = run_data_stages(folder, folder.parent / "run", TOKENIZER_BYTES, {"threads": threads})
    flat = [name for name in stages if name != "tokenizer"]
    megabytes = size / 1e6
    kept = stages["curate"]["figures"]["train.bytes"]
    processor = sum(stages[name]["processor_seconds"] for name in flat)
    return {
        "megabytes": round(megabytes, 1),
        "documents": stages["curate"]["figures"]["input.documents"],
        "training_megabytes": round(kept / 1e6, 1),
        "processor_seconds": {name: body["processor_seconds"] for name, body in stages.items()},
        "seconds": {name: body["seconds"] for name, body in stages.items()},
        "peak_memory_gb": {name: round(body["peak_memory_bytes"] / 1e9, 3) for name, body in stages.items()},
        "milliseconds_per_megabyte": round(1e3 * processor / megabytes, 2),
        "megabytes_per_second_and_core": {
            "sources_curate_tokenize": round(megabytes / processor, 2),
            "curate_and_tokenize": round(megabytes / (processor - stages["sources"]["processor_seconds"]), 2),
            "curate": round(megabytes / stages["curate"]["processor_seconds"], 2),
        },
        "megabytes_per_second": round(megabytes / sum(stages[name]["seconds"] for name in flat), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0, 2.0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for gigabytes in [0.02, *arguments.gigabytes]:  # the first compiles the kernels
        folder = arguments.work / f"{gigabytes}" / "texts"
        size = _in_a_process_of_its_own(arguments.corpus, folder, int(gigabytes * 1e9))
        rows.append(measure(folder, size, arguments.threads))
        print(json.dumps(rows[-1]))
        shutil.rmtree(folder.parent)
    rows = rows[1:]
    times = [row["milliseconds_per_megabyte"] for row in rows]
    memory = [max(row["peak_memory_gb"].values()) for row in rows]
    result = {
        "replaced_words": REPLACED,
        "threads": arguments.threads,
        "sizes": rows,
        "time_per_megabyte_against_the_mean": [round(value / (sum(times) / len(times)), 3) for value in times],
        "peak_memory_gb": memory,
        "memory_of_the_largest_against_half_a_gigabyte": round(
            memory[-1] / next((m for m, row in zip(memory, rows, strict=True) if row["megabytes"] >= 499), memory[0]), 3
        ),
    }
    print(write_result("growth", result, ("numba", "pyarrow")))


if __name__ == "__main__":
    main()
