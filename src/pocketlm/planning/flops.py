"""Floating-point operations of a decoder, exact for its matrix products. Knows no torch.

Convention ("causal"): a multiply-add counts 2, the backward pass twice the forward pass; attention counts the positions
that a causal mask lets through, (T + 1) / 2 on average; norms, rotations and softmax are left out. Other conventions in
use: "6N" leaves attention out, "PaLM" (arXiv 2204.02311, appendix B) counts it without the mask.
"""

from pocketlm.model.config import ModelSettings
from pocketlm.model.lora_settings import LoraSettings

CONVENTION = "causal: 6 x matrix parameters + attention under the causal mask, backward = 2 x forward"


def matrix_parameters(settings: ModelSettings) -> int:
    """Parameters that every token is multiplied with; a tied head counts once, the embedding's look-up not at all."""
    return settings.layers * settings.layer_matrix_parameters() + settings.vocabulary * settings.width


def training_flops_per_token(settings: ModelSettings, length: int, lora: LoraSettings | None = None) -> float:
    """Forward and backward, mean over the positions of a row of `length` tokens.

    With adapters only these get gradients: frozen matrices pass them on, which is half of their backward pass.
    """
    attention = 6 * settings.layers * settings.heads * settings.head_dim * (length + 1)
    if lora is None:
        return 6 * matrix_parameters(settings) + attention
    return 4 * matrix_parameters(settings) + 6 * lora.parameter_count(settings) + attention


def forward_flops_per_token(settings: ModelSettings, length: int) -> float:
    """One forward pass, as sampling with a cache makes it: a third of training."""
    return training_flops_per_token(settings, length) / 3
