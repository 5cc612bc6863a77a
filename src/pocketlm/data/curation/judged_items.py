"""Everything that training text must not hold: benchmarks, scored problems, cloze items and held-out text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pocketlm.data.contamination.contamination import Item
from pocketlm.data.contamination.evaluation_items import cloze_records, held_out_windows, problem_items
from pocketlm.data.curation.curation import HeldOut
from pocketlm.data.curation.curation_files import benchmark_items
from pocketlm.data.curation.curation_settings import CurationSettings


def judged_items(
    settings: CurationSettings, problems: Path | None, cloze: Iterable[Mapping[str, str]], held_out: HeldOut
) -> list[Item]:
    """The items of a run, in a fixed order.

    Args:
        problems: folder of a `problems` artifact. cloze: items made from the held-out documents.
    """
    items = [*benchmark_items(settings), *cloze_records(cloze)]
    if problems is not None:
        items += problem_items(problems)
    for part in (held_out.report, held_out.selection):
        items += held_out_windows(part["id"].to_pylist(), part["text"].combine_chunks())
    return items
