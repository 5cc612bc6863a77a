import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.storage import load_model, save_model
from tests.small_training import make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path, make_model(seed=4))
    return tmp_path


def test_a_model_comes_back_bit_for_bit(folder: Path) -> None:
    expected = make_model(seed=4).state_dict()
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(expected[name], loaded[name]) for name in expected)


def test_the_same_model_is_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_model(other, make_model(seed=4))
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04\x95pickle", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 4) + b"null"],
    ids=["empty", "pickle", "huge header", "no header"],
)
def test_hostile_weight_files_are_refused_by_name(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptionError, match=r"model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "type"])
def test_the_tensor_that_does_not_fit_is_named(folder: Path, fault: str) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "blocks.1.mlp.down.weight"
    weight = weights.pop(name)
    if fault == "unknown":
        weights |= {name: weight, "blocks.9.extra": weight.clone()}
        name = "blocks.9.extra"
    elif fault == "shape":
        weights[name] = weight[:, :-1].contiguous()
    elif fault == "type":
        weights[name] = weight.to(torch.int32)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CorruptionError, match=name):
        load_model(folder)


def test_a_folder_without_a_model_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a model folder"):
        load_model(tmp_path)


def test_a_config_that_describes_no_model_is_corrupt(folder: Path) -> None:
    (folder / "config.json").write_text('{"width": 3}')
    with pytest.raises(CorruptionError, match="does not describe a model"):
        load_model(folder)
