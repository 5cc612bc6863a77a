"""The trainer: resume is exact, parts add up, validation stops and keeps the best, the guard speaks up."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import InternalTorchDynamoError

from pocketlm.errors import InputError, Interrupted
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.seeds import generator
from pocketlm.training.batches import BatchesEnded
from pocketlm.training.device import prepare
from pocketlm.training.trainer import Trainer, TrainResult
from pocketlm.training.validation import Validation
from tests.small_training import StopAfter, make_context, make_trainer

GOLDEN = Path(__file__).parents[1] / "assets" / "golden_losses.json"


def weights_equal(one: Transformer, other: Transformer) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in one.state_dict().items())


def run_with_interruptions(work: Path, polls: list[int], **arguments: Any) -> tuple[Trainer, TrainResult, int]:
    """Start again after every interruption; the polls say how many steps each start may take."""
    interruptions = 0
    for left in [*polls, 10_000]:
        trainer = make_trainer(make_context(work, StopAfter(left)), **arguments)
        try:
            return trainer, trainer.run(), interruptions
        except Interrupted:
            interruptions += 1
    raise AssertionError("unreachable")


def scripted_score(model: Transformer) -> dict[str, float]:
    """A score that depends on the weights, so that resumed and uninterrupted runs can differ if anything does."""
    return {"value": float(model.head_weight_VD.detach().abs().mean() + 0.01 * model.final_norm.weight[0].detach())}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("seed", range(4))
def test_interrupted_at_random_steps_ends_with_the_same_bits(tmp_path: Path, optimizer: str, seed: int) -> None:
    validation = Validation(every=4, score=scripted_score)
    arguments = {"optimizer": optimizer, "validation": validation}
    whole = make_trainer(make_context(tmp_path / "whole"), **arguments)
    expected = whole.run()
    polls = generator(seed, "interruptions").integers(0, 12, 5).tolist()
    resumed, result, interruptions = run_with_interruptions(tmp_path / "cut", polls, **arguments)
    assert interruptions >= 1
    assert result == expected
    assert weights_equal(resumed.model, whole.model)


def test_a_finished_run_returns_its_result_again_without_training(tmp_path: Path) -> None:
    first = make_trainer(make_context(tmp_path))
    expected = first.run()
    again = make_trainer(make_context(tmp_path), change_batch=lambda step, batch: pytest.fail("trained again"))
    assert again.run() == expected
    assert weights_equal(again.model, first.model)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_losses_are_the_golden_ones(tmp_path: Path, optimizer: str) -> None:
    """Refactors must reproduce `tests/assets/golden_losses.json`; write it anew only when the mathematics changes."""
    rows = make_trainer(make_context(tmp_path), optimizer=optimizer, log_every=1).run().rows
    golden = json.loads(GOLDEN.read_text())[optimizer]
    assert [row["loss"] for row in rows] == pytest.approx(golden, rel=1e-4)


def test_micro_batches_add_up_to_the_step(tmp_path: Path) -> None:
    def without_some_targets(step: int, batch: Any) -> Any:
        batch.targets_BT[0, :11] = -100  # rows count unequally
        return batch

    arguments: dict[str, Any] = {"change_batch": without_some_targets, "log_every": 1, "steps": 8}
    whole = make_trainer(make_context(tmp_path / "whole"), **arguments).run()
    parts = make_trainer(make_context(tmp_path / "parts", micro_batch=3), **arguments).run()
    for name in ("loss", "gradient_norm", "update_ratio"):
        assert [row[name] for row in parts.rows] == pytest.approx([row[name] for row in whole.rows], rel=1e-3)


def test_training_stops_when_patience_runs_out_and_keeps_the_best_weights(tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0, 2.0, 0.0])
    seen: list[dict[str, torch.Tensor]] = []

    def score(model: Transformer) -> dict[str, float]:
        seen.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return {"value": next(values)}

    trainer = make_trainer(make_context(tmp_path), validation=Validation(every=3, score=score, patience=2))
    result = trainer.run()
    assert (result.steps, result.best_step, result.best_value, result.stopped_early) == (12, 6, 1.0, True)
    assert all(torch.equal(weight, seen[1][name]) for name, weight in trainer.model.state_dict().items())


def test_an_exhausted_patience_survives_an_interruption(tmp_path: Path) -> None:
    def worse_every_time(model: Transformer) -> dict[str, float]:
        return {"value": -float(model.head_weight_VD.detach().abs().sum())}

    validation = Validation(every=2, score=lambda model: {"value": -worse_every_time(model)["value"]}, patience=3)
    expected = make_trainer(make_context(tmp_path / "whole"), validation=validation, steps=40).run()
    _, result, _ = run_with_interruptions(tmp_path / "cut", [5, 1, 2], validation=validation, steps=40)
    assert expected.stopped_early
    assert result == expected


@pytest.mark.parametrize("polls", [[], [3, 5], [9, 0]])
def test_batches_that_end_end_the_run_with_its_last_step_logged_and_scored(tmp_path: Path, polls: list[int]) -> None:
    def ending(step: int, batch: Any) -> Any:
        if step == 9:
            raise BatchesEnded("no text is left")
        return batch

    arguments = {"change_batch": ending, "log_every": 4, "validation": Validation(every=6, score=scripted_score)}
    _, result, _ = run_with_interruptions(tmp_path, polls, **arguments)
    assert (result.steps, result.ended, result.stopped_early) == (9, "no text is left", True)
    assert [row["step"] for row in result.rows] == [4, 8, 9]
    assert [row["step"] for row in result.validation_rows] == [6, 9]
    again = make_trainer(make_context(tmp_path), **arguments)
    assert again.run() == result, "what is finished is not trained or scored again"


def test_batches_that_end_at_once_leave_the_model_as_it_was(tmp_path: Path) -> None:
    def ending(step: int, batch: Any) -> Any:
        raise BatchesEnded("there is no text")

    events: list[tuple[str, Any]] = []
    trainer = make_trainer(
        make_context(tmp_path, events=events), ending, validation=Validation(every=6, score=scripted_score)
    )
    before = make_trainer(make_context(tmp_path / "other")).model
    result = trainer.run()
    assert (result.steps, result.rows, result.validation_rows) == (0, [], [])
    assert weights_equal(trainer.model, before)
    assert [body["message"] for kind, body in events if kind == "warning"] == ["there is no text"]


def test_checkpoints_of_other_data_or_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make_trainer(make_context(tmp_path, StopAfter(3))).run()
    with pytest.raises(InputError, match="other data, settings or model shape"):
        make_trainer(make_context(tmp_path), learning_rate=1e-3).run()
    other_data = make_trainer(make_context(tmp_path))
    refused = Trainer(
        other_data.model,
        other_data.update.gradients.objective,
        other_data.batches,
        other_data.settings,
        make_context(tmp_path),
        data_digest="another",
    )
    with pytest.raises(InputError, match="other data"):
        refused.run()


def test_how_often_checkpoints_are_made_changes_nothing(tmp_path: Path) -> None:
    often = make_trainer(make_context(tmp_path / "often"), checkpoint_every=1).run()
    assert often == make_trainer(make_context(tmp_path / "never"), checkpoint_every=10_000).run()
    assert len(list((tmp_path / "often" / "checkpoints").iterdir())) == 2


def test_a_model_that_cannot_move_says_so_once(tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    make_trainer(make_context(tmp_path, events=events), learning_rate=1e-9, schedule="constant", steps=40).run()
    warnings = [body for kind, body in events if kind == "warning"]
    assert len(warnings) == 1
    assert "hardly move" in warnings[0]["message"]


def test_the_update_ratio_is_that_of_the_weights(tmp_path: Path) -> None:
    trainer = make_trainer(make_context(tmp_path), steps=1, warmup_steps=0, log_every=1)
    before = torch.cat([weight.detach().flatten().clone() for weight in trainer.model.parameters()])
    [row] = trainer.run().rows
    after = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
    assert row["update_ratio"] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)


def test_products_in_bfloat16_train_alike_over_fp32_weights(tmp_path: Path) -> None:
    expected = make_trainer(make_context(tmp_path / "exact")).run()
    rounded = make_trainer(make_context(tmp_path / "rounded", precision="bfloat16"))
    result = rounded.run()
    assert [row["loss"] for row in result.rows] != [row["loss"] for row in expected.rows]
    assert result.rows[0]["loss"] == pytest.approx(expected.rows[0]["loss"], rel=1e-3)
    assert result.rows[-1]["loss"] == pytest.approx(expected.rows[-1]["loss"], rel=3e-2)  # rounding grows by the step
    assert all(weight.dtype == torch.float32 for weight in rounded.model.state_dict().values())


def test_training_goes_on_where_torch_cannot_compile_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> torch.Tensor:
        raise InternalTorchDynamoError("no compiler\nand more of it")

    expected = make_trainer(make_context(tmp_path / "plain")).run()
    monkeypatch.setattr(torch, "compile", lambda hidden, dynamic: fail)
    events: list[tuple[str, Any]] = []
    trainer = make_trainer(make_context(tmp_path / "failing", events=events, compile=True))
    assert trainer.run() == expected
    assert "hidden" not in vars(trainer.model)
    warnings = [body["message"] for kind, body in events if kind == "warning" and "torch.compile" in body["message"]]
    assert warnings == ["torch.compile does not work here, training goes on without it: no compiler"]


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_runtime_that_decides_about_bits_is_recorded_and_set(tmp_path: Path, deterministic: bool) -> None:
    events: list[tuple[str, Any]] = []
    context = make_context(tmp_path, events=events, deterministic=deterministic, precision="float32")
    prepare(context.runtime)
    assert torch.is_deterministic_algorithms_warn_only_enabled() != deterministic
    make_trainer(context).run()
    (started,) = [body["runtime"] for kind, body in events if kind == "training_started"]
    assert started["attention"] == {"causal": "flash", "masked": "flash"}
    assert (started["deterministic"], started["precision"]) == (deterministic, "float32")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own parts
@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-4), ("bfloat16", 2e-3)])
def test_compiled_training_gives_the_same_losses_and_leaves_the_model_as_it_was(
    tmp_path: Path, precision: str, bound: float
) -> None:
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    plain = make_trainer(make_context(tmp_path / "plain", precision=precision), steps=4, log_every=1)
    context = make_context(tmp_path / "compiled", compile=True, precision=precision)
    compiled = make_trainer(context, steps=4, log_every=1)
    expected, result = plain.run(), compiled.run()
    assert [row["loss"] for row in result.rows] == pytest.approx([row["loss"] for row in expected.rows], rel=bound)
    assert "hidden" not in vars(compiled.model)


def test_progress_is_reported_at_every_step(tmp_path: Path) -> None:
    """However seldom the log has a row: where a step takes a minute, nothing would be seen for a quarter of an hour."""
    context, seen = make_context(tmp_path), []
    context.progress = lambda done, total, **figures: seen.append((done, total, figures))  # type: ignore[method-assign]
    trainer = make_trainer(context, steps=10, log_every=4)
    rows = trainer.run().rows
    assert [(done, total) for done, total, _ in seen] == [(step, 10) for step in range(1, 11)]
    losses = [figures.get("loss") for _, _, figures in seen]
    assert losses == [None] * 3 + [rows[0]["loss"]] * 4 + [rows[1]["loss"]] * 2 + [rows[2]["loss"]]
