"""Batches of the distillation objectives: examples with what the teacher says of them, and the student's samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pocketlm.model.loss import IGNORE
from pocketlm.pipeline.seeds import derive_seed
from pocketlm.posttraining.examples import Example, Prompt, solved_example
from pocketlm.posttraining.packing import example_tree, group_tree, pack
from pocketlm.posttraining.rollouts.sampler import Sampler, group_figures, sequence_tokens
from pocketlm.posttraining.streams import stream_indices
from pocketlm.training.batches import Batch

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.posttraining.distillation.cache import TeacherCache


FIGURES = ("reward", "correct", "completion_tokens", "truncated", "verifier_failures")
"""Of a step's rollouts, into the log."""


class LikeliestBatches:
    """An endless stream of examples with the teacher's likeliest tokens; a function of (examples, seed, step).

    Args:
        cache: filled, of these examples.
        count: examples a step.
        capacity: longest row in tokens.
    """

    def __init__(self, examples: Sequence[Example], cache: TeacherCache, count: int, capacity: int, seed: int) -> None:
        self._examples, self._cache = examples, cache
        self._count, self._capacity, self._seed = count, capacity, seed

    def indices(self, step: int) -> list[int]:
        """The examples of a step."""
        return stream_indices(len(self._examples), self._count, step, self._seed, "distillation order")

    def tokens(self, step: int) -> int:
        """Tokens of the step's sequences, prompts included."""
        return sum(len(self._examples[index].tokens) for index in self.indices(step))

    def steps_for(self, tokens: int) -> int:
        """The fewest steps, at least one, whose sequences hold `tokens` tokens or more."""
        steps = 1
        tokens -= self.tokens(0)
        while tokens > 0:
            tokens -= self.tokens(steps)
            steps += 1
        return steps

    def batch(self, step: int, model: Transformer | None = None) -> Batch:
        """The packed batch of a step; the model is not looked at."""
        indices = self.indices(step)
        examples = [self._examples[index] for index in indices]
        rows = pack([example_tree(one.tokens, one.trained) for one in examples], self._capacity)
        learned_BT = rows.targets_BT != IGNORE
        shape = (*rows.tokens_BT.shape, self._cache.k)
        ids_BTK, values_BTK = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
        for tree, index in enumerate(indices):
            ids, values = self._cache.of(index)
            own_BT = learned_BT & (rows.trees_BT == tree)
            ids_BTK[own_BT] = torch.from_numpy(ids.astype("int64"))
            values_BTK[own_BT] = torch.from_numpy(values.astype("float32"))
        extra = {"teacher_ids_BTK": ids_BTK, "teacher_log_probabilities_BTK": values_BTK}
        tokens = sum(len(one.tokens) for one in examples)
        return Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra, token_count=tokens)


class StudentBatches:
    """What the student samples with its present weights, right or wrong; a function of (prompts, seed, step, weights).

    Every epoch asks each prompt once. The figures of a step travel in `extra` as scalars.

    Args:
        count: prompts a step; each gets a whole group of completions.
    """

    samples_from_model = True

    def __init__(self, sampler: Sampler, prompts: Sequence[Prompt], count: int, seed: int) -> None:
        self._sampler, self._prompts, self._count, self._seed = sampler, prompts, count, seed

    def batch(self, step: int, model: Transformer) -> Batch:
        """Sample and pack, each prompt once for its group."""
        indices = stream_indices(len(self._prompts), self._count, step, self._seed, "distillation prompts")
        prompts = [self._prompts[index] for index in indices]
        groups = self._sampler.sample(model, prompts, derive_seed(self._seed, "student samples", step))
        trees = [group_tree(one.prompt.tokens, list(map(self._sampler.branch, one.completions))) for one in groups]
        rows = pack(trees, max(len(tree) for tree in trees))
        tokens = sequence_tokens(groups, self._sampler)
        figures = {"sampled_tokens": tokens, **{name: group_figures(groups)[name] for name in FIGURES}}
        extra = {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}
        return Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra, token_count=tokens)


def verified_texts(
    tokenizer: Tokenizer, rows: Iterable[Mapping[str, Any]], longest: int, calculator: bool = False
) -> tuple[list[Example], int]:
    """A teacher's right completions, each text of a prompt once, in the student's tokens and chat form; and how many
    were left out for being longer than `longest` positions. The teacher may have any tokenizer.

    Args:
        rows: of a `samples` artifact.
        calculator: what that tool writes into them is not learned.
    """
    examples: list[Example] = []
    too_long = 0
    for row in rows:
        right = [one["text"] for one in row["completions"] if one["correct"] and one["finish"] == "stop"]
        for text in dict.fromkeys(text.strip() for text in right):
            example = solved_example(tokenizer, row["row"]["prompt"], text, calculator)
            if len(example.tokens) - 1 > longest:
                too_long += 1
            else:
                examples.append(example)
    return examples, too_long
