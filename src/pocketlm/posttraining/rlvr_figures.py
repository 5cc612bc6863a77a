"""What the `rlvr` stage reports: metrics and blocks from its log, its selection curve and its pass@k profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.pipeline.figures import Block, figure, line_chart, paragraph, table
from pocketlm.posttraining.rollouts import Group, live_share
from pocketlm.posttraining.scoring import pass_profile, share_rows

Row = Mapping[str, Any]


def total(rows: Sequence[Row], name: str) -> int:
    """Sum over all steps of a figure that log rows hold as a mean over their steps."""
    done, sum_of_steps = 0, 0.0
    for row in rows:
        sum_of_steps += (row[name] or 0.0) * (row["step"] - done - row["skipped"])
        done = row["step"]
    return round(sum_of_steps)


def mean(rows: Sequence[Row], name: str) -> float:
    """Mean of a figure over the log rows that have it; 0 when none has."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else 0.0


def rlvr_metrics(
    log: Sequence[Row], curve: Sequence[Row], chosen: Row, before: Sequence[Group], selection: int, tokens: int
) -> dict[str, Any]:
    """Counts, the selection score before and after, and how alive the groups were. `curve` begins with the start."""
    return {
        "steps": log[-1]["step"] if log else 0,
        "chosen_step": chosen["step"],
        "optimized_tokens": tokens,
        "sampled_tokens": total(log, "sampled_tokens"),
        "packed_tokens": total(log, "packed_tokens"),
        "selection.exact_match.before": figure(curve[0]["exact_match"], n=selection),
        "selection.exact_match": figure(chosen["exact_match"], n=selection),
        "live_groups.predicted": figure(live_share(before), n=len(before)),
        "live_groups.mean": mean(log, "live_groups"),
        "engine_distance.mean": figure(mean(log, "engine_distance"), unit="nats per token"),
    }


def rlvr_blocks(
    log: Sequence[Row], curve: Sequence[Row], before: Sequence[Group], after: Sequence[Group], summary: str
) -> list[Block]:
    """The story in order: what happened, the curve, the rewards, the groups, pass@k before and after."""
    rewards = [
        {"step": row["step"], "mean reward": value, "level": name.removeprefix("reward.").replace("_", " ")}
        for row in log
        for name, value in row.items()
        if name.startswith("reward.") and value is not None
    ]
    shares = [
        {"step": row["step"], "share": row[name], "of": title}
        for row in log
        for name, title in (("live_groups", "live groups"), ("solved_once", "prompts solved at least once"))
    ]
    profile = [{"model": "start", **row} for row in pass_profile(before)]
    profile += [{"model": "chosen", **row} for row in pass_profile(after)]
    return [
        paragraph(summary),
        line_chart("Exact match on the selection split", share_rows(curve), "step", "exact match", "level"),
        line_chart("Mean reward of the sampled answers", rewards, "step", "mean reward", "level"),
        line_chart("Live groups", shares, "step", "share", "of"),
        line_chart("Entropy of the answers' tokens", log, "step", "entropy", y_title="nats per token"),
        table(
            "pass@k on RL prompts, before and after",
            list(profile[0]),
            profile,
            "Sampled at the training temperature; unbiased estimate. Live groups predict whether training can move.",
        ),
    ]


def summary(metrics: Mapping[str, Any], prompts: int, samples: int) -> str:
    """One paragraph by rule."""
    start, end = metrics["selection.exact_match.before"]["value"], metrics["selection.exact_match"]["value"]
    return (
        f"{metrics['steps']} steps of {prompts} prompts x {samples} completions; the pass@k profile predicted "
        f"{metrics['live_groups.predicted']['value']:.0%} live groups, training saw {metrics['live_groups.mean']:.0%}. "
        f"Exact match on the selection split went from {start:.1%} to {end:.1%} "
        f"(step {metrics['chosen_step']}, the best scored one). Ended: {metrics['stopped']}."
    )
