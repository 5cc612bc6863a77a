"""Rejection sampling: a frozen model's own completions, kept where the verifier accepts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketlm.pipeline.seeds import derive_seed
from pocketlm.posttraining.examples import Example
from pocketlm.posttraining.rollouts import Group, RolloutBatches, Sampler, sequence_tokens

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer


@dataclass
class Accepted:
    """What was kept and what it cost.

    Attributes:
        examples: distinct accepted sequences, in order of first appearance.
        sampled_tokens: tokens of all sampled sequences, each with its own prompt.
        asked, solved: distinct problems sampled, and those with at least one accepted completion.
    """

    examples: list[Example] = field(default_factory=list)
    sampled_tokens: int = 0
    completions: int = 0
    asked: set[str] = field(default_factory=set)
    solved: set[str] = field(default_factory=set)


def sample_accepted(
    model: Transformer,
    sampler: Sampler,
    batches: RolloutBatches,
    token_budget: int,
    seed: int,
    after_each: Callable[[Accepted], None],
) -> Accepted:
    """Sample the prompts that `batches` would draw, step after step, until `token_budget` tokens are sampled.

    `after_each` hears of the state after every draw: progress, and a place to stop.
    """
    accepted = Accepted()
    seen: set[tuple[int, ...]] = set()
    step = 0
    while accepted.sampled_tokens < token_budget:
        groups = sampler.sample(model, batches.draw(step), derive_seed(seed, "rejection sampling", step))
        for group in groups:
            _keep(group, sampler, accepted, seen)
        accepted.sampled_tokens += sequence_tokens(groups, sampler)
        accepted.completions += sum(len(group.completions) for group in groups)
        step += 1
        after_each(accepted)
    return accepted


def _keep(group: Group, sampler: Sampler, accepted: Accepted, seen: set[tuple[int, ...]]) -> None:
    identity = str(group.prompt.row["id"])
    accepted.asked.add(identity)
    for completion, reward in zip(group.completions, group.rewards, strict=True):
        if not reward:
            continue
        accepted.solved.add(identity)
        answer = sampler.branch(completion).tokens
        sequence = (*group.prompt.tokens, *answer)
        if sequence not in seen:
            seen.add(sequence)
            trained = [False] * len(group.prompt.tokens) + [True] * len(answer)
            accepted.examples.append(Example(list(sequence), trained))
