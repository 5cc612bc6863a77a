"""One optimizer step from its batch, and the state behind it: what every process that takes part in training holds.

The trainer decides (which batch, which rate, when to probe, when to go back); this does, on one process or on many.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pocketlm.model.storage import load_tensors
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context
from pocketlm.training.adapters import placement_of
from pocketlm.training.averaging import WeightAverage
from pocketlm.training.batches import Batch
from pocketlm.training.gradients import Gradients, Share
from pocketlm.training.guard import UpdateMeter, stability_figures
from pocketlm.training.objective import Objective
from pocketlm.training.optimizer import Optimizer
from pocketlm.training.placement import Placement
from pocketlm.training.settings import TrainingSettings

State = dict[str, dict[str, Tensor]]
"""Named groups of tensors: `model`, `optimizer`, `average`; whole, as they are in a checkpoint."""


@dataclass(frozen=True)
class Order:
    """What a step is to do besides its batch."""

    step: int
    rate: float
    share_at: float | None = None
    """Measure the share of weights that change in bf16, by an update so many times as large; None: do not."""
    probed: bool = False
    """Measure what grows before a run diverges."""


class Update:
    """Gradients, optimizer, average of the weights and meter of the updates, over what this process holds."""

    def __init__(
        self,
        model: Transformer,
        objective: Objective,
        settings: TrainingSettings,
        context: Context,
        placement: Placement | None = None,
    ):
        self.model, self.settings, self.context = model, settings, context
        self.device = model.head_weight_VD.device
        self.placement = placement or placement_of(model, settings, context)
        weights = self.placement.weights
        self.gradients = Gradients(self.placement.model, objective, context, self.placement)
        self.optimizer = Optimizer(model, settings, self.placement)
        average = settings.tail_average
        self.average = WeightAverage(model, average, settings.steps, weights) if average is not None else None
        self.meter = UpdateMeter(weights.values(), self.placement.over_shares if self.placement.sharded else None)

    def step(self, batch: Batch, order: Order) -> dict[str, Tensor]:
        """Train on a whole batch; returns the step's figures, on the device."""
        batch = batch.to(self.device)
        loss, metrics = self.gradients.of(batch)
        if order.probed:
            metrics |= stability_figures(self.placement.model, batch)
        return self._apply(loss, metrics, order)

    def share(self, share: Share, order: Order, probe: Batch | None = None) -> dict[str, Tensor]:
        """Train on this rank's share of a batch; `probe` is the whole of it, on the rank that measures it."""
        loss, metrics = self.gradients.of_share(share)
        if order.probed:
            self.placement.fill(self.model)
            if probe is not None:
                metrics |= stability_figures(self.model, probe.to(self.device))
        return self._apply(loss, metrics, order)

    def _apply(self, loss: Tensor, metrics: Mapping[str, Tensor], order: Order) -> dict[str, Tensor]:
        norm = self.placement.clip(self.settings.gradient_clip)
        self.meter.before()
        # Of sums over all ranks, so that all of them skip or none.
        skipped = ~(loss.isfinite() & norm.isfinite())
        self.optimizer.step(order.rate, skipped)
        if self.average is not None:
            self.average.update(order.step, skipped)
        self.placement.zero_grad()
        figures = {"loss": loss, "gradient_norm": norm, "update_ratio": self.meter.ratio(), **metrics}
        if order.share_at is not None:
            figures["bf16_changed"] = self.meter.changed_share(order.share_at)
        return {**figures, "skipped": skipped}

    def state(self) -> State:
        """All that a checkpoint needs of this; the tensors themselves where they are whole."""
        return {
            "model": self.trained(),
            "optimizer": self.optimizer.tensors(),
            "average": {} if self.average is None else self.average.tensors(),
        }

    def restore(self, state: Mapping[str, Mapping[str, Tensor]], origin: Path) -> None:
        """Take up a state; CorruptionError names a tensor that does not fit."""
        self.load(dict(state["model"]), origin)
        self.optimizer.restore(dict(state.get("optimizer", {})))
        if self.average is not None:
            self.average.restore(dict(state.get("average", {})))

    def trained(self) -> dict[str, Tensor]:
        """The weights that are trained, by name: the tensors themselves where they are whole."""
        return self.placement.trained(self.model)

    def load(self, weights: Mapping[str, Tensor], origin: Path) -> None:
        """Take up trained weights; CorruptionError names one that does not fit."""
        load_tensors(self.trained(), weights, origin)

    def fill(self) -> None:
        """Bring the present weights into the model that the trainer was given."""
        self.placement.fill(self.model)
