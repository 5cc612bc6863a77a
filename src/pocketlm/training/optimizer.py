"""The optimizers over fp32 masters, and their state as named tensors."""

import torch
from torch import Tensor

from pocketlm.errors import CorruptionError
from pocketlm.model.transformer import Transformer
from pocketlm.training.muon import Muon
from pocketlm.training.settings import TrainingSettings


class Optimizer:
    """Fused AdamW (arXiv 1711.05101) for all parameters, or Muon for the matrices of the layers and AdamW for the rest.

    Matrices and embeddings decay, gains do not.
    """

    def __init__(self, model: Transformer, settings: TrainingSettings):
        named = dict(model.named_parameters())
        inner = {name: weight for name, weight in named.items() if name.startswith("blocks.") and weight.ndim == 2}
        self.muon = None
        if settings.optimizer == "muon":
            self.muon = Muon(inner, model.settings, settings.weight_decay)
            named = {name: weight for name, weight in named.items() if name not in inner}
        self._adamw_rate = 1.0 if self.muon is None else settings.embedding_rate
        self._named = named
        groups = [
            {
                "params": [weight for weight in named.values() if weight.ndim >= 2],
                "weight_decay": settings.weight_decay,
            },
            {"params": [weight for weight in named.values() if weight.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(
            groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True
        )

    def step(self, learning_rate: float, skipped: Tensor) -> None:
        """Update all weights; where the scalar `skipped` is true weights and state keep their bits, without a wait."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate * self._adamw_rate
        # The fused kernel does nothing when this is 1.
        self.adamw.found_inf = skipped.float()  # type: ignore[attr-defined]
        self.adamw.step()
        if self.muon is not None:
            self.muon.step(learning_rate, skipped)

    def tensors(self) -> dict[str, Tensor]:
        """The state as `parameter name:key` -> tensor; empty before the first step."""
        state = {
            f"{name}:{key}": value
            for name, weight in self._named.items()
            for key, value in self.adamw.state.get(weight, {}).items()
        }
        if self.muon is not None:
            state |= {f"{name}:momentum": matrix.momentum for name, matrix in self.muon.matrices.items()}
        return state

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state of `tensors`; CorruptionError names what does not fit."""
        self.adamw.state.clear()
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition(":")
            matrix = self.muon.matrices.get(name) if self.muon is not None else None
            weight = self._named.get(name) if matrix is None else matrix.weight
            if weight is None or (value.ndim and value.shape != weight.shape):
                raise CorruptionError(f"checkpoint: optimizer state {full_name} does not belong to this model")
            if matrix is not None:
                matrix.momentum.copy_(value)
            else:
                self.adamw.state[weight][key] = value.to(weight.device)
