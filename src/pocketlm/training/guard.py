"""Does the model move, and does it stay on the rails? Size of every update relative to the weights, the share that it
would change in bf16, and the figures that grow before a run diverges.

A learning rate that is too small for the weights' precision trains nothing without any error; these figures show it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pocketlm.errors import InputError
from pocketlm.model.probes import instability_probes
from pocketlm.model.transformer import Transformer
from pocketlm.training.batches import Batch

ALARMS = {
    "attention_logit": ("the largest attention logit", 500),
    "output_logit": ("the largest output logit", 100),
}
"""Figure of the log -> what it is, and the value above which a run is warned."""


def require_masters(model: nn.Module) -> None:
    """InputError names a weight that is not fp32: in bf16 most updates of a late phase would round to nothing."""
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise InputError(
                f"training starts from fp32 weights, but {name} is {str(parameter.dtype).removeprefix('torch.')}; "
                "convert the model with .float() first (products run in bf16 where the device has it)"
            )


def stability_figures(model: Transformer, batch: Batch) -> dict[str, Tensor]:
    """What grows before a run diverges, as scalars: logits on the first row of a batch, and gradient norms by layer.

    Call it between the backward pass and the clipping.
    """
    probes = instability_probes(model, batch.tokens_BT[:1])
    norms = {
        f"gradient_norm.{layer:02d}": _norm([weight.grad for weight in block.parameters() if weight.grad is not None])
        for layer, block in enumerate(model.blocks)
    }
    return {
        "attention_logit": probes.attention_logit_L.max(),
        "output_logit": probes.output_logit,
        "output_logit_rms": probes.output_logit_rms,
        **norms,
    }


def alarming(row: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a log row that lie beyond what healthy runs show, with what to say about each."""
    return {
        name: f"{what} is {row[name]:,.0f}, above {limit:,}: such runs end badly; lower the learning rate, or take the "
        "layout qwen3, which normalises queries and keys"
        for name, (what, limit) in ALARMS.items()
        if row.get(name) is not None and row[name] > limit
    }


class UpdateMeter:
    """Compares parameters before and after an optimizer step; on the device, without waiting for it.

    Holds one fp32 copy of the parameters. `total` sums a tensor over the processes that hold other parameters
    (default: there are none).
    """

    def __init__(self, parameters: Iterable[Tensor], total: Callable[[Tensor], Tensor] | None = None):
        self._parameters = [parameter.detach() for parameter in parameters]
        self._total = total
        self._before = [torch.empty_like(parameter) for parameter in self._parameters]

    def before(self) -> None:
        """Remember the weights."""
        torch._foreach_copy_(self._before, self._parameters)

    def ratio(self) -> Tensor:
        """|update| / |weights before|, Euclidean over all parameters; scalar tensor."""
        update = torch._foreach_sub(self._parameters, self._before)
        return self._over_all(_norm(update)) / self._over_all(_norm(self._before)).clamp(min=1e-30)

    def changed_share(self, scale: float = 1.0) -> Tensor:
        """Share of the weights that the update, `scale` times as large, would change if they were kept in bf16."""
        changed = torch.zeros((), dtype=torch.int64, device=self._parameters[0].device)
        for before, after in zip(self._before, self._parameters, strict=True):
            rounded = before.bfloat16()
            changed += (rounded != rounded.float().add_(after.float() - before.float(), alpha=scale).bfloat16()).sum()
        count = sum(parameter.numel() for parameter in self._parameters)
        if self._total is None:
            return changed / count
        changed, all_parameters = self._total(torch.stack([changed, torch.full_like(changed, count)]))
        return changed / all_parameters

    def _over_all(self, norm: Tensor) -> Tensor:
        return norm if self._total is None else self._total(norm.square()).sqrt()


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
