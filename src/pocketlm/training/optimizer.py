"""The optimizers over fp32 masters, and their state as named tensors."""

from typing import Any, Literal

import torch
from torch import Tensor

from pocketlm.errors import CorruptionError
from pocketlm.model.transformer import Transformer
from pocketlm.training.muon import Muon, towards_zero
from pocketlm.training.placement import Placement
from pocketlm.training.settings import TrainingSettings

ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each weight, from its first step on."""


class Optimizer:
    """Fused AdamW (arXiv 1711.05101) for all parameters, or Muon for the matrices of the layers and AdamW for the rest.

    Matrices and embeddings decay, gains do not; with `cautious_weight_decay` only where the update takes a weight
    nearer to zero. With `width_transfer` the rate of matrices is scaled from that width, see `width_rate`; that of
    embeddings and gains is not. `placement`: where the weights lie (default: all of them here).
    """

    def __init__(self, model: Transformer, settings: TrainingSettings, placement: Placement | None = None):
        self.settings = settings
        placement = placement or Placement(model)
        named = placement.weights
        inner = {name: weight for name, weight in named.items() if name.startswith("blocks.") and weight.ndim == 2}
        self.muon = None
        if settings.optimizer == "muon":
            rate = width_rate("muon", settings.width_transfer, model.settings.width)
            self.muon = Muon(inner, model.settings, settings, rate, placement)
            named = {name: weight for name, weight in named.items() if name not in inner}
        self._named = named
        groups = [group for group in self._adamw_groups(model.settings.width) if group["params"]]
        self.adamw = torch.optim.AdamW(
            groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True
        )

    def _adamw_groups(self, width: int) -> list[dict[str, Any]]:
        """Matrices (an output head of its own is one: it sums over the width), embeddings and gains.

        `rate` and `decay` are relative to the learning rate of a step. torch's decay goes with the rate of its group,
        so that it is divided by what the width changes; the cautious decay is our own.
        """
        base = 1.0 if self.muon is None else self.settings.embedding_rate
        scale = width_rate("adamw", self.settings.width_transfer, width)
        decay = self.settings.weight_decay
        embeddings = [weight for name, weight in self._named.items() if name == "embedding.weight"]
        gains = [weight for weight in self._named.values() if weight.ndim < 2]
        matrices = [weight for name, weight in self._named.items() if weight.ndim >= 2 and name != "embedding.weight"]
        groups = [
            {"params": matrices, "weight_decay": decay / scale, "rate": base * scale, "decay": base * decay},
            {"params": embeddings, "weight_decay": decay, "rate": base, "decay": base * decay},
            {"params": gains, "weight_decay": 0.0, "rate": base, "decay": 0.0},
        ]
        if self.settings.cautious_weight_decay:
            groups = [group | {"weight_decay": 0.0} for group in groups]
        return groups

    def step(self, learning_rate: float, skipped: Tensor) -> None:
        """Update all weights; where the scalar `skipped` is true weights and state keep their bits, without a wait."""
        if self.settings.cautious_weight_decay:
            self._decay_cautiously(learning_rate, skipped)
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate * group["rate"]
        # The fused kernel does nothing when this is 1.
        self.adamw.found_inf = skipped.float()  # type: ignore[attr-defined]
        self.adamw.step()
        if self.muon is not None:
            self.muon.step(learning_rate, skipped)

    @torch.no_grad()
    def _decay_cautiously(self, learning_rate: float, skipped: Tensor) -> None:
        """Decay before AdamW's update, as AdamW does; the sign of that update is the sign of the coming momentum."""
        for group in self.adamw.param_groups:
            for weight in group["params"] if group["decay"] else ():
                momentum = self.adamw.state.get(weight, {}).get("exp_avg", torch.zeros_like(weight))
                update = torch.lerp(weight.grad, momentum, self.settings.betas[0])
                decays = towards_zero(weight, update) & ~skipped
                weight.mul_(1 - learning_rate * group["decay"] * decays)

    def tensors(self) -> dict[str, Tensor]:
        """The state as `parameter name:key` -> tensor; AdamW has none before the first step."""
        state = {
            f"{name}:{key}": value
            for name, weight in self._named.items()
            for key, value in self.adamw.state.get(weight, {}).items()
        }
        return state if self.muon is None else state | self.muon.tensors()

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state of `tensors`; CorruptionError names what does not fit."""
        self.adamw.state.clear()
        own = {} if self.muon is None else self.muon.tensors()
        if missing := own.keys() - tensors.keys():
            raise CorruptionError(f"checkpoint: optimizer state {min(missing)} is missing")
        begun = {name for name in self._named if f"{name}:{ADAMW_STATE[0]}" in tensors}
        expected = {f"{name}:{key}" for name in (self._named if begun else ()) for key in ADAMW_STATE}
        if missing := expected - tensors.keys():
            raise CorruptionError(f"checkpoint: optimizer state {min(missing)} is missing")
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition(":")
            fitting = own.get(full_name, self._named.get(name) if key in ADAMW_STATE else None)
            if fitting is None or (key != "step" and value.shape != fitting.shape):
                raise CorruptionError(f"checkpoint: optimizer state {full_name} does not belong to this model")
            if full_name in own:
                own[full_name].copy_(value)
            else:
                self.adamw.state[fitting][key] = value.to(fitting.device)


def width_rate(optimizer: Literal["adamw", "muon"], base_width: int | None, width: int) -> float:
    """Learning rate of matrices at `width`, relative to the one found at `base_width` (None: the same).

    Features of every width learn alike when a step changes each of them by as much, that is when the spectral norm of
    a matrix's update stays as sqrt(rows / columns) (arXiv 2310.17813), constant where rows and columns grow together.
    - AdamW: entries of about the learning rate r that line up with the layer's input give r * sqrt(rows * columns),
      which grows as the width: r must fall as 1 / width. That is the rule of muP (arXiv 2203.03466, table 8).
    - Muon: r * 0.2 * sqrt(max(rows, columns)) times an orthogonal matrix grows as the root of the width, because the
      constant root mean square is spread over all directions: r must fall as 1 / sqrt(width).
    Holds while all proportions of the shape stay (feed-forward width, heads of one size). Decay keeps the unscaled
    rate: its time scale in steps should not depend on the width (arXiv 2510.19093).
    """
    if base_width is None:
        return 1.0
    return base_width / width if optimizer == "adamw" else (base_width / width) ** 0.5
