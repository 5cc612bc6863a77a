"""The steps over all conversations: duplicates, contamination, split, shares of sources."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pocketlm.data.contamination.contamination import Hits, Index, build_index, find_contamination
from pocketlm.data.contamination.contamination_index import Item
from pocketlm.data.contamination.contamination_settings import ContaminationSettings
from pocketlm.data.contamination.evaluation_items import cloze_records, held_out_windows, problem_items
from pocketlm.data.conversations.corpus import Conversations
from pocketlm.data.curation.curation_files import benchmark_items
from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.duplicates.duplicates import exact_duplicates
from pocketlm.data.duplicates.near_duplicates import near_duplicates
from pocketlm.data.engine import Engine
from pocketlm.data.settings import NearDuplicateSettings
from pocketlm.data.sources.row_forms import Fault
from pocketlm.data.text import Text, tokens_of
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact


def reject_duplicates(corpus: Conversations, settings: NearDuplicateSettings | None, engine: Engine) -> None:
    """Of conversations with the same turns, and of similar ones, the first stays."""
    rank = np.arange(len(corpus.alive))
    exact = exact_duplicates(corpus.content, rank)
    copies = np.flatnonzero(~exact.kept)
    corpus.reject(copies, [Fault("exact_duplicate", "the same turns as another conversation", 1.0, 1.0)] * len(copies))
    if settings is None:
        return
    near, _ = near_duplicates(corpus.keys, corpus.alive, rank, corpus.size, corpus.store(), settings.threshold, engine)
    rows = np.flatnonzero(~near.kept & corpus.alive)
    reason = "Jaccard similarity of 5-word shingles with the kept conversation, or a chain of such leads to it"
    values = near.similarity[rows].tolist()
    corpus.reject(rows, [Fault("near_duplicate", reason, value, settings.threshold) for value in values])


def judged_items(settings: ContaminationSettings, problems: Artifact | None, documents: Artifact | None) -> list[Item]:
    """What no conversation may hold: benchmarks, scored problems, held-out text and its cloze items."""
    items = benchmark_items(CurationSettings(contamination=settings))
    if problems is not None:
        items += problem_items(problems.path)
    if documents is not None:
        items += cloze_records(documents.read_jsonl("cloze.jsonl"))
        for name in ("heldout.parquet", "heldout_selection.parquet"):
            table = pq.read_table(documents.file(name), columns=["id", "text"])
            items += held_out_windows(table["id"].to_pylist(), table["text"].combine_chunks())
    return items


def reject_contaminated(
    corpus: Conversations, items: Sequence[Item], settings: ContaminationSettings, engine: Engine
) -> None:
    """Take out every conversation that holds an evaluation item."""
    if not items:
        return
    index = build_index(items)
    scan = partial(_held, corpus.path, index, settings)
    for first, hits in zip(corpus.first.tolist(), engine.map(scan, range(len(corpus.first) - 1)), strict=False):
        strongest = hits.strongest()
        faults = [
            Fault(
                f"contamination_{index.items[item].kind}",
                f"holds the evaluation item {index.items[item].id}",
                containment,
                settings.threshold,
            )
            for item, containment in zip(strongest.item.tolist(), strongest.containment.tolist(), strict=True)
        ]
        corpus.reject(first + strongest.document, faults)


def choose_selection(corpus: Conversations, share: float, maximum: int) -> np.ndarray:
    """Which rows are kept from training to choose by, bool [rows]: whole questions, by the hash of the question.

    Raises:
        InputError: one question alone is left, so that it would be on both sides.
    """
    rows = np.flatnonzero(corpus.alive)
    wanted = min(maximum, max(1, round(share * len(rows))))
    _, question, sizes = np.unique(corpus.question[rows], return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise InputError(
            f"conversations: {len(rows)} are left and all begin with the same question; a selection split needs another"
        )
    # Hashes are uniform, so the order of the hashes is as good as any.
    taken = np.zeros(len(sizes), bool)
    left = wanted
    for place in range(len(sizes)):
        if sizes[place] <= left and len(sizes) - taken.sum() > 1:
            taken[place] = True
            left -= sizes[place]
        if not left:
            break
    if not taken.any():
        taken[np.argmin(sizes)] = True
    chosen = np.zeros(len(corpus.alive), bool)
    chosen[rows[taken[question]]] = True
    return chosen


def reject_over_share(corpus: Conversations, shares: dict[str, float], selection: np.ndarray) -> None:
    """Take out of the training rows what is over a source's share, by the hash of the conversation."""
    if not shares:
        return
    own = [np.flatnonzero(corpus.alive & ~selection & (corpus.source == place)) for place in range(len(corpus.names))]
    total = min(len(rows) / shares[name] for name, rows in zip(corpus.names, own, strict=True))
    for name, rows in zip(corpus.names, own, strict=True):
        most = int(total * shares[name] + 1e-6)
        if not most:
            short = min(corpus.names, key=lambda other: len(own[corpus.names.index(other)]) / shares[other])
            raise InputError(
                f"conversations.source_shares: {short} has too few conversations left for a mixture in these shares; "
                f"lower its share"
            )
        over = rows[np.argsort(corpus.content[rows, 0], kind="stable")][most:]
        fault = Fault("over_share", "more than the source's share of the mixture", float(len(rows)), float(most))
        corpus.reject(np.sort(over), [fault] * len(over))


def _held(path: Path, index: Index, settings: ContaminationSettings, group: int) -> Hits:
    with pq.ParquetFile(path) as file:
        text = Text.from_arrow(file.read_row_group(group, columns=["text"])["text"])
    return find_contamination(text, tokens_of(text), index, settings.threshold, settings.template_threshold)
