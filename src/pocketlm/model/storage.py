"""A model folder: `config.json` (ModelSettings) and `model.safetensors` (fp32, our tensor names). No pickle."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.storage import json_bytes

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_model(folder: Path, model: Transformer) -> None:
    """Write `config.json` and `model.safetensors` into an existing folder; the weights as fp32, sorted by name."""
    save_config(folder, model.settings)
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in model.state_dict().items()}
    write_tensors(folder / WEIGHTS, weights)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises OSError when the disk refuses: the format's writer has an error of its own."""
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def save_config(folder: Path, settings: ModelSettings) -> None:
    """Write `config.json`; what is not set is left out."""
    (folder / CONFIG).write_bytes(json_bytes(settings.model_dump(mode="json", exclude_none=True)))


def load_config(folder: Path) -> ModelSettings:
    """Read `config.json`; InputError when it is missing, CorruptionError when it does not describe a model."""
    path = folder / CONFIG
    try:
        return ModelSettings.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{folder} is not a model folder: it has no {CONFIG}") from None
    except ValidationError as error:
        raise CorruptionError(f"{path} does not describe a model: {error.errors()[0]['msg']}") from None


def load_model(folder: Path, device: torch.device | str = "cpu") -> Transformer:
    """The model of a folder, on `device`. CorruptionError names the file or the tensor that does not fit."""
    model = Transformer(load_config(folder))
    load_weights(model, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return model.to(device)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; its header and sizes are checked by the format's own reader."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except SafetensorError as error:
        raise CorruptionError(f"{path} is not a readable safetensors file: {error}") from None


def load_weights(model: Transformer, weights: dict[str, Tensor], origin: Path) -> None:
    """Copy tensors into the model; CorruptionError names a tensor that is missing, unknown, misshapen or not float."""
    load_tensors(model.state_dict(), weights, origin)


@torch.no_grad()
def load_tensors(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], origin: Path) -> None:
    """`load_weights` into the tensors of `own`."""
    unknown, missing = sorted(weights.keys() - own.keys()), sorted(own.keys() - weights.keys())
    if unknown or missing:
        raise CorruptionError(
            f"{origin} does not fit the model's config: "
            + (f"tensor {missing[0]} is missing" if missing else f"tensor {unknown[0]} is unknown")
        )
    for name, weight in own.items():
        stored = weights[name]
        if stored.shape != weight.shape or not stored.is_floating_point():
            raise CorruptionError(
                f"{origin}: tensor {name} is {stored.dtype} {list(stored.shape)}, the config asks for a floating-point "
                f"{list(weight.shape)}"
            )
        weight.copy_(stored)


def read_json(path: Path) -> dict[str, object]:
    """A JSON object; InputError when the file is missing, CorruptionError when it holds anything else."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except ValueError as error:
        raise CorruptionError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorruptionError(f"{path} is not a JSON object")
    return value
