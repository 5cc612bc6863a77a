"""Rollouts: the batch source of the policy gradient, and the plain sampling that pass@k and rejection sampling use.

The batch of a step is a function of (prompts, settings, seed, step, weights). Nothing is carried from step to step, so
a run that was killed continues exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pocketlm.errors import InputError
from pocketlm.generation.engine import Completion, Engine, Request
from pocketlm.pipeline.seeds import derive_seed, generator
from pocketlm.posttraining.examples import Prompt, Row
from pocketlm.posttraining.packing import Branch, Tree, group_tree, pack
from pocketlm.posttraining.policy_gradient import advantages
from pocketlm.posttraining.settings import AdvantageForm, RolloutSettings
from pocketlm.training.batches import Batch

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

Reward = Callable[[Row, str], bool]
"""(problem row, completion text) -> whether the answer is exactly right."""

REHEARSAL = 8
"""Steps that go by, on average, before a level's prompts come round again, at least."""

REDRAWS = 8
"""Times that a step draws other prompts when every one of its groups is dead."""


class NoLiveGroups(Exception):
    """Every group of a step, redrawn `REDRAWS` times, was dead: all completions right, or all wrong. Training ends."""

    def __init__(self, step: int, groups: int, mean_reward: float) -> None:
        super().__init__(
            f"step {step}: all {groups} groups were dead after {REDRAWS} redraws (mean reward {mean_reward:.3f}): "
            "the completions of each prompt were all right or all wrong, which teaches nothing"
        )
        self.step = step
        self.mean_reward = mean_reward


@dataclass(frozen=True)
class Group:
    """A prompt, its completions, and 1.0 or 0.0 for each."""

    prompt: Prompt
    completions: list[Completion]
    rewards: list[float]

    @property
    def live(self) -> bool:
        """Some completions are right and some wrong: only such a group has advantages other than zero."""
        return 0 < sum(self.rewards) < len(self.rewards)


class Sampler:
    """Samples groups from a model and scores them. A completion earns 1 when its whole text is the right answer *and*
    the model ended it with <|im_end|>; otherwise 0."""

    def __init__(self, tokenizer: Tokenizer, reward: Reward, settings: RolloutSettings) -> None:
        self._tokenizer = tokenizer
        self._reward = reward
        self._settings = settings
        self.temperature = settings.temperature
        self._engine: Engine | None = None
        self._model: Transformer | None = None

    def sample(self, model: Transformer, prompts: Sequence[Prompt], seed: int) -> list[Group]:
        """One group a prompt, in order; the same model, prompts and seed give the same groups."""
        if self._engine is None or self._model is not model:
            self._engine, self._model = Engine(model, slots=self._settings.slots), model
        requests = [
            Request(
                tokens=prompt.tokens,
                max_tokens=self._settings.max_tokens,
                temperature=self._settings.temperature,
                seed=derive_seed(seed, "completions", index),
                samples=self._settings.samples,
                stop_tokens=(self._tokenizer.im_end,),
            )
            for index, prompt in enumerate(prompts)
        ]
        sampled = self._engine.generate(requests)
        return [
            Group(prompt, completions, [self._score(prompt, completion) for completion in completions])
            for prompt, completions in zip(prompts, sampled, strict=True)
        ]

    def branch(self, completion: Completion, advantage: float = 0.0) -> Branch:
        """The tokens that were sampled, the closing <|im_end|> with them when the model wrote it."""
        stop = [self._tokenizer.im_end] if completion.finish == "stop" else []
        return Branch([*completion.tokens, *stop], completion.log_probabilities, advantage)

    def text(self, completion: Completion) -> str:
        """The completion as text."""
        return self._tokenizer.decode(completion.tokens)

    def _score(self, prompt: Prompt, completion: Completion) -> float:
        return float(completion.finish == "stop" and self._reward(prompt.row, self.text(completion)))


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


