"""Quality gates against datatrove's filters: same documents, one thread, processor seconds, agreement of the verdicts.

    python -m bench.gates --documents 'corpus/*.jsonl.gz'

Needs `datatrove[processing]` and spaCy beside pocketlm. Both sides get the same cleaned texts in memory. The peer's
time is taken twice: every filter on every document, and as in its pipelines, where a rejected document is not shown to
the next filter. Ours counts everything of every document, C4's cutting of lines and the words for L20-Edu's included.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import json
from collections.abc import Callable
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa

from bench.common import write_result
from pocketlm.data.gates import language
from pocketlm.data.gates.c4_lines import cut_c4_lines
from pocketlm.data.gates.cleaning import clean
from pocketlm.data.gates.gate_settings import GateSettings
from pocketlm.data.gates.gates import judge, measure
from pocketlm.data.gates.masking import mask
from pocketlm.data.text import Text, tokens_of

ROUNDS = 3
EVERYTHING = "all sets, words and cutting included"


def main() -> None:
    arguments = _arguments()
    pa.set_cpu_count(1)
    raw = pa.array(_documents(arguments.documents, arguments.megabytes * 1e6), pa.large_string())
    texts = clean(raw)
    texts = texts.filter(pa.array([bool(text) for text in texts.to_pylist()]))
    few = texts[:: arguments.peer_every]
    ours, kept = _ours(raw, texts)
    ours_of_few, kept_of_few = _ours(few, few)
    same = ours_of_few[EVERYTHING]
    peer, peer_kept = _peer(few.to_pylist())
    megabytes, few_megabytes = _megabytes(texts), _megabytes(few)
    rates = {name: round(megabytes / seconds, 1) for name, seconds in ours.items()}
    peer_rates = {name: round(few_megabytes / seconds, 3) for name, seconds in peer.items()}
    payload: dict[str, Any] = {
        "documents": len(texts),
        "megabytes": round(megabytes, 1),
        "peer_documents": len(few),
        "peer_megabytes": round(few_megabytes, 2),
        "megabytes_per_cpu_second": rates,
        "peer_megabytes_per_cpu_second": peer_rates,
        "ours_on_the_peer_documents_seconds": round(same, 4),
        "times_faster_than_every_filter": round(peer["every filter on every document"] / same, 1),
        "times_faster_than_its_pipeline": round(peer["as a pipeline"] / same, 1),
        "our_words_for_one_of_the_peer": round(_words_ratio(few), 4),
        "kept_share": {name: round(sum(found) / len(found), 4) for name, found in kept.items()},
        "verdicts_alike": {
            name: round(sum(a == b for a, b in zip(kept_of_few[name], peer_kept[name], strict=True)) / len(few), 4)
            for name in peer_kept
        },
    }
    if arguments.language_model:
        payload["language"] = _language(texts, arguments.language_model)
    print(json.dumps(payload, indent=2))
    write_result("gates", payload, ("numba", "pyarrow", "datatrove", "spacy"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", required=True, help="glob of JSONL files, plain or .gz, with a key `text`")
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--peer-every", type=int, default=12, help="the peer gets every so-many-th document")
    parser.add_argument("--language-model", help="fastText model file; needs the extra `language`")
    return parser.parse_args()


def _documents(pattern: str, limit: float) -> list[str]:
    """Documents of all files, an equal share of the bytes from each, spread over the file."""
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise SystemExit(f"no file matches {pattern}")
    chosen = []
    for path in paths:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path, encoding="utf-8") as stream:
            texts = [json.loads(line)["text"] for line in stream]
        step = max(1, round(sum(map(len, texts)) / (limit / len(paths))))
        chosen += texts[::step]
    return chosen


def _megabytes(texts: Any) -> float:
    return sum(len(text.encode()) for text in texts.to_pylist()) / 1e6


def _best(run: Callable[[], Any]) -> tuple[float, Any]:
    """Least processor seconds of several rounds after a warm-up, and the result."""
    result = run()
    seconds = []
    for _ in range(ROUNDS):
        start = process_time()
        run()
        seconds.append(process_time() - start)
    return min(seconds), result


def _ours(raw: Any, texts: Any) -> tuple[dict[str, float], dict[str, list[bool]]]:
    """Seconds of each part of ours, and what each set keeps."""
    tokens = tokens_of(Text.from_arrow(texts))
    cut = cut_c4_lines(texts)
    cut_tokens = tokens_of(Text.from_arrow(cut))
    seconds, kept = {}, {}
    seconds["cleaning"], _ = _best(lambda: clean(raw))
    seconds["masking"], _ = _best(lambda: mask(texts, True, True))
    seconds["words"], _ = _best(lambda: tokens_of(Text.from_arrow(texts)))
    seconds["cutting of C4 lines"], _ = _best(lambda: cut_c4_lines(texts))
    for name in ("l20-edu", "gopher", "fineweb", "c4"):
        settings = GateSettings(sets=(name,))
        on, words = (cut, cut_tokens) if name == "c4" else (texts, tokens)
        seconds[name], verdicts = _best(
            lambda on=on, words=words, settings=settings: judge(measure(on, words), settings)
        )
        kept[name] = (verdicts.gate < 0).tolist()
    seconds["default gates"], _ = _best(lambda: judge(measure(texts, tokens), GateSettings()))
    seconds[EVERYTHING], _ = _best(lambda: _all_sets(texts))
    return seconds, kept


def _all_sets(texts: Any) -> None:
    judge(measure(texts), GateSettings(sets=("l20-edu", "gopher", "fineweb")))
    judge(measure(cut_c4_lines(texts)), GateSettings(sets=("c4",)))


def _peer(texts: list[str]) -> tuple[dict[str, float], dict[str, list[bool]]]:
    """Seconds of datatrove's filters, and what each keeps."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    sets = {
        "gopher": [GopherQualityFilter(), GopherRepetitionFilter()],
        "fineweb": [FineWebQualityFilter()],
        "c4": [C4QualityFilter()],
    }
    every = [one for filters in sets.values() for one in filters]

    def passes(text: str, filters: list[Any]) -> bool:
        return all(one.filter(Document(text=text, id="")) is True for one in filters)

    passes(texts[0], every)  # loads spaCy
    seconds, kept = {}, {}
    for name, filters in sets.items():
        start = process_time()
        kept[name] = [passes(text, filters) for text in texts]
        seconds[name] = process_time() - start
    start = process_time()
    for text in texts:
        for one in every:
            one.filter(Document(text=text, id=""))
    seconds["every filter on every document"] = process_time() - start
    start = process_time()
    for text in texts:
        passes(text, every)
    seconds["as a pipeline"] = process_time() - start
    return seconds, kept


