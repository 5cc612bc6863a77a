"""The last files of a curated corpus: funnel, licences, data card and Croissant metadata; and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.data.curation.corpus import Corpus
from pocketlm.data.curation.curation_figures import (
    RejectCounts,
    contamination_blocks,
    cut_blocks,
    funnel_blocks,
    licence_block,
    near_duplicate_blocks,
    planted_metrics,
    reject_blocks,
)
from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.curation.data_card import CardFigures, write_data_card
from pocketlm.data.curation.planting import Planted
from pocketlm.data.curation.repeats import Cut, heaviest_spans
from pocketlm.data.curation.scan import Contamination, contamination_counts
from pocketlm.data.curation.writing import REJECTS_FILE, SPLITS, Contents
from pocketlm.data.duplicates.near_duplicates import Comparisons
from pocketlm.pipeline.figures import Block
from pocketlm.pipeline.storage import json_bytes

SPANS_SHOWN = 8


def curation_report(
    folder: Path,
    title: str,
    corpus: Corpus,
    split: np.ndarray,
    contents: Contents,
    comparisons: Comparisons,
    cuts: Sequence[Cut],
    found: Contamination,
    planted: Planted,
    settings: CurationSettings,
) -> tuple[dict[str, Any], list[Block]]:
    """Write the last files and return metrics and blocks. The splits and rejects must have been written."""
    licences = contents.licences()
    sources = sorted({name for part in corpus.prepared for name in part.all_sources})
    orphans = corpus.orphans()
    rejects = RejectCounts(folder / REJECTS_FILE, sources)
    (folder / "funnel.json").write_bytes(json_bytes(corpus.steps))
    (folder / "licences.json").write_bytes(json_bytes(licences))
    sizes: dict[str, dict[str, int]] = {}
    for name, code in SPLITS.items():
        chosen = corpus.alive & (split == code)
        chosen[: len(corpus.earlier)] = False
        sizes[name] = {"documents": int(chosen.sum()), "bytes": int(corpus.size[chosen].sum())}
    metrics: dict[str, Any] = {"input.documents": corpus.steps[0]["input"]}
    metrics |= {f"{name}.{key}": value for name, counts in sizes.items() for key, value in counts.items()}
    metrics["rejected"] = sum(rejects.gates.values())
    metrics |= {f"rejected.{gate}": number for gate, number in rejects.gates.items()}
    metrics |= {
        "near_duplicates.compared": len(comparisons.jaccard),
        "near_duplicates.similar": int((comparisons.jaccard >= settings.near_duplicates.threshold).sum()),
        "duplicates.kept_copy_rejected_later": orphans,
        "cut.documents": sum(len(cut.shortened.document) for cut in cuts),
        "cut.segments": sum(cut.segments for cut in cuts),
        "cut.spans": sum(cut.spans for cut in cuts),
        "contamination.items_found": len(np.unique(found.hits.item)),
        **planted_metrics(planted),
    }
    blocks = [
        *funnel_blocks(corpus.steps),
        *reject_blocks(rejects, orphans),
        *cut_blocks(cuts, heaviest_spans(corpus, SPANS_SHOWN)),
        *near_duplicate_blocks(comparisons, planted.duplicates, settings.near_duplicates),
        *contamination_blocks(contamination_counts(found), planted.items),
        licence_block(licences),
    ]
    write_data_card(
        folder, card_figures(title, sizes, corpus.steps, contents, planted.duplicates, planted.items, settings)
    )
    return metrics, blocks


def card_figures(
    title: str,
    sizes: Mapping[str, Mapping[str, int]],
    steps: Sequence[Mapping[str, Any]],
    contents: Contents,
    duplicates: Sequence[Mapping[str, Any]],
    items: Sequence[Mapping[str, Any]],
    settings: CurationSettings,
) -> CardFigures:
    """What the data card says: counts of the splits, the steps of the funnel, planted `duplicates` and `items`."""
    masked = {"e-mail addresses": settings.mask_emails, "public IPv4 addresses": settings.mask_addresses}
    return CardFigures(
        title=title,
        splits=sizes,
        funnel=steps,
        licences=contents.licences(),
        sources=contents.sources(),
        planted={"Near-duplicates": duplicates, "Evaluation items": items},
        masked=[what for what, asked in masked.items() if asked],
        languages=settings.gates.languages if settings.gates.minimum_language_confidence is not None else (),
    )
