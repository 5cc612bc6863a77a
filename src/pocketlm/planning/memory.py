"""Memory and disk that training takes. Knows no torch.

Weights, gradients, optimizer state and checkpoints are exact; activations are counted from what the operators of
`model/` keep for the backward pass in float32, and are an estimate elsewhere. The interpreter and its libraries (about
0.5 GB) come on top.
"""

from pocketlm.model.config import ModelSettings
from pocketlm.training.checkpoint import KEPT

FLOAT = 4  # bytes


def state_bytes(settings: ModelSettings) -> int:
    """fp32 weights, gradients, two AdamW moments and the guard's copy of the weights."""
    return 5 * FLOAT * settings.parameter_count()


def activation_bytes(settings: ModelSettings, tokens: int) -> int:
    """Kept for the backward pass by one forward pass over `tokens` tokens.

    Per layer: normalised stream and gained stream of both norms, queries, keys and values, mixed values, gate and up,
    and their product; once: the final norm and the gradient of the head.
    """
    queries, keys = settings.heads * settings.head_dim, settings.kv_heads * settings.head_dim
    layer = 4 * settings.width + (queries + 2 * keys) + queries + 3 * settings.ffn_width
    return FLOAT * tokens * (settings.layers * layer + 3 * settings.width)


def model_bytes(settings: ModelSettings) -> int:
    """Size of the weights of a model artifact."""
    return FLOAT * settings.parameter_count()


def checkpoint_bytes(settings: ModelSettings) -> int:
    """Largest disk use of checkpoints: weights, two moments and best weights; those kept and one under way."""
    return (KEPT + 1) * 4 * model_bytes(settings)
