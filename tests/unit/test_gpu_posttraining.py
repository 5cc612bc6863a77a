"""`bench.gpu_posttraining` at toy size: its parts are there and go on, its checks can fail, it claims no GPU figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import gpu_posttraining, gpu_posttraining_gsm8k, gpu_posttraining_rollouts
from bench.gpu_posttraining_step import measure_step
from bench.gpu_posttraining_world import World, given_subject, toy_scale, write_toy
from bench.gpu_world import Record
from bench.reference_reward import reward
from pocketlm.generation import slots
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.planning.work import works_of
from pocketlm.stages import registry

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers
CHECKS = {"greedy", "log_probabilities.fp32", "log_probabilities.bf16", "graphs", "mates"}


@pytest.fixture(autouse=True)
def as_before() -> Any:
    before, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    yield
    torch.set_deterministic_debug_mode(before)
    torch.set_num_threads(threads)


def run(out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    code = gpu_posttraining.main(["--toy", "--out", str(out), *options])
    return code, json.loads(out.read_text())


def test_parts_are_measured_and_continued_and_none_is_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_posttraining_rollouts, "find_spec", lambda name: None)
    out = tmp_path / "result.json"
    code, first = run(out, "--parts", "checks", "rollouts", "step")
    assert code == 0
    assert (first["benchmark"], first["toy"], first["device"]) == ("gpu_posttraining", True, "cpu")
    checks = first["parts"]["checks"]
    assert set(checks) == CHECKS
    assert [name for name, entry in checks.items() if entry["passed"] is not True] == ["log_probabilities.bf16"]
    assert checks["greedy"]["tokens"] == 4 * 12
    assert 0 < checks["log_probabilities.bf16"]["errors"]["mean"] < 0.1  # rounded, and stated
    assert checks["log_probabilities.fp32"]["errors"]["largest"] < 1e-5
    rollouts = first["parts"]["rollouts"]["8 slots"]
    assert rollouts["tokens_per_second"]["engine"] > 0
    assert rollouts["not_measured"] == dict.fromkeys(("generate", "continuous"), "transformers is not installed")
    assert rollouts["sequences"] == 16
    assert 1 <= rollouts["lengths"]["engine"]["0%"] <= rollouts["lengths"]["engine"]["100%"] <= 10
    step = first["parts"]["step"]["policy_gradient"]
    assert min(step["sampling_seconds"], step["update_seconds"], step["packed_tokens"]) > 0
    assert step["engine_distance"] < 1e-5
    text = capsys.readouterr().out + json.dumps(first)
    assert "not a measurement of a GPU" in text
    for claim in ("250,000", "250000", "met", "H200"):
        assert claim not in text

    _, second = run(out, "--parts", "rollouts", "step")
    assert second["parts"] == first["parts"]
    assert len(second["slices"]) == 2


def likeliest_but_one(logits_NV: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
    top = torch.log_softmax(logits_NV, -1).topk(2)
    return top.indices[:, 1], top.values[:, 1]


def too_sure(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens_N, log_probabilities_N = SAMPLE(*arguments)
    return tokens_N, log_probabilities_N + 2e-4


def by_place(logits_NV: torch.Tensor, uniforms_N: torch.Tensor, greedy_N: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws that depend on the slot."""
    return SAMPLE(logits_NV, (uniforms_N + 0.37 * torch.arange(len(uniforms_N))) % 1, greedy_N)


SAMPLE = slots.sample


@pytest.mark.parametrize(
    ("wrong", "failing"),
    [(likeliest_but_one, {"greedy"}), (too_sure, {"log_probabilities.fp32"}), (by_place, {"mates"})],
)
def test_a_wrong_sampler_fails_its_check(
    wrong: Any, failing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "sample", wrong)
    code, result = run(tmp_path / "result.json", "--parts", "checks")
    assert code == 1
    assert {name for name, entry in result["parts"]["checks"].items() if entry["passed"] is False} == failing


@pytest.mark.long
def test_the_recipe_goes_on_after_a_cut(tmp_path: Path) -> None:
    out, folder = tmp_path / "result.json", tmp_path / "run"
    toy = write_toy(tmp_path / "toy")

    def part(seconds: str) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bench.gpu_posttraining_world.write_toy", lambda folder: toy)
            code, result = run(out, "--parts", "gsm8k", "--run", str(folder), "--max-seconds", seconds)
        assert code == 0
        return result["parts"]["gsm8k"]

    cut = part("1")
    assert "the same command goes on" in cut["result"]["left_out"]
    whole = part("550")
    assert len(whole["slices"]["seconds"]) == 2
    result = whole["result"]
    assert (result["items"], result["samples"]) == (12, 2)
    assert set(result["accuracy"]) == {"import_model", "form", "plain", "ours_sft", "ours_rejection", "ours"}
    assert result["study"]["ours.seeds"] == 1
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    made = [line["body"]["stage"] for line in ledger if line["event"] == "stage_committed"]
    assert len(made) == len(set(made)) == 10


