"""Weights as transformers keeps them: LlamaForCausalLM (`llama`) and Qwen3ForCausalLM (`qwen3`), both directions.

The rotary channel order is the same on both sides, so export only splits the fused projections and renames. The
tokenizer's files belong to the data room and are not touched here.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.storage import CONFIG, WEIGHTS, load_weights, read_json, read_tensors
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.storage import json_bytes

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_TOP = {"embedding.weight": "model.embed_tokens.weight", "final_norm.weight": "model.norm.weight"}
_HEAD = {"head.weight": "lm_head.weight"}
_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
_QKV = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
_GATE_UP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")


def export_weights(
    model: Transformer, folder: Path, end_of_text: int, end_of_turn: int, dtype: torch.dtype = torch.float32
) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors` into an existing folder.

    `end_of_text` borders documents and begins a text (bos, pad); a chat answer ends with `end_of_turn`.
    """
    special = {"bos_token_id": end_of_text, "eos_token_id": [end_of_turn, end_of_text]}
    (folder / CONFIG).write_bytes(json_bytes({**hugging_face_config(model.settings, dtype), **special}))
    # In config.json a padding token would stop transformers from training the embedding of the document border.
    generation = {**special, "pad_token_id": end_of_text, "do_sample": False}
    (folder / "generation_config.json").write_bytes(json_bytes(generation))
    weights = {name: weight.to(dtype).contiguous() for name, weight in to_hugging_face(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def load_hugging_face(folder: Path, device: torch.device | str = "cpu") -> Transformer:
    """A Llama or Qwen3 folder as our model; InputError says which of its settings we cannot represent."""
    settings = settings_from_hugging_face(read_json(folder / CONFIG), folder / CONFIG)
    if (folder / "model.safetensors.index.json").exists():
        names = sorted({str(name) for name in _weight_map(folder).values()})
    else:
        names = [WEIGHTS]
    theirs = {name: tensor for file in names for name, tensor in read_tensors(folder / file).items()}
    model = Transformer(settings)
    load_weights(model, _from_hugging_face(model, theirs, folder), folder / WEIGHTS)
    return model.to(device)


def hugging_face_config(settings: ModelSettings, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The `config.json` of the same shape, without special tokens; `rope_parameters` is read by transformers >= 5,
    `rope_theta` by older ones and by other programs."""
    return {
        "architectures": [_ARCHITECTURES[settings.layout]],
        "model_type": settings.layout,
        "vocab_size": settings.vocabulary,
        "hidden_size": settings.width,
        "intermediate_size": settings.ffn_width,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.kv_heads,
        "head_dim": settings.head_dim,
        "max_position_embeddings": settings.context,
        "rope_theta": settings.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "rms_norm_eps": settings.norm_epsilon,
        "tie_word_embeddings": settings.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        **({"mlp_bias": False} if settings.layout == "llama" else {"use_sliding_window": False}),
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": str(dtype).removeprefix("torch."),
    }


def settings_from_hugging_face(config: dict[str, Any], origin: Path) -> ModelSettings:
    """ModelSettings of a Hugging Face config; InputError names the field that has no counterpart."""
    layout = config.get("model_type")
    if layout not in _ARCHITECTURES:
        raise InputError(f"{origin}: model_type is {layout!r}; only {' and '.join(_ARCHITECTURES)} can be read")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    unsupported = {
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "attention_bias": (config.get("attention_bias", False), False),
        "mlp_bias": (config.get("mlp_bias", False), False),
        "use_sliding_window": (config.get("use_sliding_window", False), False),
    }
    for field, (found, supported) in unsupported.items():
        if found != supported:
            raise InputError(f"{origin}: {field} is {found!r}; only {supported!r} can be represented")
    try:
        heads, width = config["num_attention_heads"], config["hidden_size"]
        return ModelSettings(
            layout=layout,
            vocabulary=config["vocab_size"],
            width=width,
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or width // heads,
            ffn_width=config["intermediate_size"],
            context=config["max_position_embeddings"],
            rope_theta=rope.get("rope_theta") or config.get("rope_theta", 10_000.0),
            norm_epsilon=config["rms_norm_eps"],
            tie_embeddings=config.get("tie_word_embeddings", layout == "qwen3"),
        )
    except KeyError as error:
        raise InputError(f"{origin}: the field {error} is missing") from None
    except ValidationError as error:
        raise InputError(f"{origin}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None


def to_hugging_face(model: Transformer) -> dict[str, Tensor]:
    """The model's weights (views on the CPU) under transformers' names."""
    theirs = {}
    sizes = model.settings.fused_rows()
    weights = {name: weight.detach().cpu() for name, weight in model.state_dict().items()}
    for name, weight in weights.items():
        if not name.startswith("blocks."):
            theirs[(_TOP | _HEAD)[name]] = weight
            continue
        _, layer, inner = name.split(".", 2)
        for part, tensor in zip(_parts(inner), weight.split(sizes.get(inner, [weight.shape[0]])), strict=True):
            theirs[f"model.layers.{layer}.{part}"] = tensor
    return theirs


def _from_hugging_face(model: Transformer, theirs: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    theirs = dict(theirs)
    if model.settings.tie_embeddings:
        theirs.pop("lm_head.weight", None)

    def take(names: tuple[str, ...]) -> Tensor:
        for name in names:
            if name not in theirs:
                raise InputError(f"{folder}: the weights have no tensor {name}, which {CONFIG} asks for")
        return torch.cat([theirs.pop(name) for name in names])

    ours = {}
    for name in model.state_dict():
        if name.startswith("blocks."):
            _, layer, inner = name.split(".", 2)
            ours[name] = take(tuple(f"model.layers.{layer}.{part}" for part in _parts(inner)))
        else:
            ours[name] = take(((_TOP | _HEAD)[name],))
    if theirs:
        raise InputError(
            f"{folder}: the weights hold {sorted(theirs)[0]}, which a {model.settings.layout} model does not have"
        )
    return ours


def _parts(inner: str) -> tuple[str, ...]:
    return {"attention.qkv.weight": _QKV, "mlp.gate_up.weight": _GATE_UP}.get(inner) or (_LAYER[inner],)


def _weight_map(folder: Path) -> dict[str, Any]:
    index = read_json(folder / "model.safetensors.index.json").get("weight_map")
    if not isinstance(index, dict):
        raise InputError(f"{folder}/model.safetensors.index.json has no weight_map")
    return index
