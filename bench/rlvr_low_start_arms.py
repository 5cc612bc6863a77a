"""The arms of bench/rlvr_low_start.py: chains of the library's stages from one start, each within the same budget of
sampled tokens, its profiles included.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bench.rlvr_low_start_world import MAX_TOKENS, Bench, Row
from pocketlm.pipeline.artifact import Artifact
from pocketlm.posttraining.rlvr.rlvr_settings import CurriculumSettings
from pocketlm.posttraining.rollouts.curriculum import REHEARSAL
from pocketlm.posttraining.rollouts.profile import pass_rates_of
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.stages.rejection_sampling import RejectionSamplingSettings, rejection_sampling
from pocketlm.stages.rlvr import RlvrSettings, rlvr
from pocketlm.stages.sample import SampleSettings, sample
from pocketlm.stages.sft import SftSettings, sft

COMPLETIONS = 384
"""Completions that a step samples, refills aside, where no other number is tried."""
SAMPLES = 4
"""Of a prompt, in the profile and in rejection sampling."""
EASY_FROM, REHEARSED = 0.5, 5
"""Pass rate above which a prompt has little left to teach; one in so many of these stays, so that none is forgotten."""
HOT, WARM = 2.0, 1.5
"""Temperatures of ours, of rejection sampling and of policy gradient: it looks for answers that the model hardly ever
gives. What is learned is verified, and all arms are scored at temperature 1."""
HARD_REPEATS = 64
"""Of ours: how often an answer to a problem that is hardly ever solved is learned, in rejection sampling. The few first
successes of a new kind are else lost among those of problems that have become easy."""
REJECTION_SHARE = 0.8
"""Of the budget, until which ours samples by rejection."""
REDRAWS = 200
"""Steps of policy gradient in a row that may find no live group. Each costs its tokens and changes nothing; in all arms
the next draw stands for the next step."""
GRPO: dict[str, Any] = {"advantage": "standardised", "normalisation": "sequence"}
"""The reference's form: advantages over the group's standard deviation, each completion divided by its length."""
OURS: dict[str, Any] = {"advantage": "mean", "normalisation": "constant"}


@dataclass
class Path:
    """What an arm has done so far: its newest model, the tokens it sampled, and the log of every stage."""

    model: Artifact
    sampled: int = 0
    optimized: int = 0
    stages: list[Row] = field(default_factory=list)

    def add(self, made: Artifact, **told: Any) -> Artifact:
        """Count a stage; a model becomes the newest."""
        self.sampled += made.metrics.get("sampled_tokens", 0)
        self.optimized += made.metrics.get("optimized_tokens", 0)
        self.stages.append({"stage": made.stage, "sampled_so_far": self.sampled, **told})
        if made.kind == "model":
            self.model = made
            self.stages[-1]["curve"] = [
                [row["step"], round(row["exact_match"], 4)] for row in made.read_jsonl("validation.jsonl")
            ]
        return made


Arm = Callable[[Bench, Path, float, int], None]
"""Takes the learning rate of its policy gradient and the completions of a step of it."""


def policy_gradient(
    bench: Bench,
    path: Path,
    rate: float,
    completions: int,
    samples: int = 4,
    problems: Artifact | None = None,
    form: Mapping[str, Any] = GRPO,
    temperature: float = 1.0,
    **settings: Any,
) -> None:
    """The stage `rlvr` with what is left of the budget."""
    problems = problems or bench.problems
    budget = max(1, bench.world.budget - path.sampled)
    groups = _affordable(problems, completions // samples)
    rows = groups * samples
    prompts = problems.read_jsonl("prompts.jsonl")
    # Role names and markers are 10 tokens; an answer and its end are as long as the longer operand and two more.
    length = 12 + sum(len(row["prompt"]) + max(len(str(n)) for n in row["operands"]) for row in prompts) / len(prompts)
    steps = max(2, math.ceil(1.2 * budget / (rows * length)))
    made = bench.run(
        rlvr,
        RlvrSettings(
            steps=steps,
            batch_rows=rows,
            learning_rate=rate,
            warmup_steps=min(5, steps - 1),
            rollouts=RolloutSettings(samples=samples, max_tokens=MAX_TOKENS, temperature=temperature),
            token_budget=budget,
            redraws=REDRAWS,
            minimum_live_groups=0.0,
            profile_prompts=1,
            **form,
            **settings,
        ),
        model=path.model,
        problems=problems,
    )
    log = made.read_jsonl("log.jsonl")
    path.add(made, ended=made.metrics["stopped"], groups=groups, live=_live_groups(log))


def on_target(bench: Bench, path: Path, rate: float, completions: int) -> None:
    """Plain GRPO on the target level alone, as in the reference."""
    only = _only(bench, lambda row: str(row["level"]) == bench.world.target)
    policy_gradient(bench, path, rate, completions, problems=only)


def filtered(bench: Bench, path: Path, rate: float, completions: int) -> None:
    """Plain GRPO on the prompts that a profile of the start finds not easy."""
    policy_gradient(bench, path, rate, completions, problems=not_easy(bench, path))


def rejection_only(bench: Bench, path: Path, rate: float, completions: int) -> None:
    """Rounds of rejection sampling from the pool, without policy gradient."""
    rounds_of_rejection(bench, path, bench.problems, 1.0)


def ours(bench: Bench, path: Path, rate: float, completions: int, hard_repeats: int = HARD_REPEATS) -> None:
    """Profile, rejection sampling on what is not easy, then policy gradient there, level after level, with refill."""
    hard = not_easy(bench, path)
    rounds_of_rejection(bench, path, hard, REJECTION_SHARE, HOT, hard_repeats)
    policy_gradient(
        bench,
        path,
        rate,
        completions,
        samples=16,
        problems=hard,
        form=OURS,
        temperature=WARM,
        refill=4,
        curriculum=CurriculumSettings(over=0.5),
    )


def without_policy_gradient(bench: Bench, path: Path, rate: float, completions: int) -> None:
    """Ours, but the whole budget for rejection sampling."""
    rounds_of_rejection(bench, path, not_easy(bench, path), 1.0, HOT, HARD_REPEATS)


def gold(bench: Bench, path: Path, rate: float, completions: int, then_learn: bool = False) -> None:
    """SFT on solutions of the target level beside the start's own; then policy gradient on the pool, or nothing."""
    solved = [*bench.world.splits["solved"], *bench.world.splits["gold"]]
    given = bench.asked(bench.world.splits["prompts"], "gold", solved)
    path.add(bench.run(sft, SftSettings(**_sft(bench), max_tokens=MAX_TOKENS), model=path.model, problems=given))
    if then_learn:
        policy_gradient(bench, path, rate, completions, samples=16, form=OURS)


