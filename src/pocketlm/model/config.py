"""Shape of a decoder-only language model: settings, presets and the exact parameter count.

Two layouts, both loaded by the ecosystem without custom code: `llama` (LlamaForCausalLM) and `qwen3` (Qwen3ForCausalLM,
which adds an RMSNorm over every query and key head). Knows no torch.
"""

from typing import Literal

from pydantic import Field, model_validator

from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Settings


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
    rope_theta: float = Field(default=10_000.0, gt=0)
    norm_epsilon: float = Field(default=1e-6, gt=0)
    tie_embeddings: bool = True

    def with_vocabulary(self, vocabulary: int) -> "ModelSettings":
        """The complete settings for a tokenizer of `vocabulary` tokens."""
        return ModelSettings(vocabulary=vocabulary, **{name: getattr(self, name) for name in ModelShape.model_fields})

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
        return self


class ModelSettings(ModelShape):
    """Complete shape of the decoder, as `config.json` of a model folder holds it."""

    vocabulary: int = Field(gt=0)

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


SHAPES = {
    # The shape of SmolLM2-135M and L20-Edu-135M: 134,515,008 parameters.
    "135m": ModelShape(width=576, layers=30, heads=9, kv_heads=3, head_dim=64, ffn_width=1536, context=2048),
    # The quickstart's model: trains in minutes on two CPU cores.
    "1m": ModelShape(width=128, layers=4, heads=4, kv_heads=4, head_dim=32, ffn_width=384, context=256),
}
VOCABULARIES = {"135m": 49_152, "1m": 2048}


def preset(name: str) -> ModelSettings:
    """Settings of a named shape; InputError lists the names when there is none."""
    if name not in SHAPES:
        raise InputError(f"model: there is no preset {name!r}; the presets are {', '.join(sorted(SHAPES))}")
    return SHAPES[name].with_vocabulary(VOCABULARIES[name])


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
