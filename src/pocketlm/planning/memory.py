"""Memory that training, evaluation and sampling take. Knows no torch.

Exact: weights, gradients, optimizer state, the guard's copy, what the operators of `model/` keep for the backward pass
on a CPU (fp32), the key-value cache. Estimates: activations under bf16 autocast on an accelerator without torch.compile
(which keeps less), and what lives for a moment only (`passing`). The interpreter and its libraries come on top:
`LIBRARIES`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pocketlm.model.config import ModelSettings
from pocketlm.planning.limits import (
    EVALUATION_CACHE,
    EVALUATION_HEAD_ROWS,
    EVALUATION_TOKENS,
    FLOAT,
    HEAD_CHUNK,
    SHELF,
)
from pocketlm.training.settings import TrainingSettings, lora_of

LIBRARIES = {"cpu": 600_000_000, "cuda": 1_200_000_000}
"""Resident before the first weight: torch and the interpreter; on CUDA the context, library work space, rounding."""
HOLES = {"cpu": 0.25, "cuda": 0.0}
"""Share of the activations that the allocator holds beside them: measured on a CPU with glibc at 1M to 15M parameters,
where the resident memory of a step came to 0.85 to 1.08 of the plan. On CUDA plans leave room for it (`USABLE`)."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one training step: what stays, what one micro-batch keeps, what lives for a moment."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    """The guard's copy of the weights, the tail average, the best weights so far."""
    activations: int
    passing: int

    @property
    def state(self) -> int:
        """What stays between micro-batches."""
        return self.weights + self.gradients + self.optimizer + self.copies

    @property
    def total(self) -> int:
        """The largest sum at one time."""
        return self.state + self.activations + self.passing


def training_memory(
    model: ModelSettings,
    training: TrainingSettings,
    rows: int,
    length: int,
    device: str,
    masked: bool = False,
    keeps_best: bool = False,
) -> TrainingMemory:
    """Memory of a step in parts of `rows` rows of `length` tokens. `masked`: rows are packed, with positions and mask;
    `keeps_best`: the best weights on the selection split are kept beside the present ones.

    With adapters the matrices of the layers are there twice, frozen and merged; gradients, optimizer state and copies
    are of the adapters alone, and the frozen head has no gradient.
    """
    lora, trained = lora_of(training), FLOAT * trained_parameters(model, training)
    parameters = FLOAT * model.parameter_count()
    if lora is not None:
        parameters += trained + FLOAT * _inner_parameters(model)
    copies = 1 + (training.tail_average is not None) + keeps_best
    head = FLOAT * model.vocabulary * model.width if lora is None else 0
    logits = min(HEAD_CHUNK[device], rows * length * model.vocabulary) * (FLOAT if device == "cpu" else 2)
    # The head's gradient twice (its product of a chunk, then scaled), or a layer's gradients on the way back; later the
    # update: its size, and Muon's matrices.
    layer = rows * length * (6 * model.ffn_width + 3 * model.width) * (FLOAT if device == "cpu" else 2)
    inner = FLOAT * _inner_parameters(model) if training.optimizer == "muon" else 0
    activations = activation_bytes(model, rows, length, device, masked)
    if lora is not None:
        lowered = model.layers * len(lora.targets) * lora.rank
        activations += (
            rows * length * lowered * (FLOAT if device == "cpu" else 2) - FLOAT * model.vocabulary * model.width
        )
    return TrainingMemory(
        weights=parameters,
        gradients=trained,
        optimizer=optimizer_bytes(model, training),
        copies=copies * trained,
        activations=activations,
        passing=max(2 * head + logits + layer, trained + 3 * inner) + int(HOLES[device] * activations),
    )


def trained_parameters(model: ModelSettings, training: TrainingSettings) -> int:
    """Parameters that are trained: all, or those of the adapters."""
    lora = lora_of(training)
    return model.parameter_count() if lora is None else lora.parameter_count(model)


def optimizer_bytes(model: ModelSettings, training: TrainingSettings) -> int:
    """State of the optimizer: two moments for AdamW's weights, one for Muon's; row sizes where they are kept."""
    if training.optimizer == "adamw":
        return 2 * FLOAT * trained_parameters(model, training)
    inner = _inner_parameters(model)
    rows = model.layers * ((model.heads + 2 * model.kv_heads) * model.head_dim + 2 * model.width + 2 * model.ffn_width)
    return FLOAT * (2 * (model.parameter_count() - inner) + inner + training.normalise_rows * rows)


def activation_bytes(model: ModelSettings, rows: int, length: int, device: str = "cpu", masked: bool = False) -> int:
    """Kept for the backward pass by one forward pass over `rows` rows of `length` tokens, weights left out.

    CPU, per token and layer: normalised and gained stream of both norms with their scales; queries, keys and values;
    keys and values again, repeated, where queries share them; mixed values; log-sum-exps; gate, up and their product.
    Per token: the final norm, the gradient of the stream, the token's id. Once: the gradient of the head's weight.
    """
    tokens = rows * length
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    if device == "cpu":
        layer = 4 * model.width + (queries + 2 * keys) + queries + 3 * model.ffn_width + 2 + model.heads
        layer += 2 * queries if model.heads > model.kv_heads else 0
        layer += queries + keys + model.heads + model.kv_heads if model.layout == "qwen3" else 0
        kept = FLOAT * (model.layers * layer + 2 * model.width + 1)
        weights = 0
    else:
        # fp32: the stream before both norms, scales, log-sum-exps. bf16: everything that meets a matrix.
        layer = FLOAT * (2 * model.width + 2 + model.heads)
        layer += 2 * (2 * model.width + (queries + 2 * keys) + queries + 3 * model.ffn_width)
        layer += 2 * (queries + keys) if model.layout == "qwen3" else 0
        kept = model.layers * layer + FLOAT * 3 * model.width
        weights = 2 * model.layers * model.layer_matrix_parameters()  # bf16 copies of the matrices
    identity = 8
    total = tokens * (kept + identity) + FLOAT * model.vocabulary * model.width + weights
    if masked:
        # The mask as numbers in every layer, as truth values once; cosines and sines of every position.
        pairs = rows * length * length
        total += pairs * (model.layers * (FLOAT if device == "cpu" else 2) + 1) + tokens * (FLOAT * model.head_dim + 8)
    return total


def cache_bytes_per_token(model: ModelSettings) -> int:
    """Keys and values of one token in the cache, fp32 as the weights."""
    return 2 * model.layers * model.kv_heads * model.head_dim * FLOAT


def rollout_memory(model: ModelSettings, slots: int, prompts: int, length: int) -> int:
    """Weights, cache of `slots` sequences and of the prompts that wait, and the logits of one decode step, thrice."""
    shelf = min(SHELF, prompts)
    logits = FLOAT * model.vocabulary * (shelf + 3 * slots)
    return FLOAT * model.parameter_count() + cache_bytes_per_token(model) * (slots + shelf) * length + logits


def evaluation_memory(model: ModelSettings, device: str) -> int:
    """Weights, the widest layer of a scoring pass with its logits, and the largest cache of generation."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    layer = 4 * model.width + max(4 * model.ffn_width, 4 * queries + 2 * keys)
    tokens = max(EVALUATION_TOKENS[device], model.context)  # a row that is longer than a pass goes alone
    scoring = FLOAT * (tokens * layer + 3 * EVALUATION_HEAD_ROWS * model.vocabulary)
    return FLOAT * model.parameter_count() + scoring + EVALUATION_CACHE[device]


def _inner_parameters(model: ModelSettings) -> int:
    return model.layers * model.layer_matrix_parameters()
