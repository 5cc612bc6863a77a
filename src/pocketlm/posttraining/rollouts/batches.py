"""The batch source of the policy gradient: sample groups, drop the dead, draw others for them, pack the live.

The rollouts of a step are a function of (prompts, settings, seed, step, weights). Where a batch serves several updates
the weights have moved on, so its rollouts are kept in the stage's scratch space, for as long as a checkpoint could go
back to them: a run that was killed continues exactly.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pocketlm.pipeline.seeds import derive_seed
from pocketlm.pipeline.storage import write_bytes_atomic
from pocketlm.posttraining.log_probabilities import target_log_probabilities
from pocketlm.posttraining.packing import Branch, Tree, group_tree, pack
from pocketlm.posttraining.rlvr.policy_gradient import advantages
from pocketlm.posttraining.rollouts.curriculum import Draws
from pocketlm.posttraining.rollouts.files import group_of, group_row
from pocketlm.posttraining.rollouts.sampler import Group, Sampler, group_figures, sequence_tokens
from pocketlm.training.batches import Batch, BatchesEnded
from pocketlm.training.checkpoint import oldest_step

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.posttraining.settings import PolicyGradientSettings

PATTERN = "rollouts-{}.json.gz"


class NoLiveGroups(BatchesEnded):
    """Every group of a step, redrawn, was dead: the completions of each prompt earned the same."""

    def __init__(self, step: int, groups: int, redraws: int, mean_reward: float) -> None:
        super().__init__(
            f"step {step}: all {groups} groups were dead after {redraws} redraws (mean reward {mean_reward:.3f}): "
            "the completions of each prompt all earned the same, which teaches nothing"
        )


class RolloutBatches:
    """On-policy batches; with `updates_per_batch` each serves so many steps.

    The figures of a step travel in `extra` as scalars. The tokens that the log counts are those of live groups, each
    sequence with its own prompt.

    Args:
        draws: which prompts a step takes.
        settings: advantages, and how often a batch is used.
        work: the stage's scratch space, for the rollouts of a batch that is used again.
        steps: of the whole run.
        redraws: further draws of a step, at most, while every one of its groups is dead.
        refill: further draws of a step, at most, until it has as many live groups as it draws prompts (DAPO's dynamic
            sampling, arXiv 2503.14476).
        reference: gives `reference_BT`, the log-probabilities of the frozen start, for a KL penalty.
        rows: that it takes in one forward pass; None: all.

    Attributes:
        unused_tokens: sampled in a step that found no live group, of which nothing was learned.
    """

    samples_from_model = True

    def __init__(
        self,
        sampler: Sampler,
        draws: Draws,
        settings: PolicyGradientSettings,
        seed: int,
        work: Path,
        steps: int = 1,
        redraws: int = 0,
        refill: int = 0,
        reference: Transformer | None = None,
        rows: int | None = None,
    ) -> None:
        self._sampler, self._draws, self._settings, self._seed = sampler, draws, settings, seed
        self._work = work
        self._steps, self._redraws, self._refill = steps, redraws, refill
        self._reference, self._rows = reference, rows
        self.unused_tokens = 0

    def batch(self, step: int, model: Transformer) -> Batch:
        """Sample with the current weights, or take up the samples of an earlier step.

        Raises NoLiveGroups when there is nothing to learn from.
        """
        first = step - step % self._settings.updates_per_batch
        kept = None if step == first else self._read(first)
        if kept is None:  # after a spike a run may go on in the midst of a batch that it has not sampled
            live, figures = self._sample(step, model)
            if self._settings.updates_per_batch > 1:
                self._write(first, live, figures)
        else:
            live, figures = kept
            figures["sampled_tokens"] = 0  # counted when they were sampled
        return self._packed(live, figures)

    def _sample(self, step: int, model: Transformer) -> tuple[list[Group], dict[str, float]]:
        asked: list[Group] = []
        live: list[Group] = []
        for attempt in range(max(self._refill, self._redraws) + 1):
            seed = derive_seed(self._seed, "rollouts", step, attempt)
            prompts = self._draws.draw(step, attempt)
            asked += self._sampler.sample(model, prompts, seed, step / self._steps)
            live = [group for group in asked if group.live]
            if len(live) >= self._draws.count or (live and attempt >= self._refill):
                break
        else:
            rewards = [reward for group in asked for reward in group.scored] or [0.0]
            self.unused_tokens = sequence_tokens(asked, self._sampler)
            raise NoLiveGroups(step, self._draws.count, attempt, sum(rewards) / len(rewards))
        figures = {**group_figures(asked), "sampled_tokens": sequence_tokens(asked, self._sampler)}
        return live[: self._draws.count], figures

    def _packed(self, live: list[Group], figures: dict[str, float]) -> Batch:
        trees = [self._tree(group) for group in live]
        rows = pack(trees, max(len(tree) for tree in trees))
        figures = {**figures, "packed_tokens": rows.tokens_BT.numel()}
        scalars = {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}
        extra = {
            "advantages_BT": rows.advantages_BT,
            "behaviour_BT": rows.behaviour_BT,
            "lengths_BT": rows.lengths_BT,
            **scalars,
        }
        tokens = sequence_tokens(live, self._sampler)
        batch = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra, token_count=tokens)
        if self._reference is not None:
            temperature = self._sampler.settings.temperature
            extra["reference_BT"] = target_log_probabilities(self._reference, batch, temperature, self._rows)
        return batch

    def _tree(self, group: Group) -> Tree:
        scored = [one for one, reward in zip(group.completions, group.rewards, strict=True) if reward is not None]
        values = advantages(group.scored, self._settings.advantage)
        branches: Callable[..., Branch] = self._sampler.branch
        return group_tree(group.prompt.tokens, [branches(*pair) for pair in zip(scored, values, strict=True)])

    def _write(self, first: int, live: list[Group], figures: dict[str, float]) -> None:
        kept = {"live": [group_row(group, self._sampler) for group in live], "figures": figures}
        write_bytes_atomic(self._file(first), gzip.compress(json.dumps(kept, allow_nan=False).encode(), mtime=0))
        needed = oldest_step(self._work)
        for path in self._work.glob(PATTERN.format("*")):
            if int(path.name.split("-")[1].split(".")[0]) + self._settings.updates_per_batch <= needed:
                path.unlink()

    def _read(self, first: int) -> tuple[list[Group], dict[str, Any]] | None:
        """The rollouts of the batch that began at step `first`, if they are there."""
        if not self._file(first).exists():
            return None
        kept = json.loads(gzip.decompress(self._file(first).read_bytes()))
        return [group_of(row) for row in kept["live"]], kept["figures"]

    def _file(self, first: int) -> Path:
        return self._work / PATTERN.format(f"{first:08d}")
