"""`config.json` of transformers' LlamaForCausalLM and Qwen3ForCausalLM, to and from ModelSettings.

A field that changes what the model computes and has no counterpart here is refused by name, never ignored.
"""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings, RopeScaling
from pocketlm.model.formats.naming import MOST_HEADS, require_exportable

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
DEFAULT_ROPE_THETA = 10_000.0


class _Rope(BaseModel):
    """`rope_parameters` (transformers >= 5) or `rope_scaling` (before)."""

    model_config = ConfigDict(extra="forbid")

    rope_type: Literal["default", "yarn"] = Field(default="default", validation_alias=AliasChoices("rope_type", "type"))
    rope_theta: float | None = None
    partial_rotary_factor: float = Field(default=1.0, ge=1, le=1)
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: None = None
    mscale_all_dim: None = None
    truncate: Literal[True] = True

    def scaling(self, context: int, origin: Path) -> RopeScaling | None:
        """YaRN with the defaults of transformers; None for the plain rotation."""
        if self.rope_type == "default":
            return None
        scaling = RopeScaling.model_validate(
            {
                "factor": self.factor,
                "original_context": self.original_max_position_embeddings or context,
                "beta_fast": self.beta_fast or 32.0,
                "beta_slow": self.beta_slow or 1.0,
            }
        )
        expected = scaling.attention_factor()
        if self.attention_factor is not None and not math.isclose(self.attention_factor, expected, rel_tol=1e-6):
            raise InputError(
                f"{origin}: attention_factor is {self.attention_factor}; only that of the paper can be represented, "
                f"0.1 ln(factor) + 1 = {expected:.6g}"
            )
        return scaling


class _Config(BaseModel):
    """The fields that decide what is computed; whatever else stands in the file is for training or generation."""

    model_type: Literal["llama", "qwen3"]
    architectures: list[str] | None = None
    vocab_size: int
    hidden_size: int = Field(gt=0)
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int = Field(gt=0, le=MOST_HEADS)
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float = DEFAULT_ROPE_THETA
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    tie_word_embeddings: bool = False
    hidden_act: Literal["silu", "swish"] = "silu"
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    use_sliding_window: Literal[False] = False
    layer_types: list[Literal["full_attention"]] | None = None
    partial_rotary_factor: float = Field(default=1.0, ge=1, le=1)
    quantization_config: None = None


def hugging_face_config(settings: ModelSettings, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The `config.json` of the same shape, without special tokens; `rope_parameters` is read by transformers >= 5,
    `rope_theta` and `rope_scaling` by older ones and by other programs.

    Raises:
        InputError: a layout that transformers does not know, or a shape that it refuses.
    """
    require_exportable(settings)
    if settings.layout == "llama" and settings.width % settings.heads:
        raise InputError(
            f"a llama model of width {settings.width} with {settings.heads} heads cannot be exported: transformers "
            "wants the width to be a multiple of the heads; train such a shape with the layout qwen3"
        )
    rope = _rope(settings.rope_scaling)
    return {
        "architectures": [ARCHITECTURES[settings.layout]],
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
        "rope_parameters": {"rope_theta": settings.rope_theta, **rope},
        **({"rope_scaling": rope} if settings.rope_scaling else {}),
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


def _rope(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default"}
    return {
        "rope_type": "yarn",
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_context,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
    }


def settings_from_hugging_face(config: dict[str, Any], origin: Path) -> ModelSettings:
    """ModelSettings of a Hugging Face config; InputError names the field that is missing or has no counterpart."""
    try:
        theirs = _Config.model_validate(config)
        # The order of transformers 5: rope_scaling wins unless it is empty.
        given = (item for item in (theirs.rope_scaling, theirs.rope_parameters) if item and item.model_fields_set)
        rope = next(given, _Rope())
        architecture = ARCHITECTURES[theirs.model_type]
        if theirs.architectures and architecture not in theirs.architectures:
            raise InputError(f"{origin}: architectures is {theirs.architectures}; only {architecture} can be read")
        if theirs.model_type == "qwen3" and theirs.head_dim is None:
            raise InputError(f"{origin}: the field head_dim is missing; transformers would take 128")
        heads = theirs.num_attention_heads
        return ModelSettings(
            layout=theirs.model_type,
            vocabulary=theirs.vocab_size,
            width=theirs.hidden_size,
            layers=theirs.num_hidden_layers,
            heads=heads,
            kv_heads=theirs.num_key_value_heads or heads,
            head_dim=theirs.head_dim or theirs.hidden_size // heads,
            ffn_width=theirs.intermediate_size,
            context=theirs.max_position_embeddings,
            rope_theta=rope.rope_theta or theirs.rope_theta,
            rope_scaling=rope.scaling(theirs.max_position_embeddings, origin),
            norm_epsilon=theirs.rms_norm_eps,
            tie_embeddings=theirs.tie_word_embeddings,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        found = "" if first["type"] == "missing" else f" is {first['input']!r:.80}"
        raise InputError(f"{origin}: {field or 'the shape'}{found if field else ''}: {first['msg']}") from None
