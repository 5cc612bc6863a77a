"""A copy of a model's weights in another type, to sample from: half the bytes of keys, values and weights in bfloat16.

    shadow = Shadow(model, torch.bfloat16)
    shadow.refresh()                      # after each update of the model
    with shadow.products():
        Engine(shadow.model).generate(requests)

The rotary tables stay in fp32, as in training. The copy is written in place: captured graphs hold its addresses.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from copy import deepcopy

import torch

from pocketlm.model.transformer import Transformer

REDUCED = (torch.bfloat16, torch.float16)


class Shadow:
    """The copy, as `model`; without a type of its own it is the model itself, and there is nothing to refresh.

    Args:
        source: whose weights are copied.
        dtype: type of the copy; None, or that of the source, makes none.

    Attributes:
        dtype: what is sampled in.
    """

    def __init__(self, source: Transformer, dtype: torch.dtype | None = None) -> None:
        weight = source.head_weight_VD
        self._source = source
        self.dtype = weight.dtype if dtype is None else dtype
        self.model = source
        if self.dtype != weight.dtype:
            self.model = deepcopy(source).requires_grad_(False)
            for parameter in self.model.parameters():
                parameter.data = parameter.data.to(self.dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights as they are now."""
        if self.model is not self._source:
            for own, given in zip(self.model.parameters(), self._source.parameters(), strict=True):
                own.copy_(given)

    def products(self) -> AbstractContextManager[None]:
        """Within it products take the copy's type, and norms what they give back in fp32, as in training."""
        reduced = self.dtype in REDUCED
        context: AbstractContextManager[None] = torch.autocast(
            self.model.head_weight_VD.device.type, self.dtype if reduced else None, enabled=reduced
        )
        return context
