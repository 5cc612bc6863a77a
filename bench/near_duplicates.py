"""Near-duplicates: recall and precision against planted truth, and speed against datatrove and Daft.

    python -m bench.near_duplicates CORPUS_FOLDER [--pieces 100000] [--copies 2500] [--peer-megabytes 4]

Truth: real pieces of 1 to 3 kB, cut at paragraph borders from the JSONL files of the folder. Copies of some of them
with words replaced at even distances are planted; their Jaccard similarity is computed here, from Python sets of words
cut by a regular expression, not by our kernels. Found means: the copy and its original end in one group. Precision:
each removed piece against the pieces of its group, by the same sets.

Speed: one thread, processor time, the same documents and the same bands x rows. datatrove runs its four stages in this
process. Daft makes signatures only, so it is compared with ours from text to band keys, once with text that was
lower-cased and rid of punctuation before the clock started (its minhash expression alone splits at spaces), once on the
same raw text as ours, normalised by its own expressions. Peers are needed: make .venv-peers/ready.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa

from bench.common import write_result
from bench.pieces import pieces
from pocketlm.data.duplicates.duplicates import Removals
from pocketlm.data.duplicates.minhash import band_keys, candidate_probability
from pocketlm.data.duplicates.near_duplicates import Comparisons, near_duplicates
from pocketlm.data.engine import Engine, open_engine
from pocketlm.data.scratch import write_text
from pocketlm.data.settings import NearDuplicateSettings
from pocketlm.data.text import Text, tokens_of
from pocketlm.data.text_store import SpilledUnit, TextStore
from pocketlm.pipeline.settings import Runtime

SIMILARITIES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.5)
UNIT_DOCUMENTS = 4000
WORD = re.compile("[a-z0-9]+")


def shingles(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def jaccard(left: str, right: str) -> float:
    one, other = shingles(left), shingles(right)
    return len(one & other) / max(len(one | other), 1)


def edited(text: str, similarity: float, number: int) -> str:
    """Every k-th word replaced, so that the Jaccard similarity comes near `similarity`."""
    words = text.split(" ")
    edits = max(1, round(len(WORD.findall(text.lower())) * (1 - similarity) / (5 * (1 + similarity))))
    for edit in range(edits):
        words[(2 * edit + 1) * len(words) // (2 * edits)] = f"planted{number}x{edit}"
    return " ".join(words)


class TimedEngine:
    """Books the processor seconds of what it runs: exact comparison is all that the search gives to an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.seconds = engine, 0.0

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        start = process_time()
        results = list(self.engine.map(function, tasks))
        self.seconds += process_time() - start
        return iter(results)


def search(texts: Sequence[str], settings: NearDuplicateSettings, folder: Path) -> tuple[Removals, Comparisons, dict]:
    """Our whole search; processor seconds by part."""
    parts, keys, sizes = [], [], []
    start = process_time()
    for unit in range(0, len(texts), UNIT_DOCUMENTS):
        text = Text.from_arrow(pa.array(texts[unit : unit + UNIT_DOCUMENTS], pa.large_string()))
        np.save(folder / f"{unit}.npy", band_keys(tokens_of(text), settings.bands, settings.rows))
        write_text(folder / f"{unit}.text", text)
        keys.append(folder / f"{unit}.npy")
        parts.append(SpilledUnit(folder / f"{unit}.text", len(text)))
        sizes.append(np.diff(text.offsets))
    signatures = process_time() - start
    size = np.concatenate(sizes)
    start = process_time()
    with open_engine(Runtime(threads=1)) as threads:
        engine, everyone = TimedEngine(threads), np.ones(len(size), bool)
        removals, seen = near_duplicates(
            keys, everyone, np.arange(len(size)), size, TextStore(parts), settings.threshold, engine
        )
    total = process_time() - start
    seconds = {"signatures": signatures, "search": total - engine.seconds, "exact_comparison": engine.seconds}
    return removals, seen, seconds


