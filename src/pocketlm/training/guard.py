"""Does the model move? Size of every update relative to the weights, and the share of bf16 weights that it changes.

A learning rate that is too small for the weights' precision trains nothing without any error; these figures show it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class UpdateMeter:
    """Compares parameters before and after an optimizer step; on the device, without waiting for it.

    Holds one fp32 copy of the parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self._parameters = [parameter.detach() for parameter in parameters]
        self._before = [torch.empty_like(parameter) for parameter in self._parameters]

    def before(self) -> None:
        """Remember the weights."""
        torch._foreach_copy_(self._before, self._parameters)

    def ratio(self) -> Tensor:
        """|update| / |weights before|, Euclidean over all parameters; scalar tensor."""
        update = torch._foreach_sub(self._parameters, self._before)
        return _norm(update) / _norm(self._before).clamp(min=1e-30)

    def changed_share(self) -> Tensor:
        """Share of the weights whose bf16 rounding the update changed; scalar tensor."""
        changed = torch.stack(
            [
                (before.bfloat16() != after.bfloat16()).sum()
                for before, after in zip(self._before, self._parameters, strict=True)
            ]
        ).sum()
        return changed / sum(parameter.numel() for parameter in self._parameters)


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