def _words_ratio(texts: Any) -> float:
    """Mean over the documents of our number of words and signs over the peer's."""
    from datatrove.utils.text import split_into_words

    peer = [len(split_into_words(text)) for text in texts.to_pylist()]
    ratios = [ours / theirs for ours, theirs in zip(measure(texts).pieces.tolist(), peer, strict=True) if theirs]
    return sum(ratios) / len(ratios)


def _language(texts: Any, model: str) -> dict[str, float]:
    """Identification by the beginning of each document, against reading whole documents with the same model."""
    asked, source = [GateSettings(minimum_language_confidence=0.65)], np.zeros(len(texts), np.int64)
    seconds, confidence = _best(lambda: language.identify(texts, model, asked, source))
    heads, language.HEAD_BYTES = language.HEAD_BYTES, 1 << 40
    start = process_time()
    whole = language.identify(texts, model, asked, source)
    whole_seconds = process_time() - start
    language.HEAD_BYTES = heads
    return {
        "megabytes_per_cpu_second": round(_megabytes(texts) / seconds, 1),
        "megabytes_per_cpu_second_of_whole_documents": round(_megabytes(texts) / whole_seconds, 1),
        "milliseconds_per_document": round(seconds / len(texts) * 1e3, 4),
        "kept_share": round(float((confidence >= 0.65).mean()), 4),
        "alike": round(float(((confidence >= 0.65) == (whole >= 0.65)).mean()), 4),
    }


if __name__ == "__main__":
    main()
