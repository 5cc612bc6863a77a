"""The one training loop of all stages: steps, guard, log, checkpoints, exact resume.

    result = Trainer(model, objective, batches, settings, context).run()

The model is trained in place. A run that is killed and started again with the same arguments and work folder ends with
the same bits, log rows included: weights, optimizer and log are in the checkpoint, batches and random streams are pure
functions of the step.

Does not cover: several devices, gradient rollback after loss spikes.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pocketlm.errors import GateFailed, InputError, Interrupted
from pocketlm.model.storage import load_weights
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.storage import canonical_json, require_disk_space, sha256_text
from pocketlm.training.batches import Batch, BatchSource
from pocketlm.training.checkpoint import Checkpoint, CheckpointFolder
from pocketlm.training.compilation import CompiledHidden
from pocketlm.training.device import compute_type
from pocketlm.training.guard import UpdateMeter
from pocketlm.training.log import TrainingLog
from pocketlm.training.objective import Objective
from pocketlm.training.optimizer import Optimizer
from pocketlm.training.schedule import learning_rate
from pocketlm.training.settings import TrainingSettings
from pocketlm.training.validation import Validation, ValidationState

CHECKPOINT_SHARE = 0.05  # of the wall time, at most; a kill loses twenty times what a checkpoint costs
CHECKPOINT_SECONDS = 1.0  # and never more often than this
SHARE_SAMPLED_EVERY = 10  # steps
SMALLEST_CHANGED_SHARE = 0.001  # of the bf16 weights, in steps at half the peak learning rate or more


@dataclass(frozen=True)
class TrainResult:
    """What a finished run reports. `rows` are the log; figures of the device or the clock are not in it."""

    steps: int
    tokens: int
    rows: list[dict[str, Any]]
    skipped: int
    validation_rows: list[dict[str, Any]]
    best_step: int | None
    best_value: float | None
    stopped_early: bool


class Trainer:
    """Owns optimizer, schedule, clipping, guard, log and checkpoints of one run.

    `data_digest` names what the batches are cut from: a checkpoint made on other data is refused (InputError).
    Raises Interrupted (after a checkpoint) when a stop was requested, GateFailed when updates stay non-finite.
    """

    def __init__(
        self,
        model: Transformer,
        objective: Objective,
        batches: BatchSource,
        settings: TrainingSettings,
        context: Context,
        validation: Validation | None = None,
        data_digest: str = "",
    ):
        self.model, self.objective, self.batches = model, objective, batches
        self.settings, self.context, self.validation = settings, context, validation
        self.device = model.head_weight_VD.device
        self.compiled = CompiledHidden(model, context.runtime.compile)
        self.optimizer = Optimizer(model, settings)
        self.meter = UpdateMeter(model.parameters())
        self.checkpoints = CheckpointFolder(context.work / "checkpoints", context.event)
        self.log = TrainingLog(settings.log_every)
        self.validation_state = ValidationState()
        self.step = 0
        self.tokens = 0
        self.warned = False
        identity = {"training": settings.identity(), "model": model.settings.identity(), "data": data_digest}
        self.identity = sha256_text(canonical_json(identity))

    def run(self) -> TrainResult:
        """Train to the last step, from the newest checkpoint if there is one."""
        self._resume()
        # Weights, two moments and the best weights, twice kept and once under way.
        require_disk_space(self.context.work, 3 * 4 * 4 * self.model.settings.parameter_count())
        saved_at, saved_step, save_seconds = time.monotonic(), self.step, 0.0
        while not self._finished():
            if self.context.stop_requested:
                self._save()
                raise Interrupted(
                    f"{self.context.stage} stopped after step {self.step} of {self.settings.steps} with a checkpoint; "
                    "the same command continues"
                )
            self._train_step()
            elapsed = time.monotonic() - saved_at
            if self._checkpoint_due(elapsed, save_seconds):
                started = time.monotonic()
                self._save()
                saved_at, saved_step = time.monotonic(), self.step
                save_seconds = saved_at - started
        if self.step > saved_step:
            self._save()  # what follows in the stage may be killed too
        return self._result()

    def _train_step(self) -> None:
        batch = self.batches.batch(self.step, self.model).to(self.device)
        rate = learning_rate(self.settings, self.step)
        loss, metrics = self._gradients(batch)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.meter.before()
        skipped = ~(loss.isfinite() & norm.isfinite())
        self.optimizer.step(rate, skipped)
        self.model.zero_grad()
        figures = {"loss": loss, "gradient_norm": norm, "update_ratio": self.meter.ratio(), **metrics}
        if (self.step + 1) % SHARE_SAMPLED_EVERY == 0:
            figures["bf16_changed"] = self.meter.changed_share()
        self.log.add({**figures, "skipped": skipped})
        self.step += 1
        self.tokens += batch.consumed
        if self.step % self.settings.log_every == 0 or self.step == self.settings.steps:
            self._close_row(rate)
        if self.validation and (self.step % self.validation.every == 0 or self.step == self.settings.steps):
            self.validation_state.update(self.validation, self.step, self.model)

    def _gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Accumulate the gradients of the step's parts; returns the summed loss and metrics."""
        compute = compute_type(self.device)
        loss = torch.zeros((), device=self.device)
        metrics: dict[str, Tensor] = {}
        for part in batch.split(self.context.runtime.micro_batch):
            autocast = torch.autocast(self.device.type, compute, enabled=compute != torch.float32)
            with autocast, self.compiled.active():
                part_loss, part_metrics = self.objective.loss(self.model, part)
            part_loss.backward()
            loss += part_loss.detach()
            for name, value in part_metrics.items():
                metrics[name] = metrics[name] + value.detach() if name in metrics else value.detach()
        return loss, metrics

    def _close_row(self, rate: float) -> None:
        row = self.log.close_row(self.step, tokens=self.tokens, learning_rate=rate)
        shown = {"loss": row["loss"]} if row["loss"] is not None else {}
        self.context.progress(self.step, self.settings.steps, tokens=self.tokens, **shown)
        if self.log.skipped_in_a_row > self.settings.skips_allowed:
            raise GateFailed(
                f"{self.context.stage}: {self.log.skipped_in_a_row} updates in a row were not finite (last: step "
                f"{self.step}) and were skipped; lower the learning rate ({self.settings.learning_rate:g}) or look "
                "for broken rows in the data"
            )
        share = row.get("bf16_changed")
        if share is not None and share < SMALLEST_CHANGED_SHARE and rate >= self.settings.learning_rate / 2:
            self._warn_of_small_updates(share)

    def _warn_of_small_updates(self, share: float) -> None:
        if not self.warned:
            self.warned = True
            self.context.warn(
                f"an update changes only {share:.2%} of the weights in bf16 at learning rate "
                f"{self.settings.learning_rate:g}: the model hardly moves",
                step=self.step,
            )

    def _finished(self) -> bool:
        patience_over = self.validation is not None and self.validation_state.exhausted(self.validation)
        return self.step >= self.settings.steps or patience_over

    def _checkpoint_due(self, elapsed: float, save_seconds: float) -> bool:
        if self.settings.checkpoint_every is not None:
            return self.step % self.settings.checkpoint_every == 0
        return elapsed >= max(CHECKPOINT_SECONDS, save_seconds / CHECKPOINT_SHARE)

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "tokens": self.tokens,
            "warned": self.warned,
            "log": self.log.to_json(),
            "validation": self.validation_state.to_json(),
        }
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.tensors(),
            "best": self.validation_state.best_weights,
        }
        self.checkpoints.save(self.step, Checkpoint({name: group for name, group in tensors.items() if group}, state))

    def _resume(self) -> None:
        checkpoint = self.checkpoints.load_newest()
        if checkpoint is None:
            return
        state = checkpoint.state
        if state["identity"] != self.identity:
            raise InputError(
                f"{self.checkpoints.folder} holds checkpoints of other data, settings or model shape; "
                "continue with the former ones or remove that folder to start anew"
            )
        load_weights(self.model, checkpoint.tensors["model"], self.checkpoints.folder)
        self.optimizer.restore(checkpoint.tensors.get("optimizer", {}))
        best = {name: tensor.to(self.device) for name, tensor in checkpoint.tensors.get("best", {}).items()}
        self.validation_state = ValidationState(**state["validation"], best_weights=best)
        self.log.restore(state["log"])
        self.step, self.tokens, self.warned = state["step"], state["tokens"], state["warned"]
        self.context.event("training_resumed", step=self.step)

    def _result(self) -> TrainResult:
        if self.validation and self.validation.keep_best and self.validation_state.best_weights:
            load_weights(self.model, self.validation_state.best_weights, self.checkpoints.folder)
        return TrainResult(
            steps=self.step,
            tokens=self.tokens,
            rows=self.log.rows,
            skipped=self.log.skipped,
            validation_rows=self.validation_state.rows,
            best_step=self.validation_state.best_step,
            best_value=self.validation_state.best_value,
            stopped_early=self.step < self.settings.steps,
        )
