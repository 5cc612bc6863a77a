"""The one training loop of all stages: steps, guard, log, checkpoints, exact resume.

    result = Trainer(model, objective, batches, settings, context).run()

The model is trained in place. A run that is killed and started again with the same arguments and work folder ends with
the same bits, log rows included: weights, optimizer and log are in the checkpoint, batches and random streams are pure
functions of the step, and what the run decides of itself (skipped updates, going back after a spike) it decides from
losses at fixed steps. With several ranks (`distributed.py`) this runs on the first; the others do its steps with it.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pocketlm.errors import CorruptionError, GateFailed, InputError, Interrupted
from pocketlm.model.backends import attention_backend
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.storage import require_disk_space
from pocketlm.training.batches import BatchesEnded, BatchSource
from pocketlm.training.checkpoint import Checkpoint, CheckpointFolder
from pocketlm.training.device import compute_type, shows_in_last_bits
from pocketlm.training.distributed import together
from pocketlm.training.guard import alarming, require_masters
from pocketlm.training.log import TrainingLog
from pocketlm.training.objective import Objective
from pocketlm.training.ranks import Rank
from pocketlm.training.recovery import SpikeWatch, batch_index, differing_paths
from pocketlm.training.schedule import learning_rate
from pocketlm.training.settings import TrainingSettings
from pocketlm.training.update import Order, Update
from pocketlm.training.validation import Validation, ValidationState
from pocketlm.training.watcher import Watcher

CHECKPOINT_SHARE = 0.05  # of the wall time, at most; a kill loses twenty times what a checkpoint costs
CHECKPOINT_SECONDS = 1.0  # and never more often than this
SHARE_SAMPLED_EVERY = 10  # steps
SMALLEST_CHANGED_SHARE = 0.05  # of the weights, by an update at the peak learning rate, if they were bf16


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
    ended: str
    """Why the batches or the watcher ended it; empty where neither did."""
    rollbacks: list[dict[str, int]] = field(default_factory=list)
    """For each time the run went back: the step it was at, the step it went to, first and last batch left out."""
    left_out: list[int] = field(default_factory=list)
    """Batches that no step of the result has seen."""


class Trainer:
    """Owns optimizer, schedule, clipping, guard, log and checkpoints of one run.

    `data_digest` names what the batches are cut from: a checkpoint made on other data is refused (InputError).
    `rate` gives the learning rate of a step (default: the schedule of the settings). `milestones` are steps whose
    whole state is kept in the folder `milestones` of the stage's scratch space, for other runs to branch from; `state`
    is such an optimizer state to begin with. `watcher` looks at the log whenever a row of it closes.
    Raises Interrupted (after a checkpoint) when a stop was requested, GateFailed when updates stay non-finite or the
    loss keeps leaving the rails, InputError when weights are not fp32 or a step does not fit into memory.
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
        rate: Callable[[int], float] | None = None,
        milestones: Collection[int] = (),
        state: Mapping[str, Tensor] | None = None,
        watcher: Watcher | None = None,
    ):
        require_masters(model)
        self.model, self.batches = model, batches
        self.settings, self.context, self.validation, self.watcher = settings, context, validation, watcher
        self.device = model.head_weight_VD.device
        Rank.of_environment().require_rows(context.stage, settings.batch_rows)
        self.update = Update(model, objective, settings, context)
        if validation is not None and validation.keep_best and settings.tail_average is not None:
            raise InputError(
                f"{context.stage}: tail_average blends the last weights, but this stage ends with those of its best "
                "score, so that it would do nothing; leave it out"
            )
        if state is not None:
            self._take_up(state)
        self.checkpoints = CheckpointFolder(context.work / "checkpoints", context.event)
        self.snapshots = CheckpointFolder(context.work / "snapshots", context.event)
        self.milestones = CheckpointFolder(context.work / "milestones", context.event, kept=None)
        self.milestone_steps = set(milestones)
        self.log = TrainingLog(settings.log_every)
        self.validation_state = ValidationState()
        self.watch = SpikeWatch()
        self.rollbacks: list[dict[str, int]] = []
        self.left_out: list[int] = []
        self.step = self.tokens = 0
        self.warned = False
        self.alarms: list[str] = []
        self.ended = ""
        self.identity = {"training": settings.identity(), "model": model.settings.identity(), "data": data_digest}
        self.identity |= self.update.placement.identity()
        self.rate = rate or (lambda step: learning_rate(settings, step))
        self.peak_rate = max(self.rate(step) for step in range(settings.steps))

    def _take_up(self, state: Mapping[str, Tensor]) -> None:
        try:
            self.update.optimizer.restore(dict(state))
        except CorruptionError as error:
            raise InputError(
                f"{self.context.stage}: the optimizer state to begin with is not that of {self.settings.optimizer} as "
                f"it is set here ({error}); set the optimizer as it was there, or leave out start_at to begin with a "
                "new state"
            ) from None

    def run(self) -> TrainResult:
        """Train to the last step, from the newest checkpoint if there is one."""
        with together(self):
            self._train()
        return self._result()

    def first_steps(self, steps: int) -> dict[str, Any]:
        """The log row of the first `steps` steps by themselves: nothing is read from or written to disk or scored."""
        self.validation = self.watcher = None
        while self.step < steps:
            self._train_step()
        return self.log.rows[0] if self.log.rows else self.log.close_row(steps, tokens=self.tokens)

    def _train(self) -> None:
        self._resume()
        self.context.work.mkdir(parents=True, exist_ok=True)
        # Weights, two moments and the best weights, twice kept and once under way.
        require_disk_space(self.context.work, 3 * 4 * sum(one.nbytes for one in self.update.trained().values()))
        saved_at, save_seconds = time.monotonic(), 0.0
        while not self._finished():
            if self.context.stop_requested:
                self._save()
                raise Interrupted(
                    f"{self.context.stage} stopped after step {self.step} of {self.settings.steps} with a checkpoint; "
                    "the same command continues"
                )
            if self._snapshot_due():
                self._keep(self.snapshots)
            before = self.step
            self._train_step()
            # Not where it went back to: what is due there was done when it was first there.
            if self.step > before and self.step in self.milestone_steps:
                self._keep(self.milestones)
            elapsed = time.monotonic() - saved_at
            if self._checkpoint_due(elapsed, save_seconds):
                started = time.monotonic()
                self._save()
                saved_at = time.monotonic()
                save_seconds = saved_at - started
        if self.ended and self.step and self.validation and self.validation_state.last_step != self.step:
            self._validate(self.validation)  # the last weights count too
        self._save()  # what follows in the stage may be killed too

    def _train_step(self) -> None:
        index = batch_index(self.step, self.left_out)
        if getattr(self.batches, "samples_from_model", False):
            self.update.fill()
        try:
            batch = self.batches.batch(index, self.model)
        except BatchesEnded as end:
            self._end(str(end))
            return
        rate = self.rate(self.step)
        probed = self.settings.probe_every is not None and self.step % self.settings.probe_every == 0
        figures = self.update.step(batch, Order(self.step, rate, self._share_at(rate), probed))
        if self.step == 0:
            share = float(figures.pop("bf16_changed"))
            if not figures["skipped"]:  # a step that was skipped says nothing of the rate
                self._check_updates(share)
        self.log.add(figures)
        self.step += 1
        self.tokens += batch.consumed
        made = self.step
        if made % self.settings.log_every == 0 or made == self.settings.steps:
            self._close_row(rate)
        self.context.progress(self.step, self.settings.steps, tokens=self.tokens, **self._newest_loss())
        # Not where it went back to: the snapshot has the score of its step.
        due = made % self.validation.every == 0 or made == self.settings.steps if self.validation else False
        if self.validation and due and self.step == made:
            self._validate(self.validation)
        if self.watcher is not None and self.log.rows and self.log.rows[-1]["step"] == made:
            self._heed(self.watcher)

    def _end(self, reason: str) -> None:
        """End before this step; the steps since the last row of the log have a row too."""
        self.ended = reason
        self.context.warn(reason, step=self.step)
        if self.step and (not self.log.rows or self.log.rows[-1]["step"] < self.step):
            self.log.close_row(self.step, tokens=self.tokens, learning_rate=self.rate(self.step - 1))

    def _validate(self, validation: Validation) -> None:
        self.update.fill()
        self.validation_state.update(validation, self.step, self.model, self.update.trained())

    def _heed(self, watcher: Watcher) -> None:
        """Name the watcher's alarms in the row of the log, say each once, and end where it says so."""
        found = watcher.alarms(self.log.rows, self.validation_state.rows)
        if found:
            self.log.rows[-1]["alarms"] = sorted(found)
        self._warn_once(found)
        self.ended = watcher.ended(self.log.rows)

    def _warn_once(self, messages: Mapping[str, str]) -> None:
        for name, message in messages.items():
            if name not in self.alarms:
                self.alarms.append(name)
                self.context.warn(message, step=self.step)

    def _share_at(self, rate: float) -> float | None:
        """The scale at which a step's share of changed weights is measured: the first at the peak rate, some as is."""
        if self.step == 0:
            return self.peak_rate / rate
        return 1.0 if (self.step + 1) % SHARE_SAMPLED_EVERY == 0 else None

    def _close_row(self, rate: float) -> None:
        losses = self.log.losses()
        row = self.log.close_row(self.step, tokens=self.tokens, learning_rate=rate)
        share = row.get("bf16_changed")
        if share is not None and rate >= self.peak_rate / 2:
            self._check_updates(share)
        self._warn_once(alarming(row))
        if self.log.skipped_in_a_row > self.settings.skips_allowed:
            last = self.step - 1
            self._go_back(
                last + 1 - self.log.skipped_in_a_row,
                last,
                f"{self.log.skipped_in_a_row} updates in a row were not finite (last: step {self.step}), and skipped",
            )
        elif self.settings.spikes is not None:
            for step, loss in enumerate(losses, self.step - len(losses)):
                if self.watch.sees(self.settings.spikes, step, loss):
                    first = self.watch.first if self.watch.first is not None else step
                    self._go_back(first, step, f"the loss stays far above its recent past since step {first + 1}")
                    break

    def _newest_loss(self) -> dict[str, Any]:
        """Of the newest row of the log: that of a step would make the host wait for the device."""
        loss = self.log.rows[-1]["loss"] if self.log.rows else None
        return {} if loss is None else {"loss": loss}

    def _go_back(self, first: int, last: int, reason: str) -> None:
        """Return to the newest snapshot before step `first` and leave out the batches of steps `first` to `last`."""
        policy = self.settings.spikes
        if policy is None or len(self.rollbacks) >= policy.rollbacks:
            went_back = f", after going back {len(self.rollbacks)} times" if policy is not None else ""
            raise GateFailed(
                f"{self.context.stage}: {reason}{went_back}; lower the learning rate "
                f"({self.settings.learning_rate:g}) or look for broken rows in the data"
            )
        absent = range(batch_index(first, self.left_out), batch_index(last, self.left_out) + 1)
        left_out, rollbacks, at = sorted({*self.left_out, *absent}), self.rollbacks, self.step
        snapshot = self.snapshots.load_newest(before=first)
        if snapshot is None:
            raise GateFailed(f"{self.context.stage}: {reason}, and no snapshot in {self.snapshots.folder} is whole")
        self._restore(snapshot)
        self.left_out = left_out
        self.rollbacks = [*rollbacks, {"at": at, "to": self.step, "first": absent[0], "last": absent[-1]}]
        self.snapshots.remove_after(self.step)
        self.milestones.remove_after(self.step)
        self._save()
        self.context.warn(
            f"{reason}: back to step {self.step}, leaving out batches {absent[0]} to {absent[-1]}", step=at
        )

    def _check_updates(self, share: float) -> None:
        if share < SMALLEST_CHANGED_SHARE and not self.warned:
            self.warned = True
            self.context.warn(
                f"an update at the peak learning rate of {self.peak_rate:g} changes only {share:.2%} of the weights in "
                "bf16: a model with bf16 weights would hardly move (masters are fp32 here), and this one moves slowly",
                step=self.step,
                bf16_changed=share,
            )

    def _snapshot_due(self) -> bool:
        """None while a spike lasts, however many skipped steps lie in between: those before it must not give way."""
        policy = self.settings.spikes
        return policy is not None and self.step % policy.snapshot_every == 0 and self.watch.first is None

    def _finished(self) -> bool:
        patience_over = self.validation is not None and self.validation_state.exhausted(self.validation)
        return self.step >= self.settings.steps or patience_over or bool(self.ended)

    def _checkpoint_due(self, elapsed: float, save_seconds: float) -> bool:
        if self.settings.checkpoint_every is not None:
            return self.step % self.settings.checkpoint_every == 0
        return elapsed >= max(CHECKPOINT_SECONDS, save_seconds / CHECKPOINT_SHARE)

    def _save(self) -> None:
        self._keep(self.checkpoints)

    def _keep(self, folder: CheckpointFolder) -> None:
        if not folder.holds(self.step, len(self.rollbacks)):
            folder.save(self.step, self._checkpoint(), len(self.rollbacks))

    def _checkpoint(self) -> Checkpoint:
        state = {
            "identity": self.identity,
            "runtime": self._runtime(),
            "step": self.step,
            "tokens": self.tokens,
            "warned": self.warned,
            "alarms": self.alarms,
            "log": self.log.to_json(),
            "validation": self.validation_state.to_json(),
            "watch": self.watch.to_json(),
            "rollbacks": self.rollbacks,
            "left_out": self.left_out,
        }
        tensors = {**self.update.state(), "best": self.validation_state.best_weights}
        return Checkpoint({name: group for name, group in tensors.items() if group}, state)

    def _resume(self) -> None:
        checkpoint = self.checkpoints.load_newest()
        if checkpoint is None:
            # It begins anew, and what an earlier beginning left behind is not of this run.
            self.snapshots.remove_after(-1)
            self.milestones.remove_after(-1)
            self.context.event("training_started", runtime=self._runtime())
            return
        changed = differing_paths(checkpoint.state["identity"], self.identity)
        if changed:
            raise InputError(
                f"{self.checkpoints.folder} holds checkpoints of other data, settings or model shape (different: "
                f"{', '.join(changed)}); continue with the former ones or remove that folder to start anew"
            )
        self._restore(checkpoint)
        before, now = checkpoint.state.get("runtime") or {}, self._runtime()
        changed = differing_paths(before, now)
        if not changed:
            self.context.event("training_resumed", step=self.step)
            return
        self.context.event("training_resumed", step=self.step, runtime=now, runtime_before=before)
        changes = ", ".join(f"{name} {before.get(name)!r} -> {now.get(name)!r}" for name in changed)
        self.context.warn(
            f"continues after step {self.step} with another runtime ({changes}): batches and rates are the same, but "
            "the result need not equal, to the last bit, that of a run in one runtime",
            step=self.step,
        )

    def _runtime(self) -> dict[str, Any]:
        rows, shape = self.settings.batch_rows, self.model.settings
        rows = min(self.update.gradients.rows or rows, rows)
        compute = compute_type(self.device, self.context.runtime.precision)
        compiled = self.context.runtime.compile
        attention = {
            name: attention_backend(shape, shape.context, self.device, compute, masked, bool(compiled))
            for name, masked in (("causal", False), ("masked", True))
        }
        return {**shows_in_last_bits(self.context.runtime, self.device, rows), "attention": attention}

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self.update.restore(checkpoint.tensors, self.checkpoints.folder)
        best = {name: tensor.to(self.device) for name, tensor in checkpoint.tensors.get("best", {}).items()}
        self.validation_state = ValidationState(**state["validation"], best_weights=best)
        self.log.restore(state["log"])
        self.watch = SpikeWatch(**state["watch"])
        self.step, self.tokens, self.warned = state["step"], state["tokens"], state["warned"]
        self.rollbacks, self.left_out, self.alarms = state["rollbacks"], state["left_out"], state["alarms"]
        self.ended = self.watcher.ended(self.log.rows) if self.watcher is not None and self.log.rows else ""

    def _result(self) -> TrainResult:
        if self.validation and self.validation.keep_best and self.validation_state.best_weights:
            self.update.load(self.validation_state.best_weights, self.checkpoints.folder)
        elif self.update.average is not None and self.settings.tail_average is not None:
            self.update.average.blend(self.update.placement.model, self.settings.tail_average.weight)
        self.update.fill()
        return TrainResult(
            steps=self.step,
            tokens=self.tokens,
            rows=self.log.rows,
            skipped=self.log.skipped,
            validation_rows=self.validation_state.rows,
            best_step=self.validation_state.best_step,
            best_value=self.validation_state.best_value,
            stopped_early=self.step < self.settings.steps,
            ended=self.ended,
            rollbacks=self.rollbacks,
            left_out=self.left_out,
        )
