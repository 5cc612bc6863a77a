"""What is shown of a comparison: blocks for the report and the terminal, and JSON.

Tables and claims show the first record against each other one; the counts of wins and the JSON hold every pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pocketlm.evaluation.comparison.claims import SEEDS, Claim, best_of_table, claims, pair_claims
from pocketlm.evaluation.comparison.compared import Comparisons, Pair, compare_records
from pocketlm.evaluation.comparison.differences import MEAN, Difference
from pocketlm.evaluation.comparison.records import Record, is_rate
from pocketlm.evaluation.comparison.words import interval, plain
from pocketlm.evaluation.figures import p_value
from pocketlm.pipeline.figures import Block, interval_chart, paragraph, table
from pocketlm.statistics.rates import Estimate

ABSENT = "–"
WIDEST_TABLE = 12
"""More tasks than this stand in rows, not in columns."""

RULE = (
    "Differences of rates are in points. Better or worse is said only when the 95 % interval of a difference is clear "
    "of zero and p is below 0.05. p is adjusted (Holm) over all pairs and tasks of the table, that of means over the "
    "means of all pairs. For : against counts the items that only one of both has right. Rows that are not paired "
    "treat the two scores as independent, which is conservative."
)


def comparison_blocks(records: Sequence[Record], tasks: Sequence[str] = ()) -> list[Block]:
    """Two or more records in a report: scores, differences, wins, what is refused, and the sentences that are allowed.

    Raises:
        InputError: see `compare_records`.
    """
    return blocks_of(compare_records(records, tasks))


def blocks_of(found: Comparisons) -> list[Block]:
    """The blocks of a comparison that was made."""
    shown = [pair for pair in found.pairs if pair.first is found.records[0]]
    blocks = [_scores(found), *_chart(shown), _differences(shown), _wins(found)]
    refused = [
        {"model": pair.first.name, "against": pair.second.name, "on": item.task, "why": item.reason}
        for pair in shown
        for item in pair.refused
    ]
    if refused:
        blocks.append(table("Not compared", ["model", "against", "on", "why"], refused))
    remarks: dict[str, list[str]] = {}
    for pair in shown:
        for remark in pair.remarks:
            remarks.setdefault(remark, []).append(pair.second.name)
    blocks += [
        paragraph(f"{shown[0].first.name} and {', '.join(others)}: {remark}.") for remark, others in remarks.items()
    ]
    return [*blocks, _claims(shown_claims(found)), paragraph(SEEDS)]


def shown_claims(found: Comparisons) -> list[Claim]:
    """The sentences about the first record against each other one, and about the whole table."""
    about = [pair for pair in found.pairs if pair.first is found.records[0]]
    sentences = [claim for pair in about for claim in pair_claims(pair, found)]
    return sentences + (best_of_table(found) if len(found.records) > 2 else [])


def as_json(found: Comparisons) -> dict[str, Any]:
    """Everything that was found, for programs: records without their items, every pair, every sentence."""
    return {
        "format": 1,
        "tasks": list(found.tasks),
        "records": [
            {
                "name": record.name,
                "digest": record.digest,
                "origin": record.origin,
                "settings": dict(record.settings),
                "tasks": {
                    task: {"n": result.n, "primary": result.primary, "scores": _estimates(result.scores)}
                    | ({"interval_derived_from": result.derived} if result.derived else {})
                    for task, result in record.tasks.items()
                },
                "mean": asdict(found.means[record.name]) if record.name in found.means else None,
                "no_mean": found.no_mean.get(record.name),
            }
            for record in found.records
        ],
        "pairs": [
            {
                "first": pair.first.name,
                "second": pair.second.name,
                "differences": [{**asdict(row), "verdict": row.verdict} for row in _rows(pair)],
                "refused": [asdict(item) for item in pair.refused],
                "remarks": list(pair.remarks),
            }
            for pair in found.pairs
        ],
        "claims": [asdict(claim) for claim in claims(found)],
    }


def _rows(pair: Pair) -> list[Difference]:
    return [*([pair.mean] if pair.mean else []), *pair.tasks]


def _estimates(scores: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: asdict(estimate) for metric, estimate in scores.items()}


def _scores(found: Comparisons) -> Block:
    cells: dict[str, dict[str, str]] = {}
    for record in found.records:
        row = cells.setdefault(record.name, {})
        for task in found.tasks:
            row[task] = _cell(record, task)
        if found.means:
            mean = found.means.get(record.name)
            row[MEAN] = ABSENT if mean is None else f"{plain('', mean.value)} {interval('', mean)}"
    columns = [*found.tasks, *([MEAN] if found.means else [])]
    notes = ["Rates in %, with 95 % intervals."]
    missing: dict[str, list[str]] = {}
    for name, reason in found.no_mean.items():
        missing.setdefault(reason, []).append(name)
    notes += [f"No mean of {', '.join(names)}: {reason}." for reason, names in missing.items()]
    derived: dict[str, list[str]] = {}
    for record in found.records:
        for text in dict.fromkeys(record.tasks[task].derived for task in found.tasks if task in record.tasks):
            derived.setdefault(text, []).append(record.name)
    notes += [f"Intervals of {', '.join(names)}: from {text}." for text, names in derived.items() if text]
    if len(found.tasks) > WIDEST_TABLE:
        rows = [{"task": task, **{name: row[task] for name, row in cells.items()}} for task in columns]
        return table("Scores", ["task", *cells], rows, " ".join(notes))
    return table(
        "Scores", ["model", *columns], [{"model": name, **row} for name, row in cells.items()], " ".join(notes)
    )


def _cell(record: Record, task: str) -> str:
    if task not in record.tasks:
        return ABSENT
    result = record.tasks[task]
    estimate = result.scores[result.primary]
    return f"{plain(result.primary, estimate.value)} {interval(result.primary, estimate)}"


def _chart(pairs: Sequence[Pair]) -> list[Block]:
    rows = [
        {
            "task": row.task,
            "points": 100 * row.difference.value,
            "low": 100 * row.difference.low,
            "high": 100 * row.difference.high,
            "against": pair.second.name,
        }
        for pair in pairs
        for row in _rows(pair)
        if is_rate(row.metric)
    ]
    title = f"{pairs[0].first.name} minus the others, in points"
    return [interval_chart(title, rows, "task", "points", "against")] if rows else []


def _differences(pairs: Sequence[Pair]) -> Block:
    rows = [
        {
            "against": pair.second.name,
            "on": row.task,
            "difference": f"{plain(row.metric, row.difference.value, signed=True)} "
            f"{interval(row.metric, row.difference, signed=True)}",
            "for : against": _discordant(row),
            "p adjusted": p_value(row.adjusted),
            "verdict": row.verdict,
        }
        for pair in pairs
        for row in _rows(pair)
    ]
    columns = ["against", "on", "difference", "for : against", "p adjusted", "verdict"]
    return table(f"{pairs[0].first.name} against the others", columns, rows, RULE)


def _discordant(row: Difference) -> str:
    if not row.paired:
        return "not paired"
    return f"{row.test.for_first} : {row.test.for_second}" if row.test else ""


def _wins(found: Comparisons) -> Block:
    columns = ["model", "against", "better on", "worse on", "undecided", "not compared", "on the mean"]
    rows = []
    for pair in found.pairs:
        counts = [pair.count("better"), pair.count("worse"), pair.count("no difference shown")]
        missing = sum(item.task != MEAN for item in pair.refused)
        mean = "not compared" if pair.mean is None else pair.mean.verdict
        rows.append(dict(zip(columns, [pair.first.name, pair.second.name, *counts, missing, mean], strict=True)))
    return table("Wins over the tasks", columns, rows)


def _claims(sentences: Sequence[Claim]) -> Block:
    rows = [
        {
            "sentence": claim.sentence,
            "may be said": "yes" if claim.allowed else "no",
            "why": "; ".join(claim.reasons),
            "needed": "; ".join(claim.needed),
        }
        for claim in sentences
    ]
    return table("What may be claimed", ["sentence", "may be said", "why", "needed"], rows)
