"""Gradients of one step, summed over parts that fit into memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context
from pocketlm.training.batches import Batch
from pocketlm.training.compilation import CompiledHidden
from pocketlm.training.device import compute_type
from pocketlm.training.objective import Objective
from pocketlm.training.placement import Placement


@dataclass(frozen=True)
class Share:
    """One rank's parts of a step. All ranks have equally many, for they exchange weights and gradients in each.

    `weights`: 1 for a part that counts, 0 for one that only keeps step with the others.
    """

    parts: list[Batch]
    weights: list[int]


class Gradients:
    """Runs an objective forwards and backwards over a batch, `runtime.micro_batch` rows at a time.

    When memory runs out at the first batch the run is refused with the largest part that fits; later on the parts are
    halved once for the rest of the run, which is recorded, since sums in another order have other last bits.
    """

    def __init__(self, model: Transformer, objective: Objective, context: Context, placement: Placement | None = None):
        self.model, self.objective, self.context = model, objective, context
        self.placement = placement or Placement(model)
        self.rows = context.runtime.micro_batch
        self._device = model.head_weight_VD.device
        self._compute = compute_type(self._device, context.runtime.precision)
        wanted = False if self.placement.sharded else context.runtime.compile
        self._compiled = CompiledHidden(model, wanted, context.warn)
        self._worked = self._halved = False

    def of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradients of a batch to the parameters; returns the summed loss and metrics."""
        sums = self._attempt(batch, self.rows)
        if sums is None:
            sums = self._again_in_smaller_parts(batch)
        self._worked = True
        return sums

    def of_share(self, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        """As `of` for this rank's share of a batch: gradients, loss and metrics are those of the whole batch."""
        parts = [part.to(self._device) for part in share.parts]
        try:
            if not self._worked and not self.placement.sharded:
                # DDP orders its sums anew after its first backward pass; a run that is continued has to meet the same.
                self._sums(parts, share.weights)
                self.placement.zero_grad()
            loss, metrics = self._sums(parts, share.weights)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise InputError(
                f"{self.context.stage}: {len(parts[0].tokens_BT)} rows at once do not fit into the memory of "
                f"{self._device} on rank {self.placement.rank}; set runtime.micro_batch lower. The last checkpoint "
                "stands"
            ) from None
        self._worked = True
        loss, *values = self.placement.summed([loss, *metrics.values()])
        return loss, dict(zip(metrics, values, strict=True))

    def _attempt(self, batch: Batch, rows: int | None) -> tuple[Tensor, dict[str, Tensor]] | None:
        """`_add`, or None when memory runs out; then the error is gone, and with it what its frames hold on the device.

        Within an `except` they would hold the activations of the failed pass while it is made again.
        """
        try:
            return self._add(batch, rows)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
        return None

    def _add(self, batch: Batch, rows: int | None) -> tuple[Tensor, dict[str, Tensor]]:
        parts = list(batch.split(rows))
        return self._sums(parts, [1] * len(parts))

    def _sums(self, parts: Sequence[Batch], weights: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        loss = torch.zeros((), device=self._device)
        metrics: dict[str, Tensor] = {}
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True), start=1):
            with self.placement.exchanging(gradients=number == len(parts)):
                autocast = torch.autocast(self._device.type, self._compute, enabled=self._compute != torch.float32)
                with autocast, self._compiled.active():
                    part_loss, part_metrics = self.placement.loss(self.objective, part)
                if weight == 0:
                    part_loss, part_metrics = part_loss * 0, {name: value * 0 for name, value in part_metrics.items()}
                part_loss.backward()
            loss += part_loss.detach()
            for name, value in part_metrics.items():
                metrics[name] = metrics[name] + value.detach() if name in metrics else value.detach()
        return loss, metrics

    def _again_in_smaller_parts(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        rows = self.rows or len(batch.tokens_BT)
        failed = rows
        while rows > 1 and not self._halved:
            rows //= 2
            self.model.zero_grad()
            sums = self._attempt(batch, rows)
            if sums is None:
                if self._worked:
                    break
                continue
            if not self._worked:
                self.model.zero_grad()
                raise InputError(
                    f"{self.context.stage}: {failed} rows at once do not fit into the memory of {self._device}, "
                    f"{rows} do; set runtime.micro_batch={rows}"
                )
            self.rows, self._halved = rows, True
            self.context.warn(
                f"out of memory with {failed} rows at once: {rows} from here on. Gradients are summed in another order "
                "now, so the run is no longer equal to the last bit to one with the former parts",
                micro_batch=rows,
            )
            return sums
        raise InputError(
            f"{self.context.stage}: out of memory on {self._device} even with {rows} row(s) at once; the last "
            "checkpoint stands. Free memory, or lower the context, and run the same command"
        )


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
