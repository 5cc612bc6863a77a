from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from pocketlm.errors import InputError
from pocketlm.model.config import SHAPES, ModelSettings, RopeScaling, preset
from pocketlm.model.formats.hugging_face_config import hugging_face_config
from pocketlm.model.storage import CONFIG, load_config, save_config
from pocketlm.model.transformer import Transformer
from tests.small_training import SHAPE

PARAMETERS = {
    "quickstart": 1_115_264,
    "0.3m": 327_672,
    "1m": 1_122_840,
    "5m": 4_329_408,
    "15m": 15_639_264,
    "50m": 49_675_248,
    "135m": 134_515_008,  # as published
    "135m-qk": 134_515_008 + 30 * 2 * 64,
    "wide-140m": 141_576_960,
}


def test_the_presets_have_exactly_these_parameters_and_so_have_their_modules() -> None:
    assert {name: preset(name).parameter_count() for name in SHAPES} == PARAMETERS
    with torch.device("meta"):
        modules = {name: Transformer(preset(name)) for name in SHAPES}
    counted = {name: sum(weight.numel() for weight in module.parameters()) for name, module in modules.items()}
    assert counted == PARAMETERS


@pytest.mark.parametrize("name", ["0.3m", "1m", "5m", "15m", "50m"])
def test_the_proxies_are_small_copies_of_135m(name: str) -> None:
    shape = preset(name)
    assert shape.parameter_count() == pytest.approx(float(name.removesuffix("m")) * 1e6, rel=0.15)
    assert shape.heads == 3 * shape.kv_heads
    assert shape.ffn_width * 3 == shape.width * 8
    assert shape.head_dim in (32, 64)
    # No other number of layers comes nearer to 19.2 channels a layer; the smallest has one less, for its name.
    assert abs(shape.width / shape.layers - 19.2) < (5 if name == "0.3m" else 1)
    hugging_face_config(shape)  # refuses what transformers refuses


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="135m, 135m-qk, wide-140m"):
        preset("7b")


@pytest.mark.parametrize("layout", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_counted_parameters_are_those_of_the_module(layout: str, tied: bool) -> None:
    settings = ModelSettings(**{**SHAPE.model_dump(), "layout": layout, "tie_embeddings": tied})
    assert settings.parameter_count() == sum(weight.numel() for weight in Transformer(settings).parameters())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"heads": 4, "kv_heads": 3}, r"divisor of heads \(1, 2, 4\)"),
        ({"head_dim": 7}, "even head_dim"),
        ({"width": 0}, "greater than 0"),
        ({"depth": 3}, "Extra inputs"),
        ({"rope_theta": 1.0}, "greater than 1"),
        ({"rope_scaling": {"factor": 1.0, "original_context": 16}}, "greater than 1"),
        ({"rope_scaling": {"factor": 2.0, "original_context": 0}}, "greater than 0"),
        ({"rope_scaling": {"factor": 2.0, "original_context": 16, "beta_fast": 1.0}}, "set beta_fast above beta_slow"),
        ({"context": 33, "rope_scaling": {"factor": 2.0, "original_context": 16}}, "a context of 33 is more than"),
    ],
)
def test_impossible_shapes_are_refused_with_the_reason(change: dict[str, int], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelSettings(**{**SHAPE.model_dump(), **change})


def test_an_extended_context_counts_in_the_identity_and_its_absence_leaves_no_trace(tmp_path: Path) -> None:
    assert "rope_scaling" not in SHAPE.identity()
    scaling = RopeScaling(factor=4.0, original_context=16)
    extended = ModelSettings(**{**SHAPE.model_dump(), "context": 64, "rope_scaling": scaling})
    assert extended.identity()["rope_scaling"] == scaling.identity()
    for shape in (SHAPE, extended):
        save_config(tmp_path, shape)
        assert load_config(tmp_path) == shape
    save_config(tmp_path, SHAPE)
    assert b"rope_scaling" not in (tmp_path / CONFIG).read_bytes()


def test_a_shape_takes_the_vocabulary_of_its_tokenizer() -> None:
    assert SHAPES["135m"].with_vocabulary(49_152) == preset("135m")