ARMS: dict[str, Arm] = {
    "target_grpo": on_target,
    "pool_grpo": policy_gradient,
    "ours": ours,
    # Levers, each alone on top of `pool_grpo`.
    "large_groups": partial(policy_gradient, samples=16, form=OURS),
    "filter": filtered,
    "curriculum": partial(policy_gradient, curriculum=CurriculumSettings(over=0.5)),
    "refill": partial(policy_gradient, refill=4),
    "rejection": rejection_only,
    "temperature": partial(policy_gradient, temperature=WARM),
    # All of them together but for policy gradient.
    "without_policy_gradient": without_policy_gradient,
    "without_hard_repeats": partial(ours, hard_repeats=1),
    # Apart: with gold solutions of the target level.
    "gold_sft": gold,
    "gold_then_rl": partial(gold, then_learn=True),
}


def not_easy(bench: Bench, path: Path) -> Artifact:
    """What the start does not find easy of the pool; of what it does, one in `REHEARSED`.

    The profile has some prompts of each level; the others count as easy as their level is on the mean.
    """
    settings = SampleSettings(
        rollouts=RolloutSettings(samples=SAMPLES, max_tokens=MAX_TOKENS),
        prompts_per_level=bench.world.profiled,
        group_size=SAMPLES,
    )
    rates = pass_rates_of(path.add(bench.run(sample, settings, model=path.model, problems=bench.problems)))
    prompts = bench.problems.read_jsonl("prompts.jsonl")
    levels: dict[Any, list[float]] = defaultdict(list)
    for row in prompts:
        if row["id"] in rates:
            levels[row["level"]].append(rates[row["id"]])
    means = {level: sum(values) / len(values) for level, values in levels.items()}
    easy = [row["id"] for row in prompts if rates.get(row["id"], means[row["level"]]) > EASY_FROM]
    left_out = set(easy) - set(easy[::REHEARSED])
    return _only(bench, lambda row: row["id"] not in left_out)


def rounds_of_rejection(
    bench: Bench, path: Path, problems: Artifact, until: float, temperature: float = 1.0, hard_repeats: int = 1
) -> None:
    """Each round samples from the newest model and learns all that was accepted so far, until this share of the budget
    is spent."""
    settings = RejectionSamplingSettings(
        **_sft(bench),
        rollouts=RolloutSettings(samples=SAMPLES, max_tokens=MAX_TOKENS, temperature=temperature),
        prompts=_affordable(problems, COMPLETIONS // SAMPLES),
        token_budget=max(1, round(until * bench.world.budget) - path.sampled),
        rounds=bench.world.rounds,
        hard_repeats=hard_repeats,
        solved=False,
    )
    path.add(bench.run(rejection_sampling, settings, model=path.model, problems=problems))


def _sft(bench: Bench) -> dict[str, Any]:
    steps = bench.world.sft_steps
    return {
        "steps": steps,
        "batch_rows": 64,
        "learning_rate": 3e-3,
        "schedule": "wsd",
        "warmup_steps": min(10, steps - 1),
        "validate_every": min(25, steps),
    }


def _live_groups(log: Sequence[Row]) -> list[list[float]]:
    """[sampled tokens so far, share of live groups] over ten stretches of the steps."""
    stretches: list[list[float]] = []
    spent = 0.0
    for place in range(10):
        rows = log[len(log) * place // 10 : len(log) * (place + 1) // 10]
        if rows:
            spent += sum(row["sampled_tokens"] for row in rows)
            stretches.append([round(spent), round(sum(row["live_groups"] for row in rows) / len(rows), 4)])
    return stretches


def _only(bench: Bench, wanted: Callable[[Row], bool]) -> Artifact:
    return bench.asked([row for row in bench.problems.read_jsonl("prompts.jsonl") if wanted(row)], "some")


def _affordable(problems: Artifact, wanted: int) -> int:
    """The most prompts of a step, `wanted` or fewer, that leave no level rehearsed too often."""
    levels: dict[Any, int] = defaultdict(int)
    for row in problems.read_jsonl("prompts.jsonl"):
        levels[row["level"]] += 1
    return max(1, min(wanted, sum(max(1, size // REHEARSAL) for size in levels.values())))
