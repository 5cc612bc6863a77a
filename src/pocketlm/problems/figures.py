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


def stem_metrics(files: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """Number of rows of every file."""
    return {f"{stem}.problems": len(rows) for stem, rows in files.items()}


def sizes_table(files: Mapping[str, Sequence[Row]]) -> Block:
    """Problems of every task and level by file."""
    counts = {stem: Counter((row["task"], row["level"]) for row in rows) for stem, rows in files.items()}
    keys = sorted({key for count in counts.values() for key in count}, key=lambda key: (key[0], str(key[1]).zfill(4)))
    rows = [
        {"task": task, "level": level, **{stem: counts[stem][task, level] for stem in files}} for task, level in keys
    ]
    return table(
        "Problems by task and level", ["task", "level", *files], rows, "The level of a word problem: its steps."
    )


def derivation_table(derived: Mapping[str, int], items: Mapping[str, int]) -> Block:
    """Why items were rejected and derived problems not made."""
    kinds = (("item", items), ("derived problem", derived))
    rows = [
        {"what": what, "reason": reason, "count": count}
        for what, reasons in kinds
        for reason, count in sorted(reasons.items(), key=lambda entry: -entry[1])
        if count
    ]
    note = "A template stands for all problems that would be derived from one item."
    return table("What was left out, and why", ["what", "reason", "count"], rows, note)


def solution_samples(files: Mapping[str, Sequence[Row]]) -> Block:
    """The first solved problems, and the first derived ones."""
    rows = files["solved"] or files["prompts"]
    chosen = [row for row in rows if "/derived/" not in row["id"]][:3] + [r for r in rows if "/derived/" in r["id"]][:3]
    items = [{"label": row["prompt"], "text": str(row.get("solution") or row.get("answer", ""))} for row in chosen]
    return samples("Problems", items, "The first problems to learn from, and the first that were made from others.")
