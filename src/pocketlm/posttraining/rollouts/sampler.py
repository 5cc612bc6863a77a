"""Rollouts: groups of completions, sampled from a model and scored. What to sample is `curriculum.py`'s to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.generation.engine import Engine
from pocketlm.generation.requests import Completion, Request
from pocketlm.generation.shadow import Shadow
from pocketlm.pipeline.seeds import derive_seed
from pocketlm.posttraining.examples import Prompt
from pocketlm.posttraining.packing import Branch
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.calculator_tool import tool_named

if TYPE_CHECKING:
    import torch

    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.problems.rewards import Scorer

FEWEST_FAILURES = 8
"""Failures of a verifier that are borne in one call whatever their share: a few say nothing of the rest."""


@dataclass(frozen=True)
class Group:
    """A prompt and its completions.

    Attributes:
        rewards: of each completion; None where it is left out: its verifier failed, or it was cut and is masked.
        correct: whether each is right, whatever it earned: this is what pass@k counts.
        faults: of the verifiers that failed.
    """

    prompt: Prompt
    completions: list[Completion]
    rewards: list[float | None]
    correct: list[bool]
    faults: tuple[str, ...] = ()

    @property
    def scored(self) -> list[float]:
        """The rewards of the completions that are not left out."""
        return [reward for reward in self.rewards if reward is not None]

    @property
    def judged(self) -> int:
        """Completions whose verifier gave a verdict; what was masked counts as wrong here."""
        return len(self.completions) - len(self.faults)

    @property
    def live(self) -> bool:
        """Some completions earned more than others: only such a group has advantages other than zero."""
        return len(set(self.scored)) > 1


class Sampler:
    """Samples groups from a model and scores them.

    A completion that the model did not end with <|im_end|> is not right, and earns no more than 0 or is left out
    (`settings.over_long`).

    Args:
        compute: type that is sampled in, from a copy of the weights that follows every update; None: the model's own.
    """

    def __init__(
        self, tokenizer: Tokenizer, scorer: Scorer, settings: RolloutSettings, compute: torch.dtype | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._scorer = scorer
        self.settings = settings
        self.tool = tool_named(settings.tool, tokenizer)
        self._compute = compute
        self._engine: Engine | None = None
        self._shadow: Shadow | None = None
        self._model: Transformer | None = None

    def sample(self, model: Transformer, prompts: Sequence[Prompt], seed: int, progress: float = 1.0) -> list[Group]:
        """One group a prompt, in order; the same model, prompts, seed and progress give the same groups.

        Args:
            progress: share of the steps that are over, for rewards that change with it.

        Raises:
            InputError: the verifier failed on more completions than `settings.verifier_failures` allows. It is told as
                soon as it is certain: a reward that hangs costs its time limit with each completion.
        """
        if self._engine is None or self._shadow is None or self._model is not model:
            self._model, self._shadow = model, Shadow(model, self._compute)
            self._engine = Engine(self._shadow.model, slots=self.settings.slots)
        self._shadow.refresh()
        requests = [
            Request(
                tokens=prompt.tokens,
                max_tokens=self.settings.max_tokens,
                temperature=self.settings.temperature,
                seed=derive_seed(seed, "completions", index),
                samples=self.settings.samples,
                stop_tokens=(self._tokenizer.turn_end,),
                tool=self.tool,
            )
            for index, prompt in enumerate(prompts)
        ]
        with self._shadow.products():
            sampled = self._engine.generate(requests)
        total, groups = sum(map(len, sampled)), []
        faults: Counter[str] = Counter()
        for prompt, completions in zip(prompts, sampled, strict=True):
            groups.append(self._scored(prompt, completions, progress, faults, total))
        return groups

    def branch(self, completion: Completion, advantage: float = 0.0) -> Branch:
        """The tokens of a completion, the closing <|im_end|> with them when the model wrote it; those that a tool put
        in are not learned."""
        stop = [self._tokenizer.turn_end] if completion.finish == "stop" else []
        learned = [not forced for forced in completion.forced] if any(completion.forced) else None
        return Branch([*completion.tokens, *stop], completion.log_probabilities, advantage, learned)

    def text(self, completion: Completion) -> str:
        """The completion as text."""
        return self._tokenizer.decode(completion.tokens)

    def _scored(
        self, prompt: Prompt, completions: list[Completion], progress: float, known: Counter[str], total: int
    ) -> Group:
        """The group; its faults join those `known` of a call with `total` completions."""
        rewards: list[float | None] = []
        correct: list[bool] = []
        faults: list[str] = []
        for completion in completions:
            ended = completion.finish == "stop"
            if not ended and self.settings.over_long == "masked":
                rewards.append(None)
                correct.append(False)
                continue
            scored = self._scorer.score(prompt.row, self.text(completion), progress)
            if scored.value is None:
                faults.append(scored.fault)
                known[scored.fault] += 1
                self._refuse_failures(known, total)
            rewards.append(scored.value if ended or scored.value is None else min(0.0, scored.value))
            correct.append(ended and scored.correct)
        return Group(prompt, completions, rewards, correct, tuple(faults))

    def _refuse_failures(self, faults: Counter[str], total: int) -> None:
        if faults.total() > max(self.settings.verifier_failures * total, FEWEST_FAILURES):
            named = "; ".join(f"{count} x {fault}" for fault, count in faults.most_common(3))
            raise InputError(
                f"the verifier has failed on {faults.total()} of {total} completions ({named}); the rest is not "
                "scored. Mend the reward, or raise rollouts.verifier_failures "
                f"({self.settings.verifier_failures:g}) to learn from the others"
            )


def by_level(prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """Prompts by level, levels in order of first appearance."""
    levels: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        levels.setdefault(prompt.level, []).append(prompt)
    return levels


def spread(prompts: Sequence[Prompt], each: int) -> list[Prompt]:
    """At most `each` prompts of every level, evenly spaced over the level's rows."""
    chosen: list[Prompt] = []
    for pool in by_level(prompts).values():
        count = min(each, len(pool))
        chosen.extend(pool[index * len(pool) // count] for index in range(count))
    return chosen


def live_share(groups: Sequence[Group]) -> float:
    """Share of the groups that have something to teach: what a training step would start with."""
    return _mean([float(group.live) for group in groups])


def sequence_tokens(groups: Sequence[Group], sampler: Sampler) -> int:
    """Tokens of all sequences, each counted with its own prompt although the prompt is stored once.

    This is the project's unit for "the same number of tokens": what an optimizer would process without packing.
    """
    return sum(
        len(group.prompt.tokens) + len(sampler.branch(completion).tokens)
        for group in groups
        for completion in group.completions
    )


def group_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Mean reward (all and by level), share right, live groups, prompts solved at least once, mean length, and the
    shares of completions that were cut and whose verifier failed. Levels weigh the same; a completion without a
    verdict counts in neither reward nor share right."""
    completions = [completion for group in groups for completion in group.completions]
    rewards: dict[str, list[float]] = {}
    right: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for group in groups:
        rewards.setdefault(group.prompt.level, []).extend(group.scored)
        right[group.prompt.level] += sum(group.correct)
        judged[group.prompt.level] += group.judged
    means = {level: _mean(values) for level, values in rewards.items() if values}
    return {
        "reward": _mean(list(means.values())) if means else 0.0,
        **{f"reward.level_{level}": mean for level, mean in means.items()},
        "correct": _mean([right[level] / count for level, count in judged.items() if count] or [0.0]),
        "live_groups": live_share(groups),
        "solved_once": _mean([float(any(group.correct)) for group in groups]),
        "completion_tokens": _mean([float(len(completion.log_probabilities)) for completion in completions]),
        "truncated": _mean([float(completion.finish == "length") for completion in completions]),
        "verifier_failures": sum(len(group.faults) for group in groups) / len(completions),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
