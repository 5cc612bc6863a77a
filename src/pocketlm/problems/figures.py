"""What the report shows of the problems: sizes of the splits and a few rows of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pocketlm.pipeline.figures import Block, samples, table
from pocketlm.problems.arithmetic import LADDER, SPLITS, Row

LADDER_NOTE = (
    "A pair of operands and both its orders are in one split only. Solved problems are for SFT, prompts (without "
    "answers) for RL; checkpoints and mixtures are chosen on the selection split, the report split is scored once."
)


def split_metrics(splits: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """Number of rows of every split, and of every level of the ladder in it."""
    sizes = {f"{name}.problems": len(rows) for name, rows in splits.items()}
    for name in SPLITS:
        counts = Counter(row["level"] for row in splits[name])
        sizes |= {f"{name}.level_{rung.level}": counts[rung.level] for rung in LADDER}
    return sizes


def ladder_table(splits: Mapping[str, Sequence[Row]]) -> Block:
    """Problems of every level by split."""
    rows = []
    for rung in LADDER:
        counts = {name: sum(row["level"] == rung.level for row in splits[name]) for name in SPLITS}
        example = next(row["prompt"] for row in splits["solved"] if row["level"] == rung.level)
        rows.append({"level": rung.level, "example": example, **counts})
    return table("Arithmetic problems by level", ["level", "example", *SPLITS], rows, LADDER_NOTE)


def instruction_samples(rows: Sequence[Row]) -> Block:
    """The first training row of every family."""
    first = {row["level"]: row for row in reversed(rows)}
    items = [{"label": row["prompt"], "text": row["answer"]} for row in reversed(first.values())]
    return samples("Short instructions", items, "The first training row of every family of instructions.")
