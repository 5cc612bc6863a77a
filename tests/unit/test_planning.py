"""Plans: published operation counts, memory that autograd really keeps, and every line for the shipped recipe."""

from types import SimpleNamespace

import pytest
import torch

from pocketlm.model.config import SHAPES, preset
from pocketlm.pipeline.recipe import Recipe, StageEntry
from pocketlm.pipeline.settings import Runtime
from pocketlm.planning.benchmark import measure
from pocketlm.planning.flops import matrix_parameters, training_flops_per_token
from pocketlm.planning.memory import activation_bytes
from pocketlm.planning.plan import plan
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import TrainingSettings
from tests.small_training import SHAPE, PretrainBatches, make_model, stream


class Pretraining(TrainingSettings):
    model: object = SHAPES["1m"].model_copy(update={"layers": 1})


def test_operations_of_the_135m_model_are_those_counted_by_hand() -> None:
    settings = preset("135m")
    assert matrix_parameters(settings) == 134_479_872
    assert training_flops_per_token(settings, 2048) == pytest.approx(1.0193e9, rel=1e-4)


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_activations_are_what_autograd_keeps(kv_heads: int) -> None:
    model = make_model(SHAPE.model_copy(update={"kv_heads": kv_heads}))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = PretrainBatches(stream(), 8, SHAPE.context, seed=0).batch(0)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = LanguageModelObjective().loss(model, batch)
    expected = activation_bytes(model.settings, batch.tokens_BT.numel())
    assert loss.requires_grad
    # Repeated keys and values of grouped queries, log-sum-exps and scales are not in the formula.
    assert 0.95 * expected <= sum(kept.values()) <= 1.25 * expected


def test_speed_is_measured_with_real_steps() -> None:
    training = TrainingSettings(steps=1, batch_rows=2, learning_rate=1e-3, optimizer="muon")
    throughput = measure(SHAPE, training, torch.device("cpu"), seconds=0.05)
    assert (throughput.rows, throughput.length) == (2, SHAPE.context)
    assert throughput.tokens_per_second > 0


def test_the_plan_states_tokens_parameters_memory_and_time() -> None:
    settings = Pretraining(steps=100, batch_rows=4, learning_rate=1e-3)
    entries = {
        "tokenizer": SimpleNamespace(name="tokenizer", settings=SimpleNamespace(vocabulary=512)),
        "pretrain": StageEntry("pretrain", SimpleNamespace(name="pretrain"), settings, {}),  # type: ignore[arg-type]
        "sft": SimpleNamespace(
            name="sft", settings=TrainingSettings(steps=7, batch_rows=3, learning_rate=1e-3), inputs={}
        ),
    }
    text = "\n".join(plan(Recipe("tiny", 1, Runtime(threads=1, device="cpu"), entries)))  # type: ignore[arg-type]
    for part in ("278,912 parameters", "102,400 in 100 steps of 4 x 256", "tokens/s", "sft: at most 7 steps", "causal"):
        assert part in text
