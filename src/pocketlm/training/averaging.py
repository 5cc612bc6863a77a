"""Exponential moving average of the weights over the last part of training, and its blend with the last weights.

The end of a decay still moves back and forth across the valley; an average of the last steps lies nearer to its floor.
Modded-nanogpt (track 3, record 45) ends with 0.4 times the weights and 0.6 times such an average over 150 steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pocketlm.errors import CorruptionError
from pocketlm.model.transformer import Transformer
from pocketlm.training.settings import TailAverage


class WeightAverage:
    """The average in fp32, on the device of the weights; it starts as the weights after step `begin` of `steps`.

        average = WeightAverage(model, settings.tail_average, settings.steps)
        average.update(step, skipped)     # after the optimizer, every step; does nothing before `begin`
        average.blend(model, weight)      # after the last step

    Holds no memory before `begin`. `weights`: what this process holds of the model (default: all of it).
    """

    def __init__(
        self, model: Transformer, settings: TailAverage, steps: int, weights: Mapping[str, Tensor] | None = None
    ):
        self.begin = min(steps - 1, round(settings.start_fraction * steps))
        self._share = 1 - 0.5 ** (1 / settings.half_life_steps)
        held = dict(model.named_parameters()) if weights is None else weights
        self._weights = {name: weight.detach() for name, weight in held.items()}
        self._averages: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:
        """Take in the weights after step `step` (from 0); where the scalar `skipped` is true nothing changes.

        Waits for nothing: which steps count is known to the host, what was skipped stays on the device.
        """
        if step < self.begin:
            return
        if not self._averages:
            self._averages = {name: weight.float().clone() for name, weight in self._weights.items()}
            return
        averages = list(self._averages.values())
        # Skipped steps leave finite weights, so that a share of 0 adds 0.
        share = torch.where(skipped, 0.0, self._share).float()
        distances = torch._foreach_sub([weight.float() for weight in self._weights.values()], averages)
        torch._foreach_mul_(distances, share)
        torch._foreach_add_(averages, distances)

    @torch.no_grad()
    def blend(self, model: Transformer, weight: float) -> None:
        """Set the model's weights to (1 - weight) * weights + weight * average; before `begin` they stay as they are.

        For the end of a run only: training on from blended weights is another run than training on.
        """
        for name, parameter in model.named_parameters():
            if name in self._averages:
                parameter.lerp_(self._averages[name].to(parameter.dtype), weight)

    def tensors(self) -> dict[str, Tensor]:
        """The state by the names of the weights; empty before `begin`."""
        return dict(self._averages)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state of `tensors`; CorruptionError names what does not fit."""
        unfit = tensors.keys() ^ self._weights.keys() if tensors else set()
        unfit |= {name for name in tensors if name not in unfit and tensors[name].shape != self._weights[name].shape}
        if unfit:
            raise CorruptionError(f"checkpoint: the average of {min(unfit)} does not belong to this model")
        self._averages = {
            name: tensor.to(self._weights[name].device, torch.float32, copy=True) for name, tensor in tensors.items()
        }