def level_shares(pools: Mapping[str, int], count: int) -> dict[str, int]:
    """Prompts of each level in a step: equal shares, but of no level more than 1 / `REHEARSAL` of its pool.

    A small pool that came round every other step would be learned by heart instead of teaching anything; what such a
    level leaves goes to the others. Raises InputError when the pools are too small for `count` prompts.
    """
    shares: dict[str, int] = {}
    left = count
    for place, level in enumerate(sorted(pools, key=lambda level: pools[level])):
        equal = -(-left // (len(pools) - place))
        shares[level] = min(equal, max(1, pools[level] // REHEARSAL))
        left -= shares[level]
    if left > 0:
        raise InputError(
            f"a step takes {count} prompts, but there are only {sum(pools.values())} RL prompts and a step may take "
            f"one in {REHEARSAL} of each level; lower batch_rows or leave more pairs to the prompts"
        )
    return {level: shares[level] for level in pools}


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


class RolloutBatches:
    """On-policy batches: draw prompts of every level, sample groups, drop the dead, pack the live.

    The figures of a step travel in `extra` as scalars. The tokens that the log counts are those of live groups, each
    sequence with its own prompt.

    Args:
        prompts: the pool to draw from.
        count: prompts a step.
    """

    samples_from_model = True

    def __init__(self, sampler: Sampler, prompts: Sequence[Prompt], count: int, form: AdvantageForm, seed: int) -> None:
        self._sampler = sampler
        self._levels = by_level(prompts)
        self._shares = level_shares({level: len(pool) for level, pool in self._levels.items()}, count)
        self._form: AdvantageForm = form
        self._seed = seed

    def draw(self, step: int, attempt: int = 0) -> list[Prompt]:
        """The prompts of a step, of every level its share (`level_shares`), none twice."""
        chosen: list[Prompt] = []
        for number, (level, wanted) in enumerate(self._shares.items()):
            pool = self._levels[level]
            random = generator(self._seed, "rollout prompts", step, attempt, number)
            chosen.extend(pool[index] for index in random.permutation(len(pool))[:wanted])
        return chosen

    def batch(self, step: int, model: Transformer) -> Batch:
        """Sample with the current weights. Raises NoLiveGroups when there is nothing to learn from."""
        sampled_tokens = 0
        for attempt in range(REDRAWS + 1):
            seed = derive_seed(self._seed, "rollouts", step, attempt)
            groups = self._sampler.sample(model, self.draw(step, attempt), seed)
            sampled_tokens += sequence_tokens(groups, self._sampler)
            live = [group for group in groups if group.live]
            if live:
                break
        else:
            raise NoLiveGroups(step, len(groups), _mean([reward for group in groups for reward in group.rewards]))
        trees = [self._tree(group) for group in live]
        rows = pack(trees, max(len(tree) for tree in trees))
        figures = {
            **group_figures(groups),
            "sampled_tokens": sampled_tokens,
            "packed_tokens": rows.tokens_BT.numel(),
        }
        scalars = {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}
        extra = {"advantages_BT": rows.advantages_BT, "behaviour_BT": rows.behaviour_BT, **scalars}
        tokens = sequence_tokens(live, self._sampler)
        return Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra, token_count=tokens)

    def _tree(self, group: Group) -> Tree:
        values = advantages(group.rewards, self._form)
        branches = map(self._sampler.branch, group.completions, values)
        return group_tree(group.prompt.tokens, list(branches))


def group_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Mean reward (all and by level), share of live groups, share of prompts solved at least once, mean length."""
    lengths = [len(completion.log_probabilities) for group in groups for completion in group.completions]
    levels: dict[str, list[float]] = {}
    for group in groups:
        levels.setdefault(group.prompt.level, []).extend(group.rewards)
    return {
        "reward": _mean([_mean(rewards) for rewards in levels.values()]),
        **{f"reward.level_{level}": _mean(rewards) for level, rewards in levels.items()},
        "live_groups": live_share(groups),
        "solved_once": _mean([float(sum(group.rewards) > 0) for group in groups]),
        "completion_tokens": _mean([float(length) for length in lengths]),
    }


def pass_at(k: int, samples: int, correct: int) -> float:
    """Unbiased pass@k of one problem from `correct` of `samples` (arXiv 2107.03374, equation 1); k <= samples."""
    chance_of_none = 1.0
    for place in range(k):
        chance_of_none *= max(samples - correct - place, 0) / (samples - place)
    return 1.0 - chance_of_none


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
