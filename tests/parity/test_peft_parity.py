"""Adapters against peft: equal losses and gradients step by step, the same merged model, files that go both ways."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.formats.hugging_face import export_weights
from pocketlm.model.formats.peft import merge_adapter, write_adapter
from pocketlm.model.lora_settings import LoraSettings
from pocketlm.model.transformer import Transformer
from pocketlm.training.adapters import Adapted
from pocketlm.training.batches import Batch
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import AdaptableSettings
from pocketlm.training.update import Order, Update
from tests.small_training import SHAPE, make_context, make_model
from tests.small_training import stream as token_stream

ROWS, STEPS, RATE = 3, 5, 2e-2
OPTIMISATION = {"weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
CASES = [
    ("llama", LoraSettings(rank=4, alpha=8)),
    ("qwen3", LoraSettings(rank=3, alpha=5, rslora=True, targets=("value", "query", "output", "up"))),
]


# peft 0.21 asks transformers 5.23 for an attribute by its former name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def base_model(layout: str) -> Transformer:
    model = make_model(ModelSettings(**{**SHAPE.model_dump(), "layout": layout, "context": 24}), seed=5)
    with torch.no_grad():
        for weight in model.parameters():  # gains of 1 would hide a mixed-up norm
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return model


def exported(model: Transformer, folder: Path) -> Any:
    """The base in transformers."""
    from transformers import AutoModelForCausalLM

    if not folder.exists():
        folder.mkdir()
        export_weights(model, folder, end_of_text=0, end_of_turn=2)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def batches(steps: int) -> Iterator[torch.Tensor]:
    rows = torch.from_numpy(token_stream(steps * ROWS * 17).astype("int64")).view(steps, ROWS, 17)
    yield from rows


def logits_of(theirs: Any) -> torch.Tensor:
    tokens = torch.randint(SHAPE.vocabulary, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return theirs(tokens).logits if hasattr(theirs, "config") else theirs(tokens)


def gradients_of(placement: Adapted, folder: Path) -> dict[str, torch.Tensor]:
    """The gradients of the factors under peft's names, by writing them as if they were factors."""
    bearer = copy.deepcopy(placement.model)
    for name, weight in placement.weights.items():
        bearer.get_parameter(name).data.copy_(weight.grad)
    write_adapter(folder, bearer, placement.lora)
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(("layout", "lora"), CASES)
def test_losses_gradients_and_the_merged_model_are_those_of_peft(
    layout: str, lora: LoraSettings, tmp_path: Path
) -> None:
    from peft import PeftModel

    model = base_model(layout)
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    theirs = exported(model, tmp_path / "base")
    settings = AdaptableSettings(steps=STEPS, batch_rows=ROWS, learning_rate=RATE, schedule="constant", lora=lora)
    update = Update(model, LanguageModelObjective(), settings, make_context(tmp_path))
    placement = update.placement
    assert isinstance(placement, Adapted)
    write_adapter(tmp_path / "begun", placement.model, lora)
    peft_model = PeftModel.from_pretrained(theirs, tmp_path / "begun", is_trainable=True)
    own = {name: weight for name, weight in peft_model.named_parameters() if weight.requires_grad}
    assert {name.replace(".default", "") for name in own} == set(
        load_file(tmp_path / "begun/adapter_model.safetensors")
    )
    optimizer = torch.optim.AdamW(own.values(), lr=RATE, **OPTIMISATION)
    for step, rows in enumerate(batches(STEPS)):
        tokens, targets = rows[:, :-1], rows[:, 1:]
        expected = F.cross_entropy(peft_model(tokens).logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        expected.backward()
        batch = Batch(tokens, targets)
        loss, _ = update.gradients.of(batch)
        assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-5)
        found = gradients_of(placement, tmp_path / f"gradients-{step}")
        for name, weight in own.items():
            assert weight.grad is not None
            torch.testing.assert_close(found[name.replace(".default", "")], weight.grad, rtol=1e-4, atol=1e-5)
        assert (step == 0) == all(not gradient.any() for name, gradient in found.items() if "lora_A" in name)
        torch.nn.utils.clip_grad_norm_(own.values(), 1.0)
        optimizer.step()
        placement.zero_grad()
        update.step(batch, Order(step, RATE))
    update.fill()
    assert any(not torch.equal(weight, start[name]) for name, weight in model.state_dict().items())
    torch.testing.assert_close(logits_of(model), logits_of(peft_model.eval()), rtol=1e-4, atol=1e-4)
    write_adapter(tmp_path / "trained", placement.model, lora)
    loaded = PeftModel.from_pretrained(exported(model, tmp_path / "base"), tmp_path / "trained").eval()
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=1e-4, atol=2e-5)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=1e-4, atol=2e-5)
    again = base_model(layout)
    merge_adapter(again, tmp_path / "trained")
    assert all(
        torch.allclose(weight, model.state_dict()[name], atol=1e-7) for name, weight in again.state_dict().items()
    )


