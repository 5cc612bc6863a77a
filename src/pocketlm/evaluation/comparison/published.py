"""Published baselines by name: scores of a table, with the intervals that their item counts imply.

Source of the figures: `published.yaml`, which names the publications. Nothing is published of single items, so that
these records can be compared only without pairing; and nothing of the standard errors, so that intervals are derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pocketlm.evaluation.comparison.records import Record, TaskRecord
from pocketlm.statistics.rates import wilson

FILE = Path(__file__).parent / "published.yaml"
DERIVED = "the published score and the size of the full set (Wilson)"


@cache
def published_table() -> Mapping[str, Any]:
    """The content of `published.yaml`: `sources`, `protocol`, `tasks`, `models`. Read-only: callers share it."""
    from pocketlm.pipeline.recipe_yaml import load_yaml

    return load_yaml(FILE)


def published_names() -> list[str]:
    """The names of the published baselines, in the order of the table."""
    return list(published_table()["models"])


def published_record(name: str) -> Record:
    """The record of a published baseline; scores that are not published are left out.

    Raises:
        KeyError: there is none of that name (see `published_names`).
    """
    table = published_table()
    row = table["models"][name]
    tasks = {}
    for task, score in row["scores"].items():
        if score is not None:
            n, metric = table["tasks"][task]["items"], table["tasks"][task]["metric"]
            estimate = replace(wilson(round(score * n), n), value=score)
            tasks[task] = TaskRecord(n, metric, {metric: estimate}, None, table["protocol"]["shots"], DERIVED)
    origin = f"published: {'; '.join(table['sources'][source] for source in row['sources'])}"
    chosen_on = row.get("chosen_on_these_tasks", "")
    return Record(name, None, tasks, table["protocol"], origin, chosen_on, published=True)
