"""Low-rank adapters in peft's format: `adapter_config.json` and `adapter_model.safetensors`, both directions.

peft's modules are those of transformers: what is fused here has an adapter for each of its matrices there, which is
how ours are made (`model/lora.py`). The base model is named by nothing in the files: `PeftModel.from_pretrained` is
handed it. A foreign adapter is merged into the weights. Only safetensors are read; a feature that has no counterpart
here is refused by its key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.formats.hugging_face import NAMING
from pocketlm.model.formats.naming import split_rows
from pocketlm.model.lora import factors_of
from pocketlm.model.lora_settings import FUSED, LoraSettings, Target
from pocketlm.model.storage import read_json, write_tensors
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.storage import json_bytes

ADAPTER = "adapter"
"""Folder of an artifact, beside the weights that are merged with it."""
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."
SIDES = ("lora_A", "lora_B")
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip
"""Keys that change no weight: how it was trained, where; which modules are adapted say the tensors."""
READ = {"peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"}
FIRST = "merge it with peft first, and import the merged model"
KEEPS_BASE = (True, False, "gaussian", "eva", "orthogonal")
"""Beginnings of an adapter that leave the base as it was; others (PiSSA, OLoRA, LoftQ) change its weights."""


def write_adapter(folder: Path, adapted: Transformer, settings: LoraSettings) -> None:
    """Write the adapters of a model into a new folder, fp32."""
    tensors = {}
    for factors in factors_of(adapted):
        module = PREFIX + peft_module(factors.layer, factors.target)
        for side, tensor in zip(SIDES, (factors.A, factors.B), strict=True):
            tensors[f"{module}.{side}.weight"] = tensor.cpu().contiguous()
    folder.mkdir()
    (folder / CONFIG).write_bytes(json_bytes(adapter_config(settings)))
    write_tensors(folder / WEIGHTS, tensors, metadata={"format": "pt"})


def adapter_config(settings: LoraSettings) -> dict[str, Any]:
    """What `adapter_config.json` says of adapters as they are trained here."""
    modules = [peft_module(0, target).rpartition(".")[2] for target in settings.targets]
    whole = settings.alpha == int(settings.alpha)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": settings.rank,
        "lora_alpha": int(settings.alpha) if whole else settings.alpha,
        "use_rslora": settings.rslora,
        "target_modules": sorted(modules),
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def peft_module(layer: int, target: Target) -> str:
    """The module of transformers that a matrix is the weight of, such as `model.layers.0.self_attn.q_proj`."""
    name, place = next((name, targets.index(target)) for name, targets in FUSED.items() if target in targets)
    return NAMING.parts(f"blocks.{layer}.{name}.weight")[place].removesuffix(".weight")


def adapter_files(folder: Path) -> dict[str, Path]:
    """The two files of an adapter by their names. InputError: one is not there."""
    files = {name: folder / name for name in (CONFIG, WEIGHTS)}
    for path in files.values():
        if not path.is_file():
            pickle = folder / "adapter_model.bin"
            hint = (
                f"; {pickle.name} is a pickle, which runs code when it is read: convert it" if pickle.exists() else ""
            )
            raise InputError(f"{folder} is no adapter of peft: it has no {path.name}{hint}")
    return files


@torch.no_grad()
def merge_adapter(model: Transformer, folder: Path) -> None:
    """Add an adapter's scale * B A to the model's weights, in place, as peft's `merge_and_unload` does.

    Raises:
        InputError: a file is missing; the adapter has a feature, or adapts a module, that has no counterpart here; or
            it was made for another shape.
        CorruptionError: a file is damaged.
    """
    files = adapter_files(folder)
    rank, scale = _scale(read_json(files[CONFIG]), files[CONFIG])
    try:
        pairs = _pairs(load_file(files[WEIGHTS]), files[WEIGHTS])
    except SafetensorError as error:
        raise CorruptionError(f"{files[WEIGHTS]} is not a readable safetensors file: {error}") from None
    matrices = _matrices(model)
    if unknown := pairs.keys() - matrices.keys():
        raise InputError(
            f"{files[WEIGHTS]}: it adapts {min(unknown)}, which has no counterpart in a {model.settings.layout} model "
            f"of {model.settings.layers} layers; adapters of the seven projections of its layers can be read"
        )
    for module, (A, B) in pairs.items():
        rows, columns = matrices[module].shape
        if A.shape != (rank, columns) or B.shape != (rows, rank):
            raise InputError(
                f"{files[WEIGHTS]}: {module} has factors of {list(B.shape)} and {list(A.shape)}; for this model and "
                f"the rank {rank} they are [{rows}, {rank}] and [{rank}, {columns}]: the adapter was made for another "
                "model"
            )
    for module, (A, B) in pairs.items():
        matrices[module].add_((B.float() @ A.float()).mul_(scale).to(matrices[module].device))


def _matrices(model: Transformer) -> dict[str, Tensor]:
    """The matrices of the layers by the modules of transformers: views of the model's weights."""
    found: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if name.startswith("blocks.") and weight.ndim == 2:
            parts = zip(NAMING.parts(name), split_rows(model.settings, name, weight), strict=True)
            found |= {part.removesuffix(".weight"): matrix for part, matrix in parts}
    return found


def _scale(config: Mapping[str, Any], path: Path) -> tuple[int, float]:
    """Rank and scale; InputError names a key that asks for what we do not have."""
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}; adapters of the type LORA can be read")
    for key in sorted(config.keys() - WITHOUT_EFFECT - READ):
        if config[key]:
            raise InputError(
                f"{path}: {key} is {config[key]!r}, which has no counterpart here; merge it with peft first"
            )
    if config.get("bias", "none") != "none":
        raise InputError(f"{path}: bias is {config['bias']!r}; our models have no biases; {FIRST}")
    beginning = config.get("init_lora_weights", True)
    if beginning not in KEEPS_BASE:
        raise InputError(
            f"{path}: init_lora_weights is {beginning!r}, which changes the base model's weights too; save the adapter "
            "as a plain one (peft: path_initial_model_for_weight_conversion)"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise CorruptionError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}, which are no rank and scale")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pairs(tensors: Mapping[str, Tensor], path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> A and B; InputError for a tensor that is neither, or stands alone."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, side = name.removesuffix(".weight").rpartition(".")
        if not (name.startswith(PREFIX) and name.endswith(".weight") and side in SIDES):
            raise InputError(f"{path}: tensor {name} is no factor of a linear layer; {FIRST}")
        if not tensor.is_floating_point():
            raise InputError(f"{path}: tensor {name} is {tensor.dtype}; factors can be read as floating-point numbers")
        sides.setdefault(module.removeprefix(PREFIX), {})[side] = tensor
    if alone := sorted(module for module, pair in sides.items() if len(pair) < len(SIDES)):
        raise CorruptionError(f"{path}: {alone[0]} has only one of {' and '.join(SIDES)}")
    if not sides:
        raise CorruptionError(f"{path} holds no tensor")
    return {module: (pair["lora_A"], pair["lora_B"]) for module, pair in sides.items()}
