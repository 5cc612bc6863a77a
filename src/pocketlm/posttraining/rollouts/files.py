"""Groups as JSON rows and back: what the artifact `samples` holds, and what a batch that is used again is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketlm.generation.requests import Completion
from pocketlm.posttraining.examples import Prompt
from pocketlm.posttraining.rollouts.sampler import Group, Sampler


def group_row(group: Group, sampler: Sampler) -> dict[str, Any]:
    """One JSON object: the problem's row, the tokens it was asked with, and every completion.

    `tokens` hold the closing <|im_end|> of a completion that has one, so that they are as long as
    `log_probabilities` and `forced`. `reward` is null where the completion is left out. Numbers come back bit by bit.
    """
    return {
        "row": dict(group.prompt.row),
        "prompt_tokens": list(group.prompt.tokens),
        "completions": [
            {
                "text": sampler.text(completion),
                "tokens": list(sampler.branch(completion).tokens),
                "log_probabilities": list(completion.log_probabilities),
                "forced": list(completion.forced) or [False] * len(completion.log_probabilities),
                "correct": correct,
                "reward": reward,
                "finish": completion.finish,
            }
            for completion, correct, reward in zip(group.completions, group.correct, group.rewards, strict=True)
        ],
        "faults": list(group.faults),
    }


def group_of(row: Mapping[str, Any]) -> Group:
    """The group that a row of `group_row` was made from."""
    completions = [
        Completion(
            one["tokens"][:-1] if one["finish"] == "stop" else one["tokens"],
            one["log_probabilities"],
            one["finish"],
            one["forced"],
        )
        for one in row["completions"]
    ]
    return Group(
        Prompt(row["row"], row["prompt_tokens"]),
        completions,
        [one["reward"] for one in row["completions"]],
        [one["correct"] for one in row["completions"]],
        tuple(row["faults"]),
    )
