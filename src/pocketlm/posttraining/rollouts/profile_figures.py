"""What the stage `sample` reports: pass@k and live groups by level and group size, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pocketlm.errors import InputError
from pocketlm.pipeline.figures import Block, Figure, bar_chart, figure, paragraph, table
from pocketlm.posttraining.rollouts.profile import PromptProfile, mean_pass_at, pass_at_by_level
from pocketlm.posttraining.rollouts.profile_estimates import (
    Mean,
    Verdict,
    live_shares,
    suggested_size,
    verdict,
)

RATE_BORDERS = (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)


@dataclass(frozen=True)
class Prospects:
    """What a profile predicts for policy gradients.

    Attributes:
        success: pass@1, levels weighing the same.
        live: group size -> share of live groups.
        size: the group size that the verdict is about; `suggested` is the smallest that has live groups enough.
    """

    success: Mean
    live: dict[int, Mean]
    size: int
    suggested: int
    verdict: Verdict


def prospects_of(
    profiles: Sequence[PromptProfile], size: int | None, minimum_live_groups: float, minimum_success: float
) -> Prospects:
    """Judge a profile; `size`: the group size that will be trained with, None for the suggested one.

    Raises InputError when no prompt has enough verdicts, or none for groups of that size.
    """
    rewards: dict[str, list[tuple[float, ...]]] = {}
    for profile in profiles:
        rewards.setdefault(profile.level, []).append(profile.rewards)
    live, success = live_shares(rewards), mean_pass_at(profiles, 1)
    if success is None or not live:
        raise InputError(
            f"the samples of {len(profiles)} prompts say nothing: hardly a completion has a reward (verifiers failed "
            f"on {sum(profile.failures for profile in profiles)}, {sum(profile.truncated for profile in profiles)} "
            "were cut); mend the reward or raise rollouts.max_tokens"
        )
    suggested = suggested_size(live, minimum_live_groups)
    chosen = size or suggested
    if chosen not in live:
        raise InputError(
            f"group_size is {chosen}; a profile predicts {', '.join(map(str, live))} from its samples. Take one of "
            "these, or raise rollouts.samples"
        )
    judged = verdict(success.value, live[chosen].value, chosen, minimum_live_groups, minimum_success)
    return Prospects(success, live, chosen, suggested, judged)


def sample_metrics(profiles: Sequence[PromptProfile], prospects: Prospects, sampled_tokens: int) -> dict[str, Any]:
    """Counts, pass@k (levels weigh the same; pass@1 also by level), predictions and the verdict."""
    levels = list(pass_at_by_level(profiles, 1))
    by_level = {level: mean_pass_at([one for one in profiles if one.level == level], 1) for level in levels}
    return {
        "prompts": len(profiles),
        "completions": sum(profile.samples + profile.failures for profile in profiles),
        "sampled_tokens": sampled_tokens,
        "verifier_failures": sum(profile.failures for profile in profiles),
        "truncated": sum(profile.truncated for profile in profiles),
        **{f"pass@{k}": _figure(mean) for k in ks(profiles) if (mean := mean_pass_at(profiles, k))},
        **{f"pass@1.level_{level}": _figure(mean) for level, mean in by_level.items() if mean},
        **{f"live_groups.predicted.{size}": _figure(share) for size, share in prospects.live.items()},
        "group_size": prospects.size,
        "group_size.suggested": prospects.suggested,
        "verdict": "go" if prospects.verdict.go else "stop",
        "verdict.reason": prospects.verdict.reason,
    }


def sample_blocks(profiles: Sequence[PromptProfile], prospects: Prospects) -> list[Block]:
    """The verdict, pass@k by level, live groups by size, and how pass rates are distributed."""
    levels: dict[str, list[PromptProfile]] = {}
    for profile in profiles:
        levels.setdefault(profile.level, []).append(profile)
    by_level = [
        {
            "level": level,
            "prompts": len(members),
            **{f"pass@{k}": _mean(pass_at_by_level(members, k).get(level, [])) for k in ks(profiles)},
            f"live groups of {prospects.size}": _share(
                live_shares({level: [one.rewards for one in members]}), prospects
            ),
        }
        for level, members in levels.items()
    ]
    sizes = [
        {"group size": size, "live groups": share.value, "from": share.low, "to": share.high}
        for size, share in prospects.live.items()
    ]
    return [
        paragraph(f"{prospects.verdict}. Suggested group size: {prospects.suggested}."),
        table("pass@k by level", list(by_level[0]), by_level, "Unbiased estimates."),
        table("Predicted share of live groups", list(sizes[0]), sizes, "Unbiased; 95 % interval over prompts."),
        bar_chart("Pass rates of the prompts", rate_rows(levels), "pass rate", "prompts", "level"),
    ]


def ks(profiles: Sequence[PromptProfile]) -> list[int]:
    """1, 2, 4, ... as far as every level has a prompt with so many verdicts."""
    levels, k, sizes = {profile.level for profile in profiles}, 1, []
    while levels and pass_at_by_level(profiles, k).keys() == levels:
        sizes.append(k)
        k *= 2
    return sizes


def rate_rows(levels: dict[str, list[PromptProfile]]) -> list[dict[str, Any]]:
    """Prompts by level and pass rate: none right, all right, and ranges in between (upper end included)."""
    rows = []
    inner = list(pairwise(RATE_BORDERS))
    for level, members in levels.items():
        rates = [rate for one in members if (rate := one.pass_rate) is not None]
        rows.append({"level": level, "pass rate": "0", "prompts": sum(rate == 0 for rate in rates)})
        for low, high in inner:
            count = sum(low < rate <= high and rate < 1 for rate in rates)
            rows.append({"level": level, "pass rate": f"to {high:.0%}", "prompts": count})
        rows.append({"level": level, "pass rate": "1", "prompts": sum(rate == 1 for rate in rates)})
    return rows


def _figure(mean: Mean) -> Figure:
    return figure(mean.value, n=mean.count, low=mean.low, high=mean.high)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(live: dict[int, Mean], prospects: Prospects) -> float | None:
    return live[prospects.size].value if prospects.size in live else None
