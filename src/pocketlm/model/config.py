"""Shape of a decoder-only language model: settings, presets and the exact parameter count.

Two layouts, both loaded by the ecosystem without custom code: `llama` (LlamaForCausalLM) and `qwen3` (Qwen3ForCausalLM,
which adds an RMSNorm over every query and key head). Knows no torch.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Settings


class RopeScaling(Settings):
    """YaRN (arXiv 2309.00071): a model of `original_context` positions reads `factor` times as many.

    Channels that turn more than `beta_fast` times within the original context stay as they are, those that turn less
    than `beta_slow` times are slowed down by `factor`, and those between are blended.
    """

    factor: float = Field(gt=1)
    original_context: int = Field(gt=0)
    """Context in tokens before the extension."""
    beta_fast: float = Field(default=32.0, gt=0)
    beta_slow: float = Field(default=1.0, gt=0)

    def attention_factor(self) -> float:
        """What cosines and sines are multiplied with, for attention over more positions is flatter (equation 22)."""
        return 0.1 * math.log(self.factor) + 1.0

    @model_validator(mode="after")
    def _ordered(self) -> "RopeScaling":
        if self.beta_fast <= self.beta_slow:
            raise ValueError(
                f"beta_fast is {self.beta_fast:g} and beta_slow {self.beta_slow:g}: the channels that are kept turn "
                "faster than those that are slowed down; set beta_fast above beta_slow"
            )
        return self


POSITIONS = ("context", "rope_theta", "rope_scaling")
"""Settings of the shape that change positions, not weights."""


class ModelShape(Settings):
    """Shape of the decoder without its vocabulary, which the tokenizer decides.

    Impossible combinations are refused with the reason (pydantic's ValidationError; a recipe adds the place).
    """

    layout: Literal["llama", "qwen3"] = "llama"
    width: int = Field(gt=0)
    """Channels of the residual stream, the "hidden size"."""
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    """Query heads."""
    kv_heads: int = Field(gt=0)
    """Key and value heads, each shared by heads / kv_heads query heads."""
    head_dim: int = Field(gt=0)
    ffn_width: int = Field(gt=0)
    context: int = Field(gt=0)
    """Longest sequence in tokens that the model is trained and run on."""
    rope_theta: float = Field(default=10_000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    """Extension of the context with YaRN; unset: none."""
    norm_epsilon: float = Field(default=1e-6, gt=0)
    tie_embeddings: bool = True

    def with_vocabulary(self, vocabulary: int) -> "ModelSettings":
        """The complete settings for a tokenizer of `vocabulary` tokens."""
        return ModelSettings(vocabulary=vocabulary, **{name: getattr(self, name) for name in ModelShape.model_fields})

    def require_continues(self, start: "ModelShape", name: str) -> None:
        """InputError unless training in this shape can go on from a model of the shape `start`, made by `name`.

        Positions may differ, for they change no weight; a longer context takes an extension of what was trained on.
        """
        unequal = [
            f"{field} is {getattr(self, field)!r} here and {getattr(start, field)!r} there"
            for field in ModelShape.model_fields
            if field not in POSITIONS and getattr(self, field) != getattr(start, field)
        ]
        if unequal:
            raise InputError(f"model: another shape than {name}, which it starts from: {'; '.join(unequal)}")
        extended = self.rope_scaling is not None or self.rope_theta > start.rope_theta
        if self.context > start.context and not extended:
            raise InputError(
                f"model.context is {self.context:,}, but {name}, which it starts from, has seen {start.context:,} "
                "positions; extend them by model.rope_scaling, or by a larger model.rope_theta, or keep the context"
            )

    def identity(self) -> dict[str, Any]:
        """As of all settings. A context that is not extended leaves no trace, as before extensions were known."""
        identity = super().identity()
        if self.rope_scaling is None:
            del identity["rope_scaling"]
        return identity

    @model_validator(mode="after")
    def _possible(self) -> "ModelShape":
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} query heads cannot share {self.kv_heads} key-value heads evenly; "
                f"set kv_heads to a divisor of heads ({', '.join(map(str, _divisors(self.heads)))})"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}, but rotary positions rotate pairs of channels; set an even head_dim"
            )
        if self.rope_scaling is not None:
            reach = self.rope_scaling.factor * self.rope_scaling.original_context
            if self.context > reach:
                raise ValueError(
                    f"a context of {self.context:,} is more than rope_scaling reaches: factor "
                    f"{self.rope_scaling.factor:g} x original_context {self.rope_scaling.original_context:,} = "
                    f"{reach:,.0f}; shorten the context or raise the factor"
                )
        return self


class ModelSettings(ModelShape):
    """Complete shape of the decoder, as `config.json` of a model folder holds it."""

    vocabulary: int = Field(gt=0)
    """Rows of the embedding."""
    tokens: int | None = Field(default=None, gt=0)
    """How many ids, from 0 on, the tokenizer knows, where the embedding was padded to further rows; unset: all."""

    @property
    def known_tokens(self) -> int:
        """Ids below this one are tokens; those from it on, padding, must not be drawn."""
        return self.vocabulary if self.tokens is None else min(self.tokens, self.vocabulary)

    def parameter_count(self) -> int:
        """Exact number of trained parameters; tied embeddings count once."""
        norms = 2 * self.width + (2 * self.head_dim if self.layout == "qwen3" else 0)
        embeddings = self.vocabulary * self.width * (1 if self.tie_embeddings else 2)
        return embeddings + self.layers * (self.layer_matrix_parameters() + norms) + self.width

    def layer_matrix_parameters(self) -> int:
        """Parameters in the matrices of one layer: query, key, value, output, gate, up and down projections."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.width * (2 * queries + 2 * keys) + 3 * self.width * self.ffn_width

    def fused_rows(self) -> dict[str, list[int]]:
        """Rows of the matrices that lie one above the other in a fused projection, by the ending of its name."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"attention.qkv.weight": [queries, keys, keys], "mlp.gate_up.weight": [self.ffn_width] * 2}


# The shape of SmolLM2-135M and L20-Edu-135M.
_DEEP = ModelShape(width=576, layers=30, heads=9, kv_heads=3, head_dim=64, ffn_width=1536, context=2048)

SHAPES = {
    # The quickstart's model: trains in minutes on two CPU cores.
    "quickstart": ModelShape(width=128, layers=4, heads=4, kv_heads=4, head_dim=32, ffn_width=384, context=256),
    # Proxies of `135m`, to try settings on: as deep for their width (about 19.2 channels a layer; 24 in the smallest),
    # feed-forward 8/3 as wide as the stream, 3 query heads for a key-value head.
    "0.3m": ModelShape(width=72, layers=3, heads=3, kv_heads=1, head_dim=32, ffn_width=192, context=256),
    "1m": ModelShape(width=120, layers=6, heads=3, kv_heads=1, head_dim=32, ffn_width=320, context=256),
    "5m": ModelShape(width=192, layers=10, heads=6, kv_heads=2, head_dim=32, ffn_width=512, context=512),
    "15m": ModelShape(width=288, layers=15, heads=9, kv_heads=3, head_dim=32, ffn_width=768, context=512),
    "50m": ModelShape(width=432, layers=22, heads=6, kv_heads=2, head_dim=64, ffn_width=1152, context=1024),
    "135m": _DEEP,
    # The same with RMSNorm over query and key heads: stands higher learning rates.
    "135m-qk": _DEEP.model_copy(update={"layout": "qwen3"}),
    # L20-Edu's baseline of equal size with fewer, wider layers (its configs/l20_wide_140m_baseline.yaml).
    "wide-140m": ModelShape(width=768, layers=12, heads=12, kv_heads=4, head_dim=64, ffn_width=3072, context=2048),
}
# The vocabulary that a shape is meant for; another tokenizer brings its own.
VOCABULARIES = {
    "quickstart": 2048, "0.3m": 2048, "1m": 2048, "5m": 2048, "15m": 8192, "50m": 16_384,
    "135m": 49_152, "135m-qk": 49_152, "wide-140m": 49_152,
}  # fmt: skip


def _shape(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in SHAPES:
        raise ValueError(_no_preset(value))
    return SHAPES[value]


NamedShape = Annotated[ModelShape, BeforeValidator(_shape)]
"""In settings: a shape spelled out, or the name of a preset."""


def preset(name: str) -> ModelSettings:
    """Settings of a named shape; InputError lists the names when there is none."""
    if name not in SHAPES:
        raise InputError(f"model: {_no_preset(name)}")
    return SHAPES[name].with_vocabulary(VOCABULARIES[name])


def _no_preset(name: str) -> str:
    return f"there is no preset {name!r}; the presets are {', '.join(SHAPES)}"


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
