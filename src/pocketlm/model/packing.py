"""Weights laid out anew for products of few rows on a CPU: a server's prompts, and decode steps of many sequences.

torch's plain product reads a weight as it lies, which is slow for 2 to 64 rows; oneDNN takes it in blocks. Decode steps
of up to 16 rows are taken by kernels of our own (`decode_step.py`), which read a second copy of the layers' weights.
Results are those of the plain product up to rounding, for any number of rows. Through operators of torch that its own
compiler calls (torch 2.11 to 2.13); where they are missing nothing is packed.

Not covered: training (the packed weights have no gradients and are in no state), other types than float32, a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketlm.model.decode_step import prepare
from pocketlm.model.transformer import Transformer

ROWS = 16
"""Of the products that the layout is chosen for."""


class PackedLinear(nn.Module):
    """`x @ weight.T` with a packed copy of a float32 weight [outputs, inputs]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)

    def forward(self, hidden: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, self._packed, None, "none", [], "")
        return product


def can_pack(model: Transformer) -> bool:
    """Whether a model's weights can be packed here: float32 on a CPU, and a torch with the operators."""
    weight = model.head_weight_VD
    operators = torch.ops.mkldnn
    known = all(hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return (
        known and torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype is torch.float32
    )


def pack(model: Transformer) -> bool:
    """Pack the matrices of the layers in place, and the head beside the embedding; False if nothing was packed.

    The model is for decoding afterwards: its matrices are gone from `state_dict`. Layers and head then stand in memory
    twice, packed and as they were. The first call on a machine compiles kernels, for some 15 seconds.
    """
    if not can_pack(model):
        return False
    prepare(model, PackedLinear(model.head_weight_VD))
    for module in [*model.blocks.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child.weight))
    return True
