"""Verdicts against what is recorded beside them: honest items pass, any verdict turned is found."""

from __future__ import annotations

from typing import Any

import pytest

from pocketlm.evaluation.evidence import contradictions

CHOICE = {
    "id": "1",
    "hash": "h",
    "log_likelihoods": [-6.0, -7.0],
    "lengths": [2, 7],
    "gold": 1,
    "metrics": {"acc": False, "acc_norm": True},
}
ANSWER = {"id": "1", "prompt": "1+1=", "answer": "2"}
NUMBER = {"id": "1", "answer": "It has 3.\n#### 1,234"}

HONEST: list[tuple[str, dict[str, Any]]] = [
    ("piqa", {**CHOICE, "correct": True}),
    ("winogrande", {**CHOICE, "metrics": {"acc": False}, "correct": False}),
    ("blimp_wh_island", {**CHOICE, "gold": 0, "metrics": {"acc": True}, "correct": True}),
    ("arithmetic_level_1", {**ANSWER, "output": " 2\n", "correct": True}),
    ("short_instructions", {**ANSWER, "output": "22", "correct": False}),
    (
        "gsm8k",
        {**NUMBER, "output": "So 1234.\n#### 1234", "metrics": {"strict": True, "flexible": True}, "correct": True},
    ),
    ("gsm8k", {**NUMBER, "output": "It is $1,234.", "metrics": {"strict": False, "flexible": True}, "correct": False}),
    ("gsm8k", {**NUMBER, "output": "", "metrics": {"strict": False, "flexible": False}, "correct": False}),
]


@pytest.mark.parametrize(("task", "item"), HONEST)
def test_honest_items_pass_and_turned_verdicts_do_not(task: str, item: dict[str, Any]) -> None:
    assert contradictions(task, [item, item]) == []
    assert len(contradictions(task, [item, {**item, "correct": not item["correct"]}])) == 1
    for metric, right in item.get("metrics", {}).items():
        turned = {**item, "metrics": {**item["metrics"], metric: not right}}
        assert contradictions(task, [turned]) == [
            f"{task}, item 1: its verdict does not follow from what is recorded of it"
        ]


def test_what_only_a_model_can_tell_is_left_to_it() -> None:
    assert contradictions("lambada_openai", [{"id": "1", "log_likelihood": -1.0, "correct": True}]) == []
