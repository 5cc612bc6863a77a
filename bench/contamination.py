"""Contamination: recall of planted benchmark items, false positives on book sections, gsm_symbolic, and speed.

    python -m bench.contamination BENCHMARKS CORPUS [--gsm-symbolic QUESTIONS.jsonl]

BENCHMARKS holds a folder for each of the seven benchmarks with its scored split, CORPUS the books as JSONL.gz (text,
id). Every item is planted in every form; figures stand for all items and for two halves by a hash of their id. Sections
are books cut at paragraph borders into 200 to 400 words. Every section that is flagged is listed in
bench/results/contamination_hits.jsonl; a person reads it and sets `class` to leak or false there, which is kept when
the script runs again. The peer of the speed figure is what decontamination filters do: a Python set of hashed 13-grams
of lower-cased words, looked up for every 13-gram of every document. The gsm_symbolic questions are rows `question`,
made by reasoning-gym: `create_dataset("gsm_symbolic", size=2000, seed=1)`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.common import RESULTS, alternate, paired_ratio, write_result
from bench.pieces import units
from pocketlm.data.contamination.benchmarks import READERS, load_benchmark
from pocketlm.data.contamination.contamination import EVIDENCE, TEMPLATE_EVIDENCE, Hits, build_index, find_contamination
from pocketlm.data.contamination.contamination_index import Index, Item
from pocketlm.data.contamination.contamination_settings import ContaminationSettings
from pocketlm.data.contamination.planted_items import FORMS, INSIDE, NEGATIVES, SHORT_PROBE, inside
from pocketlm.data.text import Text, Tokens, tokens_of

BOOKS = ("openstax", "techbooks", "classic_books")
TEXTBOOKS = BOOKS[:2]
MEASURED = [name for name in READERS if name != "blimp"]
"""Benchmarks of questions; BLiMP's sentences are looked up word for word, in the other table of the index."""
UNIT_BYTES = 8_000_000
SPEED_BYTES = 16_000_000
SECTION_WORDS = (200, 400)
CARRIER_WORDS = 300
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("benchmarks", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--gsm-symbolic", type=Path, help="JSONL of generated questions")
    arguments = parser.parse_args()
    items = [item for name in MEASURED for item in load_benchmark(name, scored(arguments.benchmarks / name))]
    began = time.perf_counter()
    index = build_index(items)
    seconds = time.perf_counter() - began
    names, sections = zip(*book_sections(arguments.corpus), strict=True)
    payload: dict[str, Any] = {
        "items": {name: sum(item.kind == name for item in items) for name in MEASURED},
        "index": {"seconds": round(seconds, 2), "seeds": len(index.prose.seeds)},
        "bits": {"evidence": EVIDENCE, "template": TEMPLATE_EVIDENCE},
        "recall": recall(items, index, sections),
        "false_positives": false_positives(names, sections, index),
        "speed": speed(sections, index),
    }
    if arguments.gsm_symbolic:
        payload["gsm_symbolic"] = gsm_symbolic(arguments.gsm_symbolic, items, index)
    for row in payload["recall"]:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(json.dumps({key: value for key, value in payload.items() if key != "recall"}, indent=1))
    write_result("contamination", payload, ("numba", "pyarrow"))


def scored(folder: Path) -> list[Path]:
    """The files of a benchmark that are not its training split."""
    return sorted(path for path in folder.iterdir() if "train" not in path.name)


def book_sections(corpus: Path) -> Iterator[tuple[str, str]]:
    """Sections of 200 to 400 words, cut at paragraph borders; what does not fit is left out."""
    for book in BOOKS:
        with gzip.open(corpus / f"{book}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield from ((f"{book}/{row['id']}#{at}", text) for at, text in enumerate(sections_of(row["text"])))


def sections_of(text: str) -> Iterator[str]:
    """Neighbouring paragraphs until there are 200 words, if they are 400 at most."""
    least, most = SECTION_WORDS
    section: list[str] = []
    words = 0
    for paragraph in re.split(r"\n\s*\n", text):
        count = len(paragraph.split())
        if words + count > most:
            section, words = [], 0
        section.append(paragraph)
        words += count
        if least <= words <= most:
            yield "\n\n".join(section)
        if words >= least:
            section, words = [], 0


def text_of(texts: Sequence[str]) -> Text:
    return Text.from_arrow(pa.array(texts, pa.large_string()))


def scan(text: Text, tokens: Tokens, index: Index) -> Hits:
    limits = ContaminationSettings()
    return find_contamination(text, tokens, index, limits.threshold, limits.template_threshold)


def half_of(item: Item) -> str:
    """Which half of the items: by a hash of kind and id."""
    return "AB"[hashlib.sha256(f"{item.kind}/{item.id}".encode()).digest()[0] & 1]


def recall(items: Sequence[Item], index: Index, sections: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each form and benchmark: probes of 8 words or more, the share flagged in both halves of the items, and
    the share and recall of shorter probes."""
    rows = []
    kind, half = np.array([item.kind for item in items]), np.array([half_of(item) for item in items])
    carriers = [" ".join(section.split()[:CARRIER_WORDS]) for section in sections[:: len(sections) // len(items)]]
    for form, make in FORMS.items():
        probes = [make(item) for item in items]
        words = np.diff(tokens_of(text_of(probes)).offsets)
        planted = probes
        if form in INSIDE:
            planted = [inside(probe, carrier) for probe, carrier in zip(probes, carriers, strict=False)]
        flagged, named = np.zeros(len(items), bool), np.zeros(len(items), bool)
        text = text_of(planted)
        hits = scan(text, tokens_of(text), index)
        flagged[hits.document] = True
        named[hits.document[hits.item == hits.document]] = True
        for name in (*MEASURED, "all"):
            mine = (words > 0) & ((kind == name) | (name == "all"))
            long, short = mine & (words >= SHORT_PROBE), mine & (words < SHORT_PROBE)
            if mine.any():
                rows.append(
                    {
                        "form": form,
                        "leak": form not in NEGATIVES,
                        "benchmark": name,
                        "planted": int(long.sum()),
                        "flagged": share(flagged, long),
                        "flagged_half_A": share(flagged, long & (half == "A")),
                        "flagged_half_B": share(flagged, long & (half == "B")),
                        "this_item_named": share(named, long),
                        "share_short": round(float(short.sum() / mine.sum()), 4),
                        "flagged_short": share(flagged, short),
                    }
                )
    return rows


def share(flags: np.ndarray, chosen: np.ndarray) -> float | None:
    return round(float(flags[chosen].mean()), 4) if chosen.any() else None


def false_positives(names: Sequence[str], sections: Sequence[str], index: Index) -> dict[str, Any]:
    """Flagged sections by the class that a person gave them; writes the list of hits."""
    path = RESULTS / "contamination_hits.jsonl"
    known = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    classes = {(row["section"], row["item"]): (row["class"], row["why"]) for row in known}
    rows = []
    for section, number, containment, bits, matched in flagged_sections(sections, index):
        item = index.items[number]
        key = (names[section], f"{item.kind}/{item.id}")
        read = classes.get(key, (None, None))
        figures = {"containment": round(containment, 3), "bits": round(bits, 1)}
        window = " ".join(matched.split()[:25])
        rows.append({"section": key[0], "item": key[1], **figures, "matched": window, "class": read[0], "why": read[1]})
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    def counts(books: Sequence[str]) -> dict[str, Any]:
        mine = [row for row in rows if row["section"].startswith(tuple(f"{book}/" for book in books))]
        number = sum(name.startswith(tuple(f"{book}/" for book in books)) for name in names)
        by_class = {
            label: len({row["section"] for row in mine if row["class"] == label}) for label in ("leak", "false", None)
        }
        wrong = by_class["false"] + by_class[None]
        return {
            "sections": number,
            "leak": by_class["leak"],
            "false": by_class["false"],
            "not_read": by_class[None],
            "false_positive_rate": wrong / number,
        }

    return {"all": counts(BOOKS), "textbooks": counts(TEXTBOOKS), "classic_books": counts(BOOKS[2:])}


def flagged_sections(sections: Sequence[str], index: Index) -> Iterator[tuple[int, int, float, float, str]]:
    """(section, item, containment, bits, matched text) of every hit."""
    first = 0
    for unit in units(sections, UNIT_BYTES):
        text = text_of(unit)
        hits = scan(text, tokens_of(text), index)
        columns = (hits.document + first, hits.item, hits.containment, hits.evidence)
        matched = (text.data[start:end].tobytes().decode() for start, end in zip(hits.start, hits.end, strict=True))
        yield from zip(*(column.tolist() for column in columns), matched, strict=True)
        first += len(unit)


def speed(sections: Sequence[str], index: Index) -> dict[str, Any]:
    """MB of text per second and core of the scan, with and without cutting into words, and of the set of 13-grams."""
    texts = next(units(sections, SPEED_BYTES))
    text = text_of(texts)
    tokens = tokens_of(text)
    megabytes = float(text.offsets[-1]) / 1e6
    ngrams = {hash(ngram) for item in index.items for record in item.records for ngram in thirteen_grams(record)}
    candidates: dict[str, Callable[[], Any]] = {
        "scan": lambda: scan(text, tokens, index),
        "words_and_scan": lambda: scan(text, tokens_of(text), index),
        "set_of_13_grams": lambda: [any(hash(ngram) in ngrams for ngram in thirteen_grams(one)) for one in texts],
    }
    seconds = alternate(candidates, ROUNDS)
    rates = {name: round(megabytes / sorted(times)[len(times) // 2], 1) for name, times in seconds.items()}
    ratio = paired_ratio(seconds["set_of_13_grams"], seconds["words_and_scan"])
    return {"megabytes": round(megabytes, 1), "megabytes_per_second": rates, "ratio_to_the_set": round(ratio, 1)}


def thirteen_grams(text: str) -> Iterator[tuple[str, ...]]:
    """13 words in a row, lower-cased and without punctuation."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return zip(*(words[at:] for at in range(13)), strict=False)


def gsm_symbolic(path: Path, items: Sequence[Item], index: Index) -> dict[str, Any]:
    """Share of generated questions that are flagged as items of GSM8K's test split."""
    text = text_of([json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()])
    tokens = tokens_of(text)
    gsm8k = np.array([item.kind == "gsm8k" for item in items])
    alone = scan(text, tokens, build_index([item for item in items if item.kind == "gsm8k"])).document
    hits = scan(text, tokens, index)
    beside = hits.document[gsm8k[hits.item]]
    flagged = {"index_of_gsm8k": alone, "index_of_all_seven": beside}
    shares = {name: len(np.unique(documents)) / len(text) for name, documents in flagged.items()}
    return {"questions": len(text), "flagged": shares}


if __name__ == "__main__":
    main()
