"""Adapters: what they compute, what merging gives, what is trained and kept, and which settings are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from pocketlm.errors import InputError, Interrupted
from pocketlm.model.config import ModelSettings
from pocketlm.model.formats.naming import split_rows
from pocketlm.model.lora import AdaptedLinear, adapted_model, factors_of, merge
from pocketlm.model.lora_settings import FUSED, TARGETS, LoraSettings
from pocketlm.model.loss import head_cross_entropy, token_log_probabilities
from pocketlm.model.transformer import Transformer
from pocketlm.planning.disk import training_disk
from pocketlm.planning.flops import training_flops_per_token
from pocketlm.planning.memory import training_memory
from pocketlm.planning.work import Work
from pocketlm.posttraining.rlvr.rlvr_settings import RlvrSettings
from pocketlm.stages.preference import PreferenceSettings
from pocketlm.stages.sft import SftSettings
from pocketlm.training import checkpoint
from pocketlm.training.adapters import Adapted
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import AdaptableSettings, TrainingSettings
from pocketlm.training.trainer import Trainer
from pocketlm.training.validation import Validation
from tests.small_training import SHAPE, StopAfter, make_context, make_model, stream

LORA = LoraSettings(rank=4, alpha=6)
SHAPES = {"llama": SHAPE, "qwen3": SHAPE.model_copy(update={"layout": "qwen3", "tie_embeddings": False})}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def bits(model: Transformer) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def disturbed(model: Transformer, lora: LoraSettings, seed: int = 1) -> Transformer:
    """An adapted model whose B are not zero."""
    adapted = adapted_model(model, lora, seed)
    with torch.no_grad():
        for factors in factors_of(adapted):
            factors.B.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(seed + factors.layer))
    return adapted


@settings(max_examples=20, deadline=None)
@given(
    layout=st.sampled_from(list(SHAPES)),
    targets=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=7, unique=True),
    rank=st.integers(1, 8),
    alpha=st.floats(0.5, 40),
    rslora=st.booleans(),
)
def test_merging_adds_the_product_to_the_matrices_named_and_touches_nothing_else(
    layout: str, targets: list[Any], rank: int, alpha: float, rslora: bool
) -> None:
    lora = LoraSettings(rank=rank, alpha=alpha, targets=tuple(targets), rslora=rslora)
    model = make_model(SHAPES[layout])
    start = bits(model)
    adapted = disturbed(model, lora)
    assert equal(bits(model), start)
    scale = alpha / (rank**0.5 if rslora else rank)
    expected = {name: weight.clone() for name, weight in start.items()}
    for factors in factors_of(adapted):
        name, place = next(
            (name, parts.index(factors.target)) for name, parts in FUSED.items() if factors.target in parts
        )
        full = f"blocks.{factors.layer}.{name}.weight"
        matrix = split_rows(model.settings, full, expected[full])[place]
        matrix.copy_(matrix + scale * (factors.B @ factors.A))
    assert len(factors_of(adapted)) == SHAPE.layers * len(targets)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained == lora.parameter_count(model.settings)
    for _ in range(3):  # nothing adds up
        merge(adapted, model)
        assert equal(bits(model), expected)
    for module in adapted.modules():
        if isinstance(module, AdaptedLinear):
            module.lora_B.data.zero_()
    merge(adapted, model)
    assert equal(bits(model), start)


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("targets", [TARGETS, ("key", "up"), ("value", "down")])
def test_beside_the_weights_or_merged_with_them_it_computes_the_same(layout: str, targets: Any) -> None:
    model = make_model(SHAPES[layout])
    tokens = torch.randint(SHAPE.vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    lora = LoraSettings(rank=3, targets=targets)
    with torch.no_grad():
        before = model(tokens)
        assert torch.equal(adapted_model(model, lora, seed=2)(tokens), before)  # B is zero
        adapted = disturbed(model, lora)
        after = adapted(tokens)
        merge(adapted, model)
        assert (after - before).abs().max() > 0.01
        torch.testing.assert_close(model(tokens), after, rtol=1e-5, atol=1e-5)


def test_what_begins_depends_on_the_seed_and_not_on_which_others_are_adapted() -> None:
    model = make_model()
    one, few, other = (
        {(f.layer, f.target): f.A for f in factors_of(adapted_model(model, lora, seed))}
        for lora, seed in ((LORA, 1), (LORA.model_copy(update={"targets": ("value", "gate")}), 1), (LORA, 2))
    )
    assert all(torch.equal(A, one[place]) for place, A in few.items())
    assert not any(torch.equal(A, one[place]) for place, A in other.items())
    assert len({A.sum().item() for A in one.values()}) == len(one)
    for A in one.values():
        bound = A.shape[1] ** -0.5
        assert bound * 0.8 < A.abs().max() <= bound


@pytest.mark.parametrize("loss", ["cross entropy", "log-probabilities"])
def test_frozen_weights_get_no_gradient_and_change_none_of_the_others(loss: str) -> None:
    tokens = torch.randint(SHAPE.vocabulary, (2, 17), generator=torch.Generator().manual_seed(0))
    gradients = []
    for frozen in (True, False):
        adapted = disturbed(make_model(SHAPES["qwen3"]), LORA)
        for weight in adapted.parameters():
            weight.requires_grad_(weight.requires_grad or not frozen)
        hidden, head = adapted.hidden(tokens[:, :-1]), adapted.head_weight_VD
        if loss == "cross entropy":
            head_cross_entropy(hidden, head, tokens[:, 1:])[0].backward()
        else:
            token_log_probabilities(hidden, head, tokens[:, 1:])[0].sum().backward()
        gradients.append({name: weight.grad for name, weight in adapted.named_parameters()})
    assert {name.rpartition(".")[2] for name, one in gradients[0].items() if one is not None} == {"lora_A", "lora_B"}
    for name, gradient in gradients[0].items():
        if gradient is not None:
            assert gradient.any()
            assert torch.equal(gradient, gradients[1][name])


def make_trainer(work: Path, stop: StopAfter | None = None, seed: int = 0, **changed: Any) -> Trainer:
    """A trainer of adapters, with a score that is best in the midst of the run."""
    complete = AdaptableSettings(
        **{
            "steps": 24,
            "batch_rows": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 3,
            "log_every": 5,
            "lora": LORA,
            **changed,
        }
    )
    batches = PretrainBatches(stream(), complete.batch_rows, SHAPE.context, seed=3)
    seen: list[int] = []

    def score(model: Transformer) -> dict[str, float]:
        seen.append(trainer.step)
        total = sum(float(weight.detach().double().abs().sum()) for weight in model.parameters())
        return {"value": abs(trainer.step - 12.0), "total": total}

    trainer = Trainer(
        make_model(seed=seed),
        LanguageModelObjective(),
        batches,
        complete,
        make_context(work, stop),
        Validation(6, score),
    )
    return trainer


def test_only_adapters_are_trained_kept_and_measured(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, probe_every=8)
    start = bits(make_model())
    result = trainer.run()
    placement = trainer.update.placement
    assert isinstance(placement, Adapted)
    assert result.best_step == 12
    assert result.rows[-1]["loss"] < result.rows[0]["loss"]
    assert result.rows[1]["bf16_changed"] > 0.3
    assert {"attention_logit", "gradient_norm.00"} <= set(result.rows[0])
    frozen = {name: weight for name, weight in bits(placement.model).items() if name not in placement.weights}
    assert equal(frozen, start)
    merged = make_model()
    merge(placement.model, merged)
    assert equal(bits(trainer.model), bits(merged))
    assert not equal(bits(trainer.model), start)
    state = trainer.update.state()
    assert set(state["model"]) == set(placement.weights)
    assert {name.partition(":")[0] for name in state["optimizer"]} == set(placement.weights)
    assert sum(weight.numel() for weight in state["model"].values()) == LORA.parameter_count(SHAPE)
    folder = max((tmp_path / "checkpoints").iterdir())
    assert (folder / "best.safetensors").stat().st_size < 0.5 * sum(weight.nbytes for weight in start.values())


@pytest.mark.parametrize("polls", [3, 11, 17])
def test_a_stopped_run_ends_with_the_bits_of_the_whole_one(polls: int, tmp_path: Path) -> None:
    whole, cut = make_trainer(tmp_path / "whole"), make_trainer(tmp_path / "cut", StopAfter(polls))
    expected = whole.run()
    with pytest.raises(Interrupted):
        cut.run()
    again = make_trainer(tmp_path / "cut")
    assert again.run() == expected
    assert equal(bits(again.model), bits(whole.model))
    assert equal(again.update.trained(), whole.update.trained())


def test_a_checkpoint_is_refused_on_other_weights_or_another_rank(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make_trainer(tmp_path, StopAfter(4)).run()
    with pytest.raises(InputError, match=r"\(different: base\)"):
        make_trainer(tmp_path, seed=1).run()
    with pytest.raises(InputError, match=r"different: training\.lora\.rank"):
        make_trainer(tmp_path, lora=LoraSettings(rank=2, alpha=6)).run()


def test_scores_and_rollouts_see_the_policy_that_is_trained(tmp_path: Path) -> None:
    """The merged model that a batch source or a score is handed has the log-probabilities of the adapted one."""
    trainer = make_trainer(tmp_path)
    tokens = torch.randint(SHAPE.vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    seen = []

    class Sampling:
        samples_from_model = True

        def batch(self, step: int, model: Transformer) -> Any:
            with torch.no_grad():
                logits = trainer.update.placement.model(tokens)
                seen.append(float((model(tokens) - logits).abs().max()))
            return PretrainBatches(stream(), 4, SHAPE.context, seed=3).batch(step)

    trainer.batches = Sampling()  # type: ignore[assignment]
    trainer.run()
    assert len(seen) == 24
    assert seen[0] == 0
    assert max(seen) < 1e-5


def test_a_tail_average_blends_adapters(tmp_path: Path) -> None:
    settings = AdaptableSettings(
        steps=8, batch_rows=4, learning_rate=1e-2, lora=LORA, tail_average={"start_fraction": 0.5, "weight": 1.0}
    )
    batches = PretrainBatches(stream(), 4, SHAPE.context, seed=3)
    trainer = Trainer(make_model(), LanguageModelObjective(), batches, settings, make_context(tmp_path))
    trainer.run()
    average = trainer.update.average
    assert average is not None
    assert equal(trainer.update.trained(), average.tensors())
    merged = make_model()
    merge(trainer.update.placement.model, merged)
    assert equal(bits(trainer.model), bits(merged))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rank": 0}, "greater than 0"),
        ({"alpha": -1}, "greater than 0"),
        ({"targets": ()}, "name at least one matrix"),
        ({"targets": ("query", "query")}, "each once"),
        ({"targets": ("q_proj",)}, "query"),
        ({"dropout": 0.1}, "Extra inputs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        LoraSettings(**values)


@pytest.mark.parametrize("other", [{"optimizer": "muon"}, {"width_transfer": 64}])
def test_rules_for_whole_matrices_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(other))):
        SftSettings(lora=LORA, **other)


def test_a_rank_that_no_matrix_has_and_several_ranks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"lora\.rank is 17, but key is a matrix of 16 x 32"):
        make_trainer(tmp_path, lora=LoraSettings(rank=17))
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="2 train together"):
        make_trainer(tmp_path)


@pytest.mark.parametrize("kind", [SftSettings, PreferenceSettings, RlvrSettings])
def test_without_adapters_the_identity_is_what_it_was(kind: type[AdaptableSettings]) -> None:
    assert "lora" not in kind().identity()
    fields = set(TrainingSettings.model_fields) - {"checkpoint_every"}
    assert fields <= set(kind().identity())
    assert kind(lora={"rank": 8}).identity()["lora"] == {
        "rank": 8, "alpha": 32.0, "targets": list(TARGETS), "rslora": False,
    }  # fmt: skip


def test_a_plan_counts_what_adapters_take(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=6, warmup_steps=1)
    trainer.run()
    trainer.update.gradients.of(trainer.batches.batch(0, trainer.model))
    placement = trainer.update.placement
    plan = training_memory(SHAPE, trainer.settings, 4, SHAPE.context, "cpu", keeps_best=True)
    held = {weight.data_ptr(): weight for model in (trainer.model, placement.model) for weight in model.parameters()}
    best = trainer.validation_state.best_weights.values()
    parts = {
        "weights": list(held.values()),
        "gradients": [weight.grad for weight in placement.model.parameters()],
        "optimizer": [tensor for tensor in trainer.update.optimizer.tensors().values() if tensor.ndim],
        "copies": [*trainer.update.meter._before, *best],
    }
    for name, tensors in parts.items():
        assert getattr(plan, name) == sum(tensor.nbytes for tensor in tensors if tensor is not None), name
    work = Work("sft", "examples", SHAPE, trainer.settings, 2, 4, SHAPE.context, 128)
    newest = trainer.checkpoints.load_newest()
    assert newest is not None
    written = [tensor for group in newest.tensors.values() for tensor in group.values() if tensor.ndim]
    assert training_disk(work).checkpoints == (checkpoint.KEPT + 1) * sum(tensor.nbytes for tensor in written)
    assert plan.activations == pytest.approx(_kept_for_backward(placement.model), rel=0.05)
    whole = training_flops_per_token(SHAPE, 16)
    assert whole * 0.66 < training_flops_per_token(SHAPE, 16, LoraSettings(rank=1)) < whole * 0.75


def _kept_for_backward(adapted: Transformer) -> int:
    """Bytes of everything that autograd keeps of a batch of 4 rows, weights and tables left out."""
    own = {item.untyped_storage().data_ptr() for item in (*adapted.parameters(), *adapted.buffers())}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = PretrainBatches(stream(), 4, SHAPE.context, seed=3).batch(0)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        LanguageModelObjective().loss(adapted, batch)
    return sum(item.untyped_storage().nbytes() for item in kept.values())


def test_a_copy_of_the_adapted_model_is_its_own(tmp_path: Path) -> None:
    """Only matrices that are adapted are copied; the others are the model's own, not a second time in memory."""
    model = make_model(ModelSettings(**{**SHAPE.model_dump(), "tie_embeddings": False}))
    adapted = adapted_model(model, LoraSettings(rank=2, targets=("query",)), seed=0)
    own = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    shared = {name for name, weight in adapted.named_parameters() if own.get(name) == weight.data_ptr()}
    copied = {f"blocks.{layer}.attention.qkv.weight" for layer in range(SHAPE.layers)}
    assert shared == set(own) - copied
    assert adapted.cosine_SC.data_ptr() == model.cosine_SC.data_ptr()
    assert np.all([weight.requires_grad for weight in model.parameters()])
    assert equal(bits(copy.deepcopy(adapted)), bits(adapted))
