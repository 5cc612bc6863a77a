"""Which of torch's attention kernels a shape gets, for the log: it decides a good part of a GPU's speed."""

import torch
from torch.nn.attention import SDPBackend

from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import groups_are_fused


def attention_backend(
    settings: ModelSettings,
    length: int,
    device: torch.device,
    dtype: torch.dtype,
    masked: bool = False,
    compiled: bool = False,
) -> str:
    """`flash`, `efficient`, `cudnn`, `math` or `overrideable`: what `attend` runs on in training.

    `flash, own backward pass` on a CPU in compiled bfloat16 (`cpu_attention.py`).

    Asks torch with empty tensors as attention gets them, of one row (their number does not enter its choice): `length`
    tokens of `dtype`, gradients asked for, causal or with a boolean mask. torch >= 2.11 prefers cuDNN on Hopper when
    its cuDNN is newer than 9.15; a system library that shadows it shows here. Under `runtime.deterministic` torch
    leaves cuDNN out by itself.
    """
    if device.type == "cpu" and dtype == torch.bfloat16:
        if compiled and not masked:
            return "flash, own backward pass"
        dtype = torch.float32  # as `attend` does
    kv_heads = settings.kv_heads if groups_are_fused(device, dtype, masked) else settings.heads
    shapes = [(1, length, heads, settings.head_dim) for heads in (settings.heads, kv_heads, kv_heads)]
    query, key, value = (
        torch.empty(shape, device=device, dtype=dtype, requires_grad=True).transpose(1, 2) for shape in shapes
    )
    mask = torch.ones(1, 1, length, length, device=device, dtype=torch.bool) if masked else None
    choice = torch._fused_sdp_choice(
        query, key, value, attn_mask=mask, is_causal=not masked, enable_gqa=kv_heads != settings.heads
    )
    return SDPBackend(choice).name.removesuffix("_ATTENTION").lower()
