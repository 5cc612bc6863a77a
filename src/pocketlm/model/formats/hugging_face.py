"""Weights as transformers keeps them: LlamaForCausalLM (`llama`) and Qwen3ForCausalLM (`qwen3`), both directions.

The rotary channel order is the same on both sides, so export only splits the fused projections and renames. The
tokenizer's files belong to the data room and are not touched here. Only safetensors are read: pickles are refused.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.formats.hugging_face_config import hugging_face_config, settings_from_hugging_face
from pocketlm.model.formats.naming import Naming, build_model, split_rows
from pocketlm.model.storage import CONFIG, WEIGHTS, read_json, write_tensors
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.storage import json_bytes

INDEX = f"{WEIGHTS}.index.json"
NAMING = Naming(
    top={
        "embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    layer={
        "attention_norm.weight": ("input_layernorm.weight",),
        "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        "attention.output.weight": ("self_attn.o_proj.weight",),
        "attention.query_norm.weight": ("self_attn.q_norm.weight",),
        "attention.key_norm.weight": ("self_attn.k_norm.weight",),
        "mlp_norm.weight": ("post_attention_layernorm.weight",),
        "mlp.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "mlp.down.weight": ("mlp.down_proj.weight",),
    },
    prefix="model.layers.{}.",
)
_NUMBER_TYPES = ("F32", "F16", "BF16", "F64")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def export_weights(
    model: Transformer, folder: Path, end_of_text: int, end_of_turn: int, dtype: torch.dtype = torch.float32
) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors` into an existing folder.

    `end_of_text` borders documents and begins a text (bos, pad); a chat answer ends with `end_of_turn`.
    """
    for name, content in settings_files(model.settings, end_of_text, end_of_turn, dtype).items():
        (folder / name).write_bytes(content)
    weights = {name: weight.to(dtype).contiguous() for name, weight in to_hugging_face(model).items()}
    write_tensors(folder / WEIGHTS, weights, metadata={"format": "pt"})


def settings_files(
    settings: ModelSettings, end_of_text: int, end_of_turn: int, dtype: torch.dtype = torch.float32
) -> dict[str, bytes]:
    """`config.json` and `generation_config.json` of `export_weights`."""
    special = {"bos_token_id": end_of_text, "eos_token_id": [end_of_turn, end_of_text]}
    # In config.json a padding token would stop transformers from training the embedding of the document border.
    generation = {**special, "pad_token_id": end_of_text, "do_sample": False}
    return {
        CONFIG: json_bytes({**hugging_face_config(settings, dtype), **special}),
        "generation_config.json": json_bytes(generation),
    }


def load_hugging_face(folder: Path, device: torch.device | str = "cpu") -> Transformer:
    """A Llama or Qwen3 folder as our model, fp32; fp16 and bf16 weights are widened, shards joined.

    Raises:
        InputError: a file is missing, the weights are pickled, or a setting or tensor has no counterpart here.
        CorruptionError: a file is damaged.
    """
    settings = settings_from_hugging_face(read_json(folder / CONFIG), folder / CONFIG)
    files: dict[str, Any] = {}
    with ExitStack() as stack:
        for path in weight_files(folder):
            file = stack.enter_context(_open(path))
            for name in sorted(file.keys()):
                if name in files:
                    raise CorruptionError(f"{path}: tensor {name} stands in two files")
                files[name] = file
        # Angles are computed from rope_theta; tied, transformers takes the embedding whatever the head holds.
        shapes = {
            name: _shape(name, file, folder)
            for name, file in files.items()
            if not name.endswith("rotary_emb.inv_freq") and not (settings.tie_embeddings and name == "lm_head.weight")
        }
        model = build_model(settings, NAMING, shapes, lambda name: files[name].get_tensor(name), folder)
    return model.to(device)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or the shards that its index names, in order.

    Raises:
        InputError: there are none, or one that the index names is missing or lies elsewhere.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        raise InputError(
            f"{folder} has no {WEIGHTS} and no {INDEX}"
            + (f"; {pickles[0]} is a pickle, which runs code when it is read: convert it" if pickles else "")
        )
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise InputError(f"{folder / INDEX} has no weight_map")
    names = sorted({str(name) for name in index.values()})
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise InputError(f"{folder / INDEX} names {name!r}, which is no safetensors file of its folder")
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: {INDEX} names it")
    return [folder / name for name in names]


def to_hugging_face(model: Transformer) -> dict[str, Tensor]:
    """The model's weights (views on the CPU) under transformers' names."""
    theirs: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        rows = split_rows(model.settings, name, weight.detach().cpu())
        theirs.update(zip(NAMING.parts(name), rows, strict=True))
    return theirs


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise CorruptionError(f"{path} is not a readable safetensors file: {error}") from None


def _shape(name: str, file: Any, folder: Path) -> tuple[int, ...]:
    place = file.get_slice(name)
    if place.get_dtype() not in _NUMBER_TYPES:
        raise InputError(
            f"{folder}: tensor {name} is {place.get_dtype()}; weights can be read as {', '.join(_NUMBER_TYPES)}"
        )
    return tuple(place.get_shape())