def test_a_given_model_is_asked_in_its_own_form_and_takes_a_step(tmp_path: Path) -> None:
    toy = write_toy(tmp_path)
    scale, cpu = toy_scale(), torch.device("cpu")
    subject = given_subject(toy["import_model.path"], None, Path(toy["word_problems.report"]), scale, cpu)
    assert subject.tokenizer is not None
    assert subject.stops == (subject.tokenizer.turn_end,)
    questions = [json.loads(line)["question"] for line in Path(toy["word_problems.report"]).read_text().splitlines()]
    shown = [subject.tokenizer.decode(prompt) for prompt in subject.prompts]
    assert shown == [f"user\n{question}\nassistant\n" for question in questions[: scale.prompts]]
    record = Record.open(tmp_path / "result.json", {"toy": True, "device": "cpu"}, {})
    world = World(scale, cpu, record, 0.0, tmp_path, subject)
    before = [weight.clone() for weight in subject.model.parameters()]
    measure_step(world)
    assert record.parts["step"]["policy_gradient"]["update_seconds"] > 0
    # What is measured afterwards has the weights that were given.
    assert all(map(torch.equal, before, subject.model.parameters()))
    with pytest.raises(SystemExit, match="a GGUF file needs --tokenizer"):
        given_subject("model.gguf", None, tmp_path, scale, cpu)


def test_accuracies_and_differences_are_those_of_the_answers() -> None:
    random = np.random.default_rng(1)
    rates = {"import_model": 0.0, "form": 0.02, "plain": 0.02, "ours_sft": 0.1, "ours": 0.14}
    items = random.uniform(0.2, 1.8, 400)
    answers = {name: (random.random((400, 8)) < rate * items[:, None]).tolist() for name, rate in rates.items()}
    found = gpu_posttraining_gsm8k.found(answers)
    assert (found["items"], found["samples"]) == (400, 8)
    for name, rows in answers.items():
        own = found["accuracy"][name]
        assert own["value"] == pytest.approx(np.mean(rows), rel=1e-3)
        assert own["low"] <= own["value"] < own["high"]
    assert found["accuracy"]["import_model"]["high"] == pytest.approx(0.0095, abs=1e-3)  # Wilson's, of 0 in 400
    change = found["differences"]["ours - form"]
    per_item = np.mean(answers["ours"], axis=1) - np.mean(answers["form"], axis=1)
    assert change["value"] == pytest.approx(per_item.mean(), rel=1e-3)
    one_for_each_side = np.append(per_item, (1.0, -1.0))  # as the interval of a paired difference has them
    half = 1.96 * one_for_each_side.std(ddof=1) / 402**0.5
    assert change["high"] - change["low"] == pytest.approx(2 * half, rel=0.05)
    assert change["p"] == pytest.approx(1 / 10_001, rel=1e-3)
    assert found["differences"]["plain - form"]["p"] > 0.01
    assert gpu_posttraining_gsm8k.verdict(found)[0]

    few = {**answers, "ours": answers["ours_sft"]}
    few["ours"] = [[one and at % 2 == 0 for at, one in enumerate(row)] for row in few["ours"]]
    met, text = gpu_posttraining_gsm8k.verdict(gpu_posttraining_gsm8k.found(few))  # above the start, but not by enough
    assert not met
    assert text.endswith("NOT met")


def test_a_gain_that_chance_explains_is_not_met() -> None:
    entry = {
        "accuracy": {"ours": {"value": 0.12}},
        "differences": {f"ours - {start}": {"value": 0.02, "p": 0.0005} for start in ("import_model", "form")},
    }
    assert gpu_posttraining_gsm8k.verdict(entry)[0]
    entry["differences"]["ours - form"]["p"] = 0.001
    assert not gpu_posttraining_gsm8k.verdict(entry)[0]


def test_the_recipe_is_planned_with_the_context_that_it_asks_for(tmp_path: Path) -> None:
    toy = write_toy(tmp_path)
    overrides = [f"{name}={value}" for name, value in toy.items()]
    works = works_of(load_recipe("gsm8k-135m", registry(), [*overrides, "import_model.context=300"]))
    assert {work.name for work in works} == {"form", "plain", "ours_sft", "ours_rejection", "ours"}
    assert {work.model.context for work in works} == {300}


def test_the_reference_paid_for_numbers_and_length_and_not_for_repetition() -> None:
    assert reward("", "", {}) == 0
    assert reward("", "7", {}) == pytest.approx(0.2)
    assert reward("", "so the answer to that is of course 7", {}) == pytest.approx(0.3)
    assert reward("", "no number in this text of just eight", {}) == pytest.approx(0.1)
    assert reward("", "a b c d " * 50, {}) == pytest.approx(0.1 - 0.2 * (1 - 4 / 197))
    assert reward("", "7 " * 300, {}) < 0.05


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--model", "m"], "--model needs --test"),
        (["--parts", "gsm8k"], "--parts gsm8k needs --model, --train, --test and --run"),
    ):
        with pytest.raises(SystemExit):
            gpu_posttraining.main([*options, "--out", str(tmp_path / "result.json")])
        assert message in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="--toy"):
            gpu_posttraining.main(["--parts", "checks", "--out", str(tmp_path / "result.json")])
    assert not (tmp_path / "result.json").exists()