@pytest.mark.parametrize("layout", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "options",
    [
        {"r": 5, "target_modules": ["q_proj", "v_proj"]},
        {"r": 8, "target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
        {"r": 2, "target_modules": ["down_proj", "k_proj"], "layers_to_transform": [1], "lora_dropout": 0.1},
    ],
)
def test_an_adapter_of_peft_is_merged_as_peft_merges_it(layout: str, options: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = base_model(layout)
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options)
    peft_model = get_peft_model(exported(model, tmp_path / "base"), config).eval()
    peft_model.save_pretrained(tmp_path / "adapter")
    before = logits_of(model)
    merge_adapter(model, tmp_path / "adapter")
    assert not torch.allclose(before, logits_of(model), atol=1e-2)
    torch.testing.assert_close(logits_of(model), logits_of(peft_model), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_of(model), logits_of(peft_model.merge_and_unload()), rtol=1e-4, atol=1e-4)


def adapter(folder: Path, **config: Any) -> Path:
    """An adapter of ours, with keys of its config set."""
    lora = LoraSettings(rank=2, targets=("query", "down"))
    write_adapter(folder, Adapted(base_model("llama"), lora, seed=1).model, lora)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True), ("modules_to_save", ["lm_head"]), ("bias", "all"), ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}), ("fan_in_fan_out", True), ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [1]), ("init_lora_weights", "pissa"), ("peft_type", "IA3"), ("r", 0),
        ("lora_alpha", float("nan")), ("alora_invocation_tokens", [1]), ("a_key_of_tomorrow", {"on": True}),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused_by_its_key(key: str, value: Any, tmp_path: Path) -> None:
    model = base_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises((InputError, CorruptionError), match=key if key != "r" else "r is 0"):
        merge_adapter(model, adapter(tmp_path / "adapter", **{key: value}))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop(f"{LAYER}.lora_B.weight"), "q_proj has only one of lora_A and lora_B"),
        (lambda tensors: tensors.update({f"{LAYER}.lora_magnitude_vector": torch.ones(4)}), "lora_magnitude_vector"),
        (lambda tensors: tensors.update({f"{LAYER}.lora_A.weight": torch.ones(2, 5)}), "made for another model"),
        (lambda tensors: tensors.update({f"{LAYER}.lora_A.weight": torch.ones(2, 32, dtype=torch.int8)}), "int8"),
        (
            lambda tensors: tensors.update(
                {name.replace("layers.0", "layers.7"): tensor.clone() for name, tensor in tensors.items()}
            ),
            r"layers\.7\.mlp\.down_proj, which has no counterpart",
        ),
        (
            lambda tensors: tensors.update(
                {f"base_model.model.lm_head.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
            ),
            "lm_head, which has no counterpart",
        ),
        (lambda tensors: tensors.clear(), "holds no tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: Any, told: str, tmp_path: Path) -> None:
    path = adapter(tmp_path / "adapter") / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    model = base_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises((InputError, CorruptionError), match=told):
        merge_adapter(model, path.parent)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_missing_and_damaged_files_are_told(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CorruptionError, match="not a readable safetensors file"):
        merge_adapter(base_model("llama"), folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="a pickle, which runs code"):
        merge_adapter(base_model("llama"), folder)
