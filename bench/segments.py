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
from bench.pieces import documents
from pocketlm.data.duplicates.cutting import cut_ranges
from pocketlm.data.duplicates.segments import repeated_segments, resolve, segment_keys, segments_of
from pocketlm.data.duplicates.spans import (
    Spans,
    fingerprint_keys,
    fingerprints_of,
    repeated_fingerprints,
    repeated_spans,
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
    units, part, size = [], [], 0
    for text in texts:
        part.append(text)
        size += len(text.encode())
        if size >= UNIT_BYTES:
            units.append(Text.from_arrow(pa.array(part, pa.large_string())))
            part, size = [], 0
    return [*units, Text.from_arrow(pa.array(part, pa.large_string()))] if part else units


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


def all_parts(units: Sequence[Text], folder: Path, clock: Clock) -> dict[str, Any]:
    """Every step once, over files as in the stage. Returns what was found and the sizes of the files."""
    numbers = range(len(units))
    starts = np.cumsum([0, *map(len, units)])
    names = ("segments", "fingerprints", "windows")
    paths = {name: [folder / f"{name}{unit}" for unit in numbers] for name in names}

    segments = clock.time("segments", lambda: [segments_of(text) for text in units])
    clock.time(
        "write segment keys",
        lambda: [write_keys(paths["segments"][at], *segment_keys(segments[at], int(starts[at]))) for at in numbers],
    )
    found = clock.time(
        "repeated segments, global", lambda: repeated_segments(key_ranges(paths["segments"]), len(units))
    )
    repeats = [resolve(segments[at], found[at], len(units[at])) for at in numbers]

    prints = []
    for text in units:
        tokens = clock.time("tokens", partial(tokens_of, text))
        prints.append(clock.time("fingerprints", partial(fingerprints_of, text, tokens, SPAN_WORDS)))
    clock.time(
        "write fingerprints",
        lambda: [write_keys(paths["fingerprints"][at], *fingerprint_keys(prints[at])) for at in numbers],
    )
    repeated = clock.time(
        "repeated fingerprints, global",
        lambda: repeated_fingerprints(key_ranges(paths["fingerprints"]), key_count(paths["fingerprints"])),
    )
    windows = clock.time("windows", lambda: [windows_of(units[at], prints[at], repeated, SPAN_WORDS) for at in numbers])
    clock.time("write windows", lambda: [write_keys(paths["windows"][at], *window_keys(windows[at])) for at in numbers])
    sizes = [len(each.starts) for each in windows]
    bits = clock.time(
        "repeated windows, global", lambda: repeated_windows(key_ranges(paths["windows"]), sizes, SPAN_WORDS)
    )
    spans = clock.time("spans", lambda: [spans_of(units[at], windows[at], bits.of(at)) for at in numbers])
    clock.time("cut", lambda: [cut_ranges(units[at], spans[at].start, spans[at].end) for at in numbers])
    return {
        "file bytes": {name: sum(path.stat().st_size for path in paths[name]) for name in paths},
        "filter bytes": len(repeated.bits),
        "bits of repeated windows, bytes": len(bits.bits),
        "segments": sum(len(each.keys) for each in segments),
        "repeated segments": sum(int(each.cut.sum()) for each in repeats),
        "documents over the limit": sum(int((each.share > 0.3).sum()) for each in repeats),
        "spans": sum(len(each.start) for each in spans),
        "span bytes": sum(int((each.end - each.start).sum()) for each in spans),
    }


def recall(texts: Sequence[str], stream: random.Random) -> dict[str, Any]:
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
    units = units_of(changed)
    ranges: dict[int, list[tuple[int, int]]] = {}
    first = 0
    for text, spans in zip(units, repeated_spans(units, SPAN_WORDS), strict=True):
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


def exactness(texts: Sequence[str], limit: int) -> dict[str, int]:
    """Cut words of the kernels and of a dictionary of all windows, on the first `limit` bytes."""
    some: list[str] = []
    size = 0
    for text in texts:
        if size >= limit:
            break
        some.append(text)
        size += len(text.encode())
    whole = Text.from_arrow(pa.array(some, pa.large_string()))
    tokens = tokens_of(whole)
    ours, expected = (np.zeros(len(tokens.hashes), bool) for _ in range(2))
    found: Spans
    [found] = repeated_spans([whole], SPAN_WORDS)
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
        "bytes": size,
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
    units = units_of(texts)
    megabytes = sum(int(text.offsets[-1]) for text in units) / 1e6

    with tempfile.TemporaryDirectory() as folder:
        all_parts(units[:1], Path(folder), Clock())  # compiles
        rounds = [Clock() for _ in range(options.rounds)]
        for clock in rounds:
            counts = all_parts(units, Path(folder), clock)
    seconds = {name: median(clock.seconds[name] for clock in rounds) for name in rounds[0].seconds}
    rates = {name: round(megabytes / spent, 1) for name, spent in seconds.items()}
    per_unit = ("tokens", "fingerprints", "windows", "spans")
    whole = {
        "spans, both passes over units": per_unit,
        "spans, with files and global steps": tuple(name for name in rates if "segment" not in name),
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
        "kilobytes_of_keys_per_megabyte": {
            **{name: round(size / 1e3 / megabytes, 1) for name, size in counts.pop("file bytes").items()},
            "filter (in memory)": round(counts.pop("filter bytes") / 1e3 / megabytes, 2),
            "bits of repeated windows (in memory)": round(
                counts.pop("bits of repeated windows, bytes") / 1e3 / megabytes, 2
            ),
        },
        "found": counts,
        "planted": recall(texts, random.Random(1)),
        "exactness": exactness(texts, 10_000_000),
    }
    for key, value in payload.items():
        print(f"{key}:")
        for name, number in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"    {name:40} {number}")
    print(write_result("segments", payload, ("numba", "numpy", "pyarrow")))


if __name__ == "__main__":
    main()
