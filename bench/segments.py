"""Repeated segments and exact repeated spans: rates of every part, exactness, recall of planted spans, size of keys.

    python -m bench.segments CORPUS_FOLDER [--files openstax cpp_docs] [--rounds 3]

Rates are megabytes of cleaned text per second of processor time, one thread, units of 8 MB, median of the rounds.
Planted: 400 spans of 60 words, each in 12 documents, between any two words; recall is the share of the 11 later copies
that lie wholly inside what is cut, and the first copy has to stay. Exactness: every 50-word window of the first 10 MB
in a Python dictionary, cut words compared one by one.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from bench.common import write_result
from bench.pieces import documents, units
from pocketlm.data.duplicates.cutting import cut_ranges
from pocketlm.data.duplicates.segment_settings import SegmentSettings
from pocketlm.data.duplicates.segments import repeated_segments, resolve, segment_keys, segments_of
from pocketlm.data.duplicates.spans import (
    Spans,
    fingerprints_of,
    repeated_fingerprints,
    repeated_windows,
    spans_of,
    window_keys,
    windows_of,
)
from pocketlm.data.gates.cleaning import clean
from pocketlm.data.shuffle import key_count, key_ranges, write_keys
from pocketlm.data.text import Text, tokens_of

UNIT_BYTES = 8_000_000
SPAN_WORDS = 50
PLANTED, COPIES, PLANTED_WORDS = 400, 12, 60

Out = TypeVar("Out")


def units_of(texts: Sequence[str]) -> list[Text]:
    """Documents in units of about `UNIT_BYTES`."""
    return [Text.from_arrow(pa.array(part, pa.large_string())) for part in units(texts, UNIT_BYTES)]


class Clock:
    """Processor seconds of every part of one round, by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def time(self, name: str, run: Callable[[], Out]) -> Out:
        """Run and book the time."""
        start = process_time()
        result = run()
        self.seconds[name] += process_time() - start
        return result


def find_segments(texts: Sequence[Text], folder: Path, clock: Clock) -> tuple[dict[str, int], dict[str, int]]:
    """Every step for segments, over files as in the stage. Returns the sizes of the files and what was found."""
    numbers, settings = range(len(texts)), SegmentSettings()
    starts = np.cumsum([0, *map(len, texts)]).tolist()
    files = [folder / f"segments{at}" for at in numbers]
    segments = clock.time("segments", lambda: [segments_of(text, settings) for text in texts])
    clock.time(
        "write segment keys",
        lambda: [write_keys(files[at], *segment_keys(segments[at], starts[at])) for at in numbers],
    )
    found = clock.time("repeated segments, global", lambda: repeated_segments(key_ranges(files), len(texts)))
    repeats = [resolve(segments[at], found[at], len(texts[at])) for at in numbers]
    return {"segments": file_bytes(files)}, {
        "segments": sum(len(each.keys) for each in segments),
        "repeated segments": sum(int(each.cut.sum()) for each in repeats),
        "documents over the limit": sum(int(each.rejected(settings).sum()) for each in repeats),
    }


def find_spans(texts: Sequence[Text], folder: Path, clock: Clock) -> tuple[dict[str, int], list[Spans]]:
    """Every step for spans, over files as in the stage. Returns the sizes of files and filters, and what was found."""
    numbers = range(len(texts))
    fingerprint_files = [folder / f"fingerprints{at}" for at in numbers]
    window_files = [folder / f"windows{at}" for at in numbers]
    prints = []
    for text in texts:
        tokens = clock.time("tokens", partial(tokens_of, text))
        prints.append(clock.time("fingerprints", partial(fingerprints_of, text, tokens, SPAN_WORDS)))
    clock.time(
        "write fingerprints",
        lambda: [write_keys(fingerprint_files[at], prints[at].keys, prints[at].places[:, None]) for at in numbers],
    )
    repeated = clock.time(
        "repeated fingerprints, global",
        lambda: repeated_fingerprints(key_ranges(fingerprint_files), key_count(fingerprint_files)),
    )
    windows = clock.time("windows", lambda: [windows_of(texts[at], prints[at], repeated, SPAN_WORDS) for at in numbers])
    clock.time("write windows", lambda: [write_keys(window_files[at], *window_keys(windows[at])) for at in numbers])
    words = [len(each.starts) for each in windows]
    bits = clock.time("repeated windows, global", lambda: repeated_windows(key_ranges(window_files), words, SPAN_WORDS))
    spans = clock.time("spans", lambda: [spans_of(texts[at], windows[at], bits.of(at)) for at in numbers])
    return {
        "fingerprints": file_bytes(fingerprint_files),
        "windows": file_bytes(window_files),
        "filter (in memory)": len(repeated.bits),
        "bits of repeated windows (in memory)": len(bits.bits),
    }, spans


