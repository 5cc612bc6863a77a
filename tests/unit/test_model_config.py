import pytest
from pydantic import ValidationError

from pocketlm.errors import InputError
from pocketlm.model.config import SHAPES, ModelSettings, preset
from pocketlm.model.transformer import Transformer
from tests.small_training import SHAPE


def test_the_135m_preset_has_exactly_the_published_parameter_count() -> None:
    assert preset("135m").parameter_count() == 134_515_008


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="135m, 1m"):
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
    ],
)
def test_impossible_shapes_are_refused_with_the_reason(change: dict[str, int], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelSettings(**{**SHAPE.model_dump(), **change})


def test_a_shape_takes_the_vocabulary_of_its_tokenizer() -> None:
    assert SHAPES["135m"].with_vocabulary(49_152) == preset("135m")
