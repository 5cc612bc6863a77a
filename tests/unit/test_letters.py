"""Tasks with lettered options: scores against the model's own logits, the items of the benchmark, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pocketlm.data.contamination.benchmarks import lettered_questions
from pocketlm.data.tokens.chat import encode_chat
from pocketlm.errors import InputError
from pocketlm.evaluation.command import Order, evaluate
from pocketlm.evaluation.letters import differences, letter_scores
from pocketlm.evaluation.option_order import in_order
from pocketlm.stages.evaluate import EvaluateSettings
from tests.benchmark_files import benchmark_rows, write_benchmarks
from tests.evaluation_world import run_folder, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("letters"))


def asked(run: Path, folder: Path, tasks: list[str], **more: Any) -> dict[str, Any]:
    evaluate(Order(run, tasks, str(write_benchmarks(folder / "data")), **more), folder / "o.json")
    return json.loads((folder / "o.json").read_text())["tasks"]


def by_hand(tokens: list[int], target: list[int]) -> float:
    """The log-likelihood of `target` after `tokens`, from the logits of the whole text."""
    model, _ = trained()
    with torch.no_grad():
        hidden_TD = model.hidden(torch.tensor([tokens + target]))[0]
        logs_TV = torch.log_softmax(hidden_TD @ model.head_weight_VD.T, dim=-1)
    start = len(tokens) - 1
    return sum(float(logs_TV[start + at, token]) for at, token in enumerate(target))


def test_every_order_is_scored_as_the_models_logits_say(run: Path, tmp_path: Path) -> None:
    task = asked(run, tmp_path, ["piqa_letters"], limit=3)["piqa_letters"]
    _, tokenizer = trained()
    for question, item in zip(
        lettered_questions("piqa", benchmark_rows()["piqa/validation"]), task["items"], strict=False
    ):
        expected = [
            [
                by_hand(tokenizer.encode(context), tokenizer.encode(letter))
                for context, letter in in_order(question, order)
            ]
            for order in range(2)
        ]
        assert np.array(item["log_likelihoods_by_order"]) == pytest.approx(np.array(expected), abs=1e-4)
        given = int(np.argmax(expected[0])) == question.gold
        assert (item["gold"], item["correct"], item["metrics"]["given"]) == (question.gold, given, given)
        assert item["metrics"]["debiased"] is (int(np.sum(expected, axis=0).argmax()) == question.gold)
    assert (task["n"], task["primary"], task["scores"]["given"]["n"]) == (3, "given", 3)
    scores = task["scores"]
    assert all(scores[name]["low"] <= scores[name]["value"] <= scores[name]["high"] for name in scores)
    assert 0 < scores["places_p_of_2"]["value"] <= 1


def test_in_the_chat_form_the_letter_begins_the_answer(run: Path, tmp_path: Path) -> None:
    (item,) = asked(run, tmp_path, ["piqa_letters"], limit=1, chat=True)["piqa_letters"]["items"]
    _, tokenizer = trained()
    (question,) = lettered_questions("piqa", benchmark_rows()["piqa/validation"][:1])
    context = in_order(question, 1)[0][0]
    tokens, _ = encode_chat(tokenizer, [{"role": "user", "content": context}], add_generation_prompt=True)
    # As for any benchmark the harness counts the line break before the answer with it: the same for every letter.
    expected = [by_hand(tokens[:-1], [tokens[-1], *tokenizer.encode(letter)]) for letter in "BA"]
    assert item["log_likelihoods_by_order"][1] == pytest.approx(expected, abs=1e-4)


def test_items_splits_and_limits_are_those_of_the_benchmark(run: Path, tmp_path: Path) -> None:
    for more in ({}, {"split": "report"}, {"split": "selection", "limit": 1}):
        tasks = asked(run, tmp_path, ["arc_easy", "arc_easy_letters", "piqa_letters", "piqa"], **more)
        for name in ("arc_easy", "piqa"):
            plain, lettered = (tasks[task]["items"] for task in (name, f"{name}_letters"))
            for key in ("id", "hash", "gold"):
                assert [item[key] for item in plain] == [item[key] for item in lettered]
            assert tasks[name]["data_sha256"] == tasks[f"{name}_letters"]["data_sha256"]


def test_what_was_cut_is_counted(run: Path, tmp_path: Path) -> None:
    rows = [{"goal": "stones and " * 200, "sol1": "a cat", "sol2": "a dog", "label": 0}]
    (tmp_path / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(Order(run, ["piqa_letters"], str(tmp_path)), tmp_path / "o.json")
    task = json.loads((tmp_path / "o.json").read_text())["tasks"]["piqa_letters"]
    assert task["shortened"] == 4, "two letters in two orders"


def test_a_verdict_follows_from_the_log_likelihoods() -> None:
    item = {
        "id": "1",
        "log_likelihoods_by_order": [[-1.0, -2.0], [-5.0, -1.0]],
        "gold": 1,
        "metrics": {"given": False, "debiased": True},
        "correct": False,
    }
    assert differences("piqa_letters", [item]) == []
    assert len(differences("piqa_letters", [{**item, "correct": True}, {**item, "gold": 0}])) == 2
    scores = letter_scores([item] * 9, np.random.default_rng(0))
    assert [scores[name].value for name in ("given", "debiased", "gain", "any_order", "flips")] == [0, 1, 1, 0.5, 1]
    assert (scores["chosen_A_of_2"].value, scores["chosen_B_of_2"].value) == (1, 0), "option 1 stood first in order 1"
    assert scores["places_p_of_2"].high < 0.02


def test_what_cannot_be_lettered_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean piqa_letters"):
        asked(run, tmp_path, ["piqa_leters"])
    with pytest.raises(InputError, match=r"task arc_easy_letters has no data here.*arc_easy/test.jsonl"):
        evaluate(Order(run, ["arc_easy_letters"]), tmp_path / "o.json")
    with pytest.raises(ValidationError, match="'gsm8k' has no options to letter; take"):
        EvaluateSettings(benchmarks={"gsm8k": {}}, letters=("gsm8k",))
    with pytest.raises(ValidationError, match="'piqa' is not among the benchmarks"):
        EvaluateSettings(benchmarks={"arc_easy": {}}, letters=("piqa",))
