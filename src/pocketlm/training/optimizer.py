"""AdamW over fp32 masters, and its state as named tensors."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pocketlm.errors import CorruptionError
from pocketlm.model.transformer import Transformer
from pocketlm.training.settings import TrainingSettings


def build_optimizer(model: Transformer, settings: TrainingSettings) -> torch.optim.AdamW:
    """Fused AdamW (arXiv 1711.05101); matrices and embeddings decay, gains do not."""
    parameters = [parameter for _, parameter in _ordered(model)]
    matrices = sum(parameter.ndim >= 2 for parameter in parameters)
    groups = [
        {"params": parameters[:matrices], "weight_decay": settings.weight_decay},
        {"params": parameters[matrices:], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True)


def optimizer_tensors(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer state as `parameter name:key` -> tensor."""
    return {
        f"{name}:{key}": value
        for name, parameter in _ordered(model)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: Transformer, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take up the state of `optimizer_tensors`; CorruptionError names what does not fit."""
    named = dict(_ordered(model))
    optimizer.state.clear()
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(":")
        parameter = named.get(name)
        if parameter is None or (value.ndim and value.shape != parameter.shape):
            raise CorruptionError(f"checkpoint: optimizer state {full_name} does not belong to this model")
        # The fused kernel counts steps in a scalar on the parameter's device.
        optimizer.state[parameter][key] = value.to(parameter.device)


def _ordered(model: Transformer) -> Iterable[tuple[str, torch.nn.Parameter]]:
    """Parameters with matrices first: the order of the optimizer's groups."""
    return sorted(model.named_parameters(), key=lambda item: item[1].ndim < 2)
