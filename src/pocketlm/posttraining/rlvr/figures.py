"""What the `rlvr` stage reports: metrics and blocks from its log, its selection curve and its pass@k profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.figures import Block, figure, line_chart, paragraph, table
from pocketlm.posttraining.rollouts.profile import PromptProfile, mean_pass_at, pass_at_by_level
from pocketlm.posttraining.rollouts.profile_figures import ks
from pocketlm.posttraining.rollouts.sampler import Group, live_share
from pocketlm.posttraining.scoring import pass_profile, share_rows

if TYPE_CHECKING:
    from pocketlm.posttraining.rlvr.run import RlvrResult

Row = Mapping[str, Any]

PROFILE_TITLE = "pass@k on RL prompts, before and after"


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
    result: RlvrResult, before: Sequence[Group], after: Sequence[Group], divergence: float, selection: int
) -> dict[str, Any]:
    """Counts, the selection score before and after, pass@k before and after, and how alive the groups were.

    `before`, `after`: groups of the same prompts, from the start and from the chosen weights. pass@k is that of 1 and
    of the largest power of two for which both have prompts of every level with so many verdicts.
    """
    return {**log_metrics(result, selection), **sampled_metrics(before, after, divergence)}


def log_metrics(result: RlvrResult, selection: int) -> dict[str, Any]:
    """What follows from the log and the selection curve; `selection` problems were asked."""
    log, curve = result.log, result.curve
    return {
        "steps": log[-1]["step"] if log else 0,
        "chosen_step": result.chosen["step"],
        "optimized_tokens": result.tokens,
        "sampled_tokens": result.sampled_tokens,
        "packed_tokens": total(log, "packed_tokens"),
        "selection.exact_match.before": figure(curve[0]["exact_match"], n=selection),
        "selection.exact_match": figure(result.chosen["exact_match"], n=selection),
        "live_groups.mean": mean(log, "live_groups"),
        "engine_distance.mean": figure(mean(log, "engine_distance"), unit="nats per token"),
        "truncated.mean": mean(log, "truncated"),
        "verifier_failures.mean": mean(log, "verifier_failures"),
        "stopped": result.ended,
        "alarms": ", ".join(result.alarms) or "none",
    }


def sampled_metrics(before: Sequence[Group], after: Sequence[Group], divergence: float) -> dict[str, Any]:
    """What follows from samples of the start and of the chosen weights."""
    metrics: dict[str, Any] = {
        "live_groups.predicted": figure(live_share(before), n=len(before)),
        "divergence_from_start": figure(divergence, unit="nats per token"),
    }
    profiles = {
        when: [PromptProfile.of_group(group) for group in groups]
        for when, groups in (("before", before), ("after", after))
    }
    largest = min(max(ks(own), default=1) for own in profiles.values())
    for when, own in profiles.items():
        for k in (1, largest):
            if success := mean_pass_at(own, k):  # none only where every verifier failed
                metrics[f"pass@{k}.{when}"] = figure(success.value, n=success.count)
        metrics |= {
            f"pass@1.level_{level}.{when}": figure(sum(values) / len(values), n=len(values))
            for level, values in pass_at_by_level(own, 1).items()
        }
    return metrics


def rlvr_blocks(
    result: RlvrResult,
    metrics: Mapping[str, Any],
    before: Sequence[Group],
    after: Sequence[Group],
    completions: int,
    told: str,
) -> list[Block]:
    """The story in order: what happened, the curve, the rewards, the groups, pass@k before and after.

    `completions` of a step; `told`: what the profile left of the prompts.
    """
    story = summary(metrics, completions, len(before[0].completions), told)
    return [paragraph(story), *log_charts(result.log, result.curve), profile_table(before, after)]


def log_charts(log: Sequence[Row], curve: Sequence[Row]) -> list[Block]:
    """The selection curve, and what the log tells of rewards, groups and answers."""
    rewards = [
        {"step": row["step"], "mean reward": value, "level": name.removeprefix("reward.").replace("_", " ")}
        for row in log
        for name, value in row.items()
        if name.startswith("reward.") and value is not None
    ]
    shares = [
        {"step": row["step"], "share": row[name], "of": title}
        for row in log
        for name, title in (
            ("live_groups", "live groups"),
            ("solved_once", "prompts solved at least once"),
            ("truncated", "completions that were cut"),
        )
    ]
    return [
        line_chart("Exact match on the selection split", share_rows(curve), "step", "exact match", "level"),
        line_chart("Mean reward of the sampled answers", rewards, "step", "mean reward", "level"),
        line_chart("Live groups", shares, "step", "share", "of"),
        line_chart(
            "Entropy of the answers' tokens", course(log, "entropy"), "step", "entropy", y_title="nats per token"
        ),
        line_chart("Length of the answers", course(log, "tokens", "completion_tokens"), "step", "tokens"),
    ]


def profile_table(before: Sequence[Group], after: Sequence[Group]) -> Block:
    """pass@k by level of the start and of the chosen weights."""
    profile = [{"model": "start", **row} for row in pass_profile(before)]
    profile += [{"model": "chosen", **row} for row in pass_profile(after)]
    note = "Sampled at the training temperature; unbiased estimate. Live groups predict whether training can move."
    return table(PROFILE_TITLE, list(profile[0]), profile, note)


def course(log: Sequence[Row], title: str, name: str = "") -> list[Row]:
    """A figure of the log as chart rows."""
    return [{"step": row["step"], title: row[name or title]} for row in log]


def summary(metrics: Mapping[str, Any], completions: int, samples: int, told: str) -> str:
    """One paragraph by rule."""
    start, end = metrics["selection.exact_match.before"]["value"], metrics["selection.exact_match"]["value"]
    return (
        f"{told + ' ' if told else ''}{metrics['steps']} steps of {completions // samples} prompts x {samples} "
        "completions; the pass@k profile predicted "
        f"{metrics['live_groups.predicted']['value']:.0%} live groups, training saw {metrics['live_groups.mean']:.0%}. "
        f"Exact match on the selection split went from {start:.1%} to {end:.1%} "
        f"(step {metrics['chosen_step']}, the best scored one). Ended: {metrics['stopped']}. "
        f"Alarms: {metrics['alarms']}."
    )
