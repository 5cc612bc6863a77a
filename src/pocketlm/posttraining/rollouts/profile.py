"""Profiles: many samples of every prompt from one model, and what was found on each prompt.

parts = sampled_in_parts(model, sampler, prompts, seed, context)      # the stage `sample`
pass_rates = pass_rates_of(artifact)                                  # those that learn from it
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.seeds import derive_seed
from pocketlm.pipeline.storage import write_bytes_atomic
from pocketlm.posttraining.rollouts.files import group_row
from pocketlm.posttraining.rollouts.profile_estimates import Mean, mean_over_levels
from pocketlm.posttraining.rollouts.sampler import Group, Sampler, sequence_tokens
from pocketlm.statistics.pass_at import pass_at
from pocketlm.training.validation import Validation

if TYPE_CHECKING:
    from pathlib import Path

    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.posttraining.examples import Prompt

PROMPTS_TOGETHER = 64
"""Prompts of a part: what is sampled together, kept together, and at most lost by a kill."""
PROFILE = "profile.jsonl"


@dataclass(frozen=True)
class Part:
    """A part of the samples on disk: one JSON row a prompt, gzipped, and the tokens of its sequences."""

    rows: Path
    sampled_tokens: int


def sampled_in_parts(
    model: Transformer, sampler: Sampler, prompts: Sequence[Prompt], seed: int, context: Context
) -> list[Part]:
    """Sample all prompts, part after part, into the stage's scratch space. Parts that are there are not sampled again:
    a run that was killed loses one part. Raises Interrupted between parts when a stop was requested."""
    parts, done = [], 0
    for number, start in enumerate(range(0, len(prompts), PROMPTS_TOGETHER)):
        rows, count = context.work / f"samples-{number:06d}.jsonl.gz", context.work / f"samples-{number:06d}.json"
        if not count.exists():
            context.check_stop()
            together = prompts[start : start + PROMPTS_TOGETHER]
            groups = sampler.sample(model, together, derive_seed(seed, "part", number))
            lines = "".join(json.dumps(group_row(group, sampler), allow_nan=False) + "\n" for group in groups)
            write_bytes_atomic(rows, gzip.compress(lines.encode(), mtime=0))
            write_bytes_atomic(count, json.dumps(sequence_tokens(groups, sampler)).encode())
        parts.append(Part(rows, json.loads(count.read_bytes())))
        done += parts[-1].sampled_tokens
        context.progress(min(start + PROMPTS_TOGETHER, len(prompts)), len(prompts), unit="prompt", tokens=done)
    return parts


def rows_of(parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    """The rows of all parts, one at a time."""
    for part in parts:
        with gzip.open(part.rows, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


@dataclass(frozen=True)
class PromptProfile:
    """What a model's samples of one prompt were worth.

    Attributes:
        identity, level: of the problem.
        samples: completions whose verifier gave a verdict; what was masked counts as wrong here.
        correct: of these, the right ones.
        rewards: of the completions that were not left out.
        failures: completions whose verifier failed.
        truncated: completions that were cut.
    """

    identity: str
    level: str
    samples: int
    correct: int
    rewards: tuple[float, ...]
    failures: int
    truncated: int

    @property
    def pass_rate(self) -> float | None:
        """Share of right completions; None when no verdict was given."""
        return self.correct / self.samples if self.samples else None

    @classmethod
    def of_group(cls, group: Group) -> PromptProfile:
        """From a group as it was sampled."""
        return cls(
            identity=str(group.prompt.row["id"]),
            level=group.prompt.level,
            samples=group.judged,
            correct=sum(group.correct),
            rewards=tuple(group.scored),
            failures=len(group.faults),
            truncated=sum(completion.finish == "length" for completion in group.completions),
        )

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> PromptProfile:
        """From a row of `samples.jsonl`."""
        completions, failures = row["completions"], len(row["faults"])
        return cls(
            identity=str(row["row"]["id"]),
            level=str(row["row"]["level"]),
            samples=len(completions) - failures,
            correct=sum(one["correct"] for one in completions),
            rewards=tuple(one["reward"] for one in completions if one["reward"] is not None),
            failures=failures,
            truncated=sum(one["finish"] == "length" for one in completions),
        )

    def to_json(self) -> dict[str, Any]:
        """A row of `profile.jsonl`, rewards counted by value."""
        counted = [[value, count] for value, count in sorted(Counter(self.rewards).items())]
        return {
            "id": self.identity,
            "level": self.level,
            "samples": self.samples,
            "correct": self.correct,
            "rewards": counted,
            "failures": self.failures,
            "truncated": self.truncated,
        }


def pass_rates_of(samples: Artifact) -> dict[str, float]:
    """Pass rate by id of problem, of an artifact of the stage `sample`; prompts without any verdict are not in it."""
    return {str(row["id"]): row["correct"] / row["samples"] for row in samples.read_jsonl(PROFILE) if row["samples"]}


def pass_at_by_level(prompts: Sequence[PromptProfile], k: int) -> dict[str, list[float]]:
    """pass@k of every prompt that has k verdicts or more, by level."""
    levels: dict[str, list[float]] = {}
    for prompt in prompts:
        if prompt.samples >= k:
            levels.setdefault(prompt.level, []).append(pass_at(k, prompt.samples, prompt.correct))
    return levels


def mean_pass_at(prompts: Sequence[PromptProfile], k: int) -> Mean | None:
    """pass@k over the prompts that have k verdicts or more, levels weighing the same; None where no prompt has."""
    samples: Counter[str] = Counter()
    for prompt in prompts:
        if prompt.samples >= k:
            samples[prompt.level] += prompt.samples
    return mean_over_levels(pass_at_by_level(prompts, k), samples) if samples else None


def with_pass_at_k(validation: Validation, sampler: Sampler, prompts: Sequence[Prompt], seed: int) -> Validation:
    """The same validation, whose scores also say pass@1 and pass@k of samples of these held-out prompts.

    k is the group size; `pass@k.error` is the standard error over prompts. What training chooses by stays the same. The
    draws are those of the same seed each time, so that scores differ by the model alone. A completion whose verifier
    failed counts nowhere: a prompt is left out of pass@k when fewer than k have a verdict, and a figure where no prompt
    is left.
    """

    def score(model: Transformer) -> dict[str, float]:
        profiles = [PromptProfile.of_group(group) for group in sampler.sample(model, prompts, seed)]
        figures = validation.score(model)
        for name, k in (("pass@1", 1), ("pass@k", sampler.settings.samples)):
            if mean := mean_pass_at(profiles, k):
                figures |= {name: mean.value, f"{name}.error": mean.error}
        return figures

    return replace(validation, score=score)
