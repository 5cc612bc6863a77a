"""Rejection sampling and expert iteration: a model's own completions, kept where the verifier accepts them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pocketlm.errors import InputError
from pocketlm.pipeline.seeds import derive_seed
from pocketlm.pipeline.storage import write_bytes_atomic
from pocketlm.posttraining.examples import Example, solved_examples
from pocketlm.posttraining.rollouts.sampler import Group, Sampler, sequence_tokens
from pocketlm.posttraining.settings import token_budget
from pocketlm.posttraining.sft.example_store import Account
from pocketlm.posttraining.sft.sources import fitting

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.posttraining.packing import Branch
    from pocketlm.posttraining.rollouts.curriculum import Draws
    from pocketlm.posttraining.rollouts.inputs import RolloutInputs


@dataclass
class Tried:
    """Completions of one problem that the verifier judged, and those of them that were right."""

    completions: int = 0
    correct: int = 0

    def part_of(self, limit: int) -> int:
        """1 for a problem that is always right, `limit` for one that hardly ever is, between them by the share."""
        wrong = 1 - self.correct / self.completions
        return 1 + int((limit - 1) * wrong + 0.5)


@dataclass
class Accepted:
    """What was sampled so far, over all rounds, and what it cost.

    Attributes:
        step: draws that were made.
        sampled_tokens: tokens of all sampled sequences, each with its own prompt.
        failures: completions whose verifier failed.
        problems: by id.
        sequences: the distinct right ones in order of first appearance: id of the problem, tokens with the prompt, and
            which of them are learned.
    """

    step: int = 0
    sampled_tokens: int = 0
    completions: int = 0
    failures: int = 0
    problems: dict[str, Tried] = field(default_factory=dict)
    sequences: list[tuple[str, list[int], list[bool]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seen = {tuple(tokens) for _, tokens, _ in self.sequences}

    @property
    def solved(self) -> int:
        """Problems with at least one right completion."""
        return sum(problem.correct > 0 for problem in self.problems.values())

    def add(self, groups: Sequence[Group], sampler: Sampler) -> None:
        """Count groups and keep their right completions."""
        self.sampled_tokens += sequence_tokens(groups, sampler)
        for group in groups:
            identity = str(group.prompt.row["id"])
            problem = self.problems.setdefault(identity, Tried())
            problem.completions += group.judged
            problem.correct += sum(group.correct)
            self.completions += len(group.completions)
            self.failures += len(group.faults)
            for completion, right in zip(group.completions, group.correct, strict=True):
                if right:
                    self._keep(identity, group.prompt.tokens, sampler.branch(completion))

    def examples(self, keep_per_prompt: int | None = None, hard_repeats: int = 1) -> list[Example]:
        """The distinct right sequences in order of first appearance; of each problem `keep_per_prompt` at most, each
        `hard_repeats` times at most.

        Both are for what the model hardly ever solves: a problem keeps 1 + (limit - 1) x (share of its judged
        completions that were wrong), rounded, of its sequences, and repeats each as often. Without them the easy
        problems, of which there are many and in many forms, outweigh the hard ones.
        """
        kept: Counter[str] = Counter()
        examples = []
        for identity, tokens, learned in self.sequences:
            problem = self.problems[identity]
            if keep_per_prompt is None or kept[identity] < problem.part_of(keep_per_prompt):
                kept[identity] += 1
                examples += [Example(tokens, learned)] * problem.part_of(hard_repeats)
        return examples

    def require_some(self) -> None:
        """InputError when no completion was right, for a run that has nothing else to learn from."""
        if not self.sequences:
            raise InputError(
                f"rejection_sampling: none of {self.completions:,} completions of {len(self.problems):,} "
                "prompts was right, so there is nothing to learn; begin with easier prompts or with solved ones "
                "(rejection_sampling.solved), or sample more"
            )

    def save(self, path: Path) -> None:
        """Write the state, for a run that is killed."""
        write_bytes_atomic(path, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, path: Path) -> Accepted:
        """Read what `save` wrote."""
        state: dict[str, Any] = json.loads(path.read_bytes())
        state["problems"] = {name: Tried(**problem) for name, problem in state["problems"].items()}
        state["sequences"] = [tuple(sequence) for sequence in state["sequences"]]
        return cls(**state)

    def _keep(self, identity: str, prompt: Sequence[int], branch: Branch) -> None:
        tokens = [*prompt, *branch.tokens]
        if tuple(tokens) not in self._seen:
            self._seen.add(tuple(tokens))
            learned = branch.learned if branch.learned is not None else [True] * len(branch.tokens)
            self.sequences.append((identity, tokens, [False] * len(prompt) + list(learned)))


def sample_accepted(
    accepted: Accepted,
    model: Transformer,
    sampler: Sampler,
    draws: Draws,
    token_budget: int,
    seed: int,
    after_each: Callable[[Accepted], None],
) -> None:
    """Sample the prompts that `draws` gives, step after step, until `token_budget` tokens are sampled in all.

    `after_each` hears of the state after every draw: progress, and a place to stop.
    """
    while accepted.sampled_tokens < token_budget:
        step = accepted.step
        groups = sampler.sample(model, draws.draw(step), derive_seed(seed, "rejection sampling", step))
        accepted.add(groups, sampler)
        accepted.step += 1
        after_each(accepted)


def taught_examples(given: RolloutInputs, context: Context) -> list[Example]:
    """The solved problems (`solved.jsonl`) that fit the model's context, with a warning about those that do not."""
    account, longest = Account(), given.model.settings.context
    rows = given.problems.read_jsonl("solved.jsonl")
    taught = fitting(
        solved_examples(given.tokenizer, rows, "solved.jsonl", given.sampler.tool is not None), longest, account
    )
    if account.too_long:
        context.warn(f"{account.too_long} solved problems do not fit a context of {longest} and are left out")
    return taught


def sampling_budget(own: int | None, other: Artifact | None) -> int:
    """The tokens that may be sampled: `token_budget` of the settings, or what the input `budget` has sampled."""
    return own if own is not None else token_budget(cast("Artifact", other), "sampled_tokens")


def sample_round(
    accepted: Accepted,
    given: RolloutInputs,
    draws: Draws,
    budget: int,
    seed: int,
    context: Context,
) -> Accepted:
    """What is accepted after this round of the present model, by `budget` tokens in all.

    It is kept in the scratch space of the round: a run that is killed later does not sample it again.
    """
    file = context.work / "accepted.json"
    if file.exists():
        return Accepted.load(file)

    def after_each(accepted: Accepted) -> None:
        context.check_stop()
        context.progress(accepted.sampled_tokens, budget, unit="token", accepted=len(accepted.sequences))

    sample_accepted(accepted, given.model, given.sampler, draws, budget, seed, after_each)
    context.work.mkdir(parents=True, exist_ok=True)
    accepted.save(file)
    if accepted.completions and not accepted.sequences:
        context.warn(
            f"none of {accepted.completions:,} completions of {len(accepted.problems):,} prompts was right so far"
        )
    return accepted
