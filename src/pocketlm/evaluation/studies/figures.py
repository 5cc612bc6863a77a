"""What the report shows of a study: one table, one plot of paired differences, and a sentence for each comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pocketlm.evaluation.studies.arms import Arm
from pocketlm.evaluation.studies.study import LEAST_SEEDS, SeedEstimate, verdict
from pocketlm.pipeline.figures import Block, Figure, figure, interval_chart, paragraph, table

RULE = (
    "Every arm is a mean over its seeds, all arms on the same items. An interval is the wider, at either end, of two "
    "95 % intervals: one resamples seeds and items at once (both orders of an operand pair together, within levels), "
    "the other is Student's t over the values of the seeds. Differences are paired by item and by seed. Better or "
    f"worse is said of intervals clear of zero from {LEAST_SEEDS} seeds on; not corrected for the number of "
    "comparisons."
)
COST = (
    "Tokens are those of all stages after the start, each sequence with its prompt, as a mean over the seeds. FLOP: "
    "matrix parameters x (2 a sampled token + 6 an optimized one); attention and a teacher's passes are not in it."
)


def metrics(arms: Sequence[Arm]) -> dict[str, Figure | int]:
    """`ARM.exact_match`, what it spent, and `ARM_vs_OTHER.exact_match`, with n and interval."""
    found: dict[str, Figure | int] = {}
    for arm in arms:
        found[f"{arm.name}.exact_match"] = _figure(arm.score)
        found[f"{arm.name}.seeds"] = len(arm.score.seeds)
        for name in ("sampled_tokens", "optimized_tokens"):
            found[f"{arm.name}.{name}"] = arm.tokens(name)
        for other, found_difference in arm.against.items():
            found[f"{arm.name}_vs_{other}.exact_match"] = _figure(found_difference)
        if arm.bits_per_byte is not None:
            found[f"{arm.name}.bits_per_byte"] = _figure(arm.bits_per_byte, "bits/byte")
    return found


def blocks(arms: Sequence[Arm], compared_with: tuple[str, str | None]) -> list[Block]:
    """Sentences against the baseline, or else the start (`compared_with`: start, baseline); then table and charts."""
    start, baseline = compared_with
    return [*sentences(arms, baseline or start), arm_table(arms), difference_chart(arms), level_table(arms)]


def arm_table(arms: Sequence[Arm]) -> Block:
    """One row an arm: score, seeds, what it spent, what it gained."""
    rows = []
    for arm in arms:
        row: dict[str, Any] = {
            "arm": arm.name,
            "exact match": _points(arm.score),
            "each seed": ", ".join(f"{100 * value:.1f}" for value in arm.score.seeds),
            "sampled tokens": arm.tokens("sampled_tokens"),
            "optimized tokens": arm.tokens("optimized_tokens"),
            "FLOP": f"{arm.flops:.2g}",
        }
        for other, found in arm.against.items():
            row |= {f"against {other}": _points(found, signed=True), f"verdict against {other}": verdict(found)}
        if arm.bits_per_byte is not None:
            row["bits per byte"] = f"{arm.bits_per_byte.value:.3f}"
        if arm.forgetting is not None:
            low, high = arm.forgetting.low, arm.forgetting.high
            row["bits per byte, change"] = f"{arm.forgetting.value:+.3f} [{low:+.3f}, {high:+.3f}]"
        rows.append(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    count = arms[0].score.n
    return table(f"Arms on the report split ({count:,} problems)", columns, rows, f"{RULE} {COST}")


def level_table(arms: Sequence[Arm]) -> Block:
    """Exact match by level, mean over the seeds."""
    rows = [{"arm": arm.name, **{f"level {name}": round(x, 4) for name, x in arm.levels.items()}} for arm in arms]
    return table("Exact match by level, mean over the seeds", list(rows[0]), rows)


def difference_chart(arms: Sequence[Arm]) -> Block:
    """What every arm gained, against each of what it is compared with, in points of exact match."""
    rows = [
        {
            "arm": arm.name,
            "difference": 100 * found.value,
            "low": 100 * found.low,
            "high": 100 * found.high,
            "against": f"against {other}",
        }
        for arm in arms
        for other, found in arm.against.items()
    ]
    title = "Paired differences in exact match"
    return interval_chart(title, rows, "arm", "difference", "against", y_title="points of exact match", note=RULE)


def sentences(arms: Sequence[Arm], other: str) -> list[Block]:
    """One sentence for each arm that is compared with `other`."""
    words = {"better": "is better than", "worse": "is worse than", "no difference shown": "is not shown to differ from"}
    said = []
    for arm in arms:
        if (found := arm.against.get(other)) is None:
            continue
        on = f"Over {_count(found.trained, 'seed')} and {found.n:,} problems"
        if (judged := words.get(verdict(found))) is None:
            text = (
                f"{arm.name} less {other} is {_points(found, signed=True)}; fewer than {LEAST_SEEDS} seeds: no claim."
            )
        else:
            text = f"{arm.name} {judged} {other}: {_points(found, signed=True)}."
        said.append(paragraph(f"{on} {text}"))
    return said


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _figure(found: SeedEstimate, unit: str = "") -> Figure:
    return figure(found.value, n=found.n, low=found.low, high=found.high, unit=unit)


def _points(found: SeedEstimate, signed: bool = False) -> str:
    """A rate in percent, or a difference in points, with its interval."""
    sign = "+" if signed else ""
    value, low, high = (f"{100 * number:{sign}.1f}" for number in (found.value, found.low, found.high))
    return f"{value} {'points' if signed else '%'} [{low}, {high}]"