def file_bytes(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def all_parts(texts: Sequence[Text], folder: Path, clock: Clock) -> tuple[dict[str, int], dict[str, int]]:
    """Segments, spans, and the cut. Returns bytes of what is kept between the steps, and what was found."""
    sizes, counts = find_segments(texts, folder, clock)
    more, spans = find_spans(texts, folder, clock)
    clock.time("cut", lambda: [cut_ranges(text, each.start, each.end) for text, each in zip(texts, spans, strict=True)])
    counts["spans"] = sum(len(each.start) for each in spans)
    counts["span bytes"] = sum(int((each.end - each.start).sum()) for each in spans)
    return sizes | more, counts


def recall(texts: Sequence[str], stream: random.Random, folder: Path) -> dict[str, Any]:
    """Plant, search, and look for every copy."""
    vocabulary = sorted({word for text in texts[::50] for word in text.split() if word.isalnum()})
    places = stream.sample(range(len(texts)), PLANTED * COPIES)
    changed = list(texts)
    where: dict[int, tuple[int, int, int]] = {}
    for span in range(PLANTED):
        words = " ".join(stream.choices(vocabulary, k=PLANTED_WORDS))
        for document in places[span * COPIES : (span + 1) * COPIES]:
            own = texts[document].split(" ")
            cut = stream.randint(0, len(own))
            before = "".join(f"{word} " for word in own[:cut])
            changed[document] = f"{before}{words} {' '.join(own[cut:])}"
            start = len(before.encode())
            where[document] = (span, start, start + len(words.encode()))
    planted = units_of(changed)
    ranges: dict[int, list[tuple[int, int]]] = {}
    first = 0
    for text, spans in zip(planted, find_spans(planted, folder, Clock())[1], strict=True):
        begin = text.offsets[spans.document]
        for row, document in enumerate((spans.document + first).tolist()):
            ranges.setdefault(document, []).append(
                (int(spans.start[row] - begin[row]), int(spans.end[row] - begin[row]))
            )
        first += len(text)
    seen: set[int] = set()
    later = found = first_kept = 0
    for document, (span, start, end) in sorted(where.items()):
        mine = ranges.get(document, [])
        if span in seen:
            later += 1
            found += any(a <= start and end <= b for a, b in mine)
        else:
            seen.add(span)
            first_kept += all(b <= start or end <= a for a, b in mine)
    return {"later copies": later, "wholly cut": found, "first copies": len(seen), "first copies kept": first_kept}


def exactness(texts: Sequence[str], limit: int, folder: Path) -> dict[str, int]:
    """Cut words of the kernels and of a dictionary of all windows, on the first `limit` bytes."""
    whole = Text.from_arrow(pa.array(next(units(texts, limit)), pa.large_string()))
    tokens = tokens_of(whole)
    ours, expected = (np.zeros(len(tokens.hashes), bool) for _ in range(2))
    [found] = find_spans([whole], folder, Clock())[1]
    for start, end in zip(found.start, found.end, strict=True):
        ours[np.searchsorted(tokens.starts, start) : np.searchsorted(tokens.starts, end)] = True
    homes: dict[bytes, tuple[int, int]] = {}
    for document in range(len(whole)):
        for at in range(tokens.offsets[document], tokens.offsets[document + 1] - SPAN_WORDS + 1):
            key = blake2b(tokens.hashes[at : at + SPAN_WORDS].tobytes(), digest_size=16).digest()
            home, place = homes.setdefault(key, (document, at))
            if home < document or place + SPAN_WORDS <= at:
                expected[at : at + SPAN_WORDS] = True
    return {
        "bytes": int(whole.offsets[-1]),
        "words": len(ours),
        "cut": int(ours.sum()),
        "cut by the dictionary": int(expected.sum()),
        "different": int((ours != expected).sum()),
    }


def main() -> None:
    """Measure, print and write bench/results/segments.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", nargs="+", default=["openstax", "cpp_docs"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    raw = [text for name, text in documents(options.folder) if name.split(".")[0] in options.files]
    texts = clean(pa.array(raw, pa.large_string())).to_pylist()
    del raw
    whole_corpus = units_of(texts)
    megabytes = sum(int(text.offsets[-1]) for text in whole_corpus) / 1e6

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_parts(whole_corpus[:1], folder, Clock())  # compiles
        rounds = [Clock() for _ in range(options.rounds)]
        for clock in rounds:
            sizes, counts = all_parts(whole_corpus, folder, clock)
        planted = recall(texts, random.Random(1), folder)
        exact = exactness(texts, 10_000_000, folder)
    seconds = {name: median(clock.seconds[name] for clock in rounds) for name in rounds[0].seconds}
    rates = {name: round(megabytes / spent, 1) for name, spent in seconds.items()}
    per_unit = ("tokens", "fingerprints", "windows", "windows", "spans")  # the stage looks for windows twice
    whole = {
        "spans, both passes over units": per_unit,
        "spans, with files and global steps": ("windows", *(name for name in rates if "segment" not in name)),
        "segments, with files and global step": tuple(name for name in rates if "segment" in name),
    }
    for title, names in whole.items():
        rates[title] = round(megabytes / sum(seconds[name] for name in names), 1)
    payload = {
        "documents": len(texts),
        "megabytes": round(megabytes, 1),
        "files": options.files,
        "unit_megabytes": UNIT_BYTES / 1e6,
        "megabytes_per_second": rates,
        "kilobytes_of_keys_per_megabyte": {name: round(size / 1e3 / megabytes, 2) for name, size in sizes.items()},
        "found": counts,
        "planted": planted,
        "exactness": exact,
    }
    for key, value in payload.items():
        print(f"{key}:")
        for name, number in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"    {name:40} {number}")
    print(write_result("segments", payload, ("numba", "numpy", "pyarrow")))


if __name__ == "__main__":
    main()