def quality(real: list[str], copies: int, settings: NearDuplicateSettings, folder: Path) -> dict[str, Any]:
    """Plant, search, compare with the truth."""
    step = max(1, len(real) // (copies * len(SIMILARITIES)))
    originals = [at * step for at in range(copies * len(SIMILARITIES)) if at * step < len(real)]
    planted = [
        edited(real[original], SIMILARITIES[at % len(SIMILARITIES)], at) for at, original in enumerate(originals)
    ]
    texts = [*real, *planted]
    removals, seen, seconds = search(texts, settings, folder)
    exact = np.array([jaccard(real[original], copy) for original, copy in zip(originals, planted, strict=True)])
    copy = len(real) + np.arange(len(planted))
    found = removals.keeper[copy] == removals.keeper[originals]
    rows = []
    for low, high in ((0.9, 1.01), (0.8, 0.9), (0.75, 0.8), (0.7, 0.75), (0.4, 0.6)):
        chosen = (exact >= low) & (exact < high)
        expected = [candidate_probability(value, settings.bands, settings.rows) for value in exact[chosen]]
        rows.append(
            {
                "true_jaccard": [low, min(high, 1.0)],
                "planted": int(chosen.sum()),
                "found": int(found[chosen].sum()),
                "found_share": float(found[chosen].mean()),
                "candidates_by_theory": float(np.mean(expected)),
            }
        )
    removed = np.flatnonzero(~removals.kept)
    groups: dict[int, list[int]] = {}
    for document, keeper in enumerate(removals.keeper.tolist()):
        groups.setdefault(keeper, []).append(document)
    sets = {member: shingles(texts[member]) for group in groups.values() if len(group) > 1 for member in group}
    best, direct = [], []
    for document in removed.tolist():
        values = {
            other: len(sets[document] & sets[other]) / max(len(sets[document] | sets[other]), 1)
            for other in groups[int(removals.keeper[document])]
            if other != document
        }
        best.append(max(values.values()))
        direct.append(values[int(removals.keeper[document])])
    at_least_80, at_least_90 = exact >= 0.8, exact >= 0.9
    return {
        "pieces": len(real),
        "planted": len(planted),
        "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 1),
        "recall_at_0.8_or_more": float(found[at_least_80].mean()),
        "recall_at_0.9_or_more": float(found[at_least_90].mean()),
        "by_similarity": rows,
        "removed": len(removed),
        "natural_removed": int((removed < len(real)).sum()),
        "precision": float(np.mean(np.array(best) >= settings.threshold)),
        "similar_to_the_kept_document_itself": float(np.mean(np.array(direct) >= settings.threshold)),
        "pairs_compared": len(seen.jaccard),
        "processor_seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def datatrove_seconds(texts: Sequence[str], settings: NearDuplicateSettings, folder: Path) -> dict[str, float]:
    """Processor seconds of datatrove's four MinHash stages, run in this process."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    config = MinhashConfig(n_grams=5, num_buckets=settings.bands, hashes_per_bucket=settings.rows)
    documents = [Document(text=text, id=str(at)) for at, text in enumerate(texts)]
    places = {name: str(folder / name) for name in ("signatures", "buckets", "removed")}
    signature = MinhashDedupSignature(places["signatures"], config)
    list(signature.word_tokenizer.word_tokenize("load the tokenizer before the clock starts"))

    def buckets() -> None:
        for bucket in range(settings.bands):
            step = MinhashDedupBuckets(places["signatures"], places["buckets"], config=config)
            step.run(None, rank=bucket, world_size=settings.bands)

    stages: dict[str, Callable[[], Any]] = {
        "signatures": lambda: signature.run(iter(documents), rank=0, world_size=1),
        "buckets": buckets,
        "cluster": lambda: MinhashDedupCluster(places["buckets"], places["removed"], config).run(None, 0, world_size=1),
        "filter": lambda: sum(1 for _ in MinhashDedupFilter(places["removed"]).run(iter(documents), 0, 1)),
    }
    seconds = {}
    for name, run in stages.items():
        start = process_time()
        run()
        seconds[name] = process_time() - start
    return seconds


def signature_seconds(texts: Sequence[str], settings: NearDuplicateSettings) -> float:
    """Processor seconds of our band keys, from text in memory."""
    text = Text.from_arrow(pa.array(list(texts), pa.large_string()))
    start = process_time()
    band_keys(tokens_of(text), settings.bands, settings.rows)
    return process_time() - start


def daft_seconds(texts: Sequence[str], settings: NearDuplicateSettings, normalise: bool) -> float:
    """Processor seconds of Daft's minhash expression, with or without what makes its words ours."""
    import daft
    from daft import col

    given = list(texts) if normalise else [" ".join(WORD.findall(text.lower())) for text in texts]
    frame = daft.from_pydict({"text": given}).collect()
    words = col("text").lower().regexp_replace("[^a-z0-9]+", " ") if normalise else col("text")
    hashes = settings.bands * settings.rows
    expression = words.minhash(num_hashes=hashes, ngram_size=5, seed=1, hash_function="xxhash64")
    frame.limit(10).select(expression).collect()
    start = process_time()
    frame.select(expression).collect()
    return process_time() - start


def main() -> None:
    os.environ |= {"DO_NOT_TRACK": "true", "DAFT_ANALYTICS_ENABLED": "0"}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--pieces", type=int, default=100_000)
    parser.add_argument("--copies", type=int, default=2_500)
    parser.add_argument("--peer-megabytes", type=float, default=4.0)
    arguments = parser.parse_args()
    settings = NearDuplicateSettings()
    real = list(islice(pieces(arguments.corpus), arguments.pieces))
    with tempfile.TemporaryDirectory() as folder:
        search(real[:2000], settings, Path(folder))  # compiles the kernels
        result = quality(real, arguments.copies, settings, Path(folder))
        sample, size = [], 0
        for text in real[:: max(1, len(real) // 20_000)]:
            sample.append(text)
            size += len(text.encode())
            if size > arguments.peer_megabytes * 1e6:
                break
        ours = search(sample, settings, Path(folder))[2]
        many = sample * max(1, int(20e6 / size))  # Daft and we are too quick for a small sample
        signatures = min(signature_seconds(many, settings) for _ in range(3))
        daft = min(daft_seconds(many, settings, normalise=False) for _ in range(3))
        daft_raw = min(daft_seconds(many, settings, normalise=True) for _ in range(3))
        peer = datatrove_seconds(sample, settings, Path(folder))
    whole = sum(ours.values())
    result["speed"] = {
        "megabytes": round(size / 1e6, 2),
        "ours_signatures_mb_per_second": size / 1e6 / ours["signatures"],
        "ours_whole_mb_per_second": size / 1e6 / whole,
        "datatrove_seconds": peer,
        "datatrove_mb_per_second": size / 1e6 / sum(peer.values()),
        "times_datatrove": sum(peer.values()) / whole,
        "signatures_of_megabytes": round(len(many) / len(sample) * size / 1e6, 1),
        "signatures_mb_per_second": {
            "ours": len(many) / len(sample) * size / 1e6 / signatures,
            "daft_on_prepared_words": len(many) / len(sample) * size / 1e6 / daft,
            "daft_on_the_same_text": len(many) / len(sample) * size / 1e6 / daft_raw,
        },
        "times_daft_on_the_same_text": daft_raw / signatures,
        "times_daft_on_prepared_words": daft / signatures,
    }
    result["settings"] = settings.model_dump()
    print(result)
    print(write_result("near_duplicates", result, ("daft", "datatrove", "numba", "pyarrow")))


if __name__ == "__main__":
    main()
