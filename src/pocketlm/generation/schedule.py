"""The host's side of an engine: which prompts wait, which sample sits in which slot, and what becomes of it.

Requests may be added and taken out between the steps. Who drives a schedule calls, over and over,

    fill      start waiting samples in free slots, prefilling prompts; close the gaps that remain
    step      decode on the device, without Python for each sequence
    settle    look at the device: take finished samples out, ask tools and constraints, look for stop strings

and finds the samples that have ended in `ended`. What `settle` and `remove` set free has to be filled before a step.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy
import torch
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.generation.orders import features_of, orders_of
from pocketlm.generation.requests import Decode, Request, checked_answer
from pocketlm.generation.samples import Job, Sample
from pocketlm.generation.slots import Features, Slots
from pocketlm.generation.stops import StopStrings
from pocketlm.model.cache import Blocks

PREFILL_TOKENS = 8192
"""Padded tokens of one prefill at most (a single longer prompt is taken alone)."""

MOST_BLOCKS = 8
SMALLEST_BLOCK = 8
"""Blocks of slots that attend apart, each as far as its longest sequence: of a smaller one the call costs more."""
COPY_COST = 4
"""Passes over the keys of a sequence that moving it takes."""

BROKEN = (
    "generation: the model's logits are not numbers, its weights are broken. "
    "Look at the loss of the training that made it."
)

log = logging.getLogger(__name__)

Steps = Callable[[int, Blocks], None]
"""`Slots.steps`, or the same as a graph."""


class Schedule:
    """The queue of prompts and the owners of slots.

    A prompt leaves the queue for the shelf when it is prefilled, and the shelf when its last sample has a slot. The
    shelf is filled when it is empty.

    Args:
        slots: the device's state; what an earlier user left in it is stopped.
        steps: runs decode steps on it.
        capacity: slots to use, even if there are more: equal calls then round equally.
        length: longest prompt plus continuation.
        steps_per_look: decode steps between two looks.
        decode: token ids to text, if any request has stop strings.
        features: what all requests use, where they are known; None follows those in flight.
        piece: most tokens of a prefill, a longer prompt takes several; None: `PREFILL_TOKENS`, and prompts are whole.
        live: whether every token is read at the next look, and a fault ends its own sample alone instead of all.

    Attributes:
        ended: samples with a completion or a fault, for the driver to take out.
        waiting: samples that wait for a slot.
    """

    def __init__(
        self,
        slots: Slots,
        steps: Steps,
        capacity: int,
        length: int,
        steps_per_look: int,
        decode: Decode | None,
        features: Features | None = None,
        piece: int | None = None,
        live: bool = False,
    ) -> None:
        self._slots, self._steps, self._capacity, self._length = slots, steps, capacity, length
        self._steps_per_look, self._decode, self._features = steps_per_look, decode, features
        self._piece, self._live = piece, live
        self.ended: list[Sample] = []
        self.waiting = 0
        self._queue: OrderedDict[int, Job] = OrderedDict()
        self._shelf: deque[Job] = deque()
        # A row for each slot; the numbers of a slot that nobody owns mean nothing.
        self._owner_N = numpy.full(capacity, None, dtype=object)
        self._owned_N = numpy.zeros(capacity, dtype=bool)
        self._listens_N = numpy.zeros(capacity, dtype=bool)
        self._ruled_N = numpy.zeros(capacity, dtype=bool)
        self._prompt_N = numpy.zeros(capacity, dtype=numpy.int64)
        self._limit_N = numpy.zeros(capacity, dtype=numpy.int64)
        self._generated_N = numpy.zeros(capacity, dtype=numpy.int64)
        self._heard_N = numpy.zeros(capacity, dtype=numpy.int64)
        self._freed: list[int] = []
        self._changed = False
        self._most_blocks = MOST_BLOCKS if slots.device.type == "cpu" else 1
        self._read_in_vain = 0
        slots.finished_N[: slots.active] = True
        slots.active = 0
        slots.features = features or Features()

    def add(self, number: int, request: Request) -> None:
        """Put a request, which was checked, at the end of the queue; `number` is what the caller knows it by."""
        stops = StopStrings(request.stop_strings, self._decode) if request.stop_strings and self._decode else None
        limit = min(request.max_tokens, self._length - len(request.tokens), self._slots.size.longest)
        self._queue[number] = Job(number, request, limit, stops)
        self.waiting += request.samples

    def remove(self, number: int) -> None:
        """Take a request out, wherever its samples are; one that is not there is none."""
        job = self._queue.pop(number, None)
        if job is None:
            job = next((job for job in self._shelf if job.number == number), None)
            if job is not None:
                self._shelf.remove(job)
        if job is not None:
            self.waiting -= job.waiting
        for slot in numpy.flatnonzero(self._owned_N).tolist():
            if self._owner_N[slot].job.number == number:
                self._release(slot)

    @property
    def active(self) -> int:
        """Samples in slots."""
        return int(numpy.count_nonzero(self._owned_N))

    def running(self) -> list[Sample]:
        """The samples in slots."""
        found: list[Sample] = self._owner_N[self._owned_N].tolist()
        return found

    def fill(self, prefills: int | None = None) -> bool:
        """Start waiting samples in freed slots, then in unused ones; close the gaps that remain.

        Args:
            prefills: passes over prompts at most.

        Returns:
            Whether any sample was started.
        """
        slots = self._slots
        freed = numpy.array(sorted(self._freed), dtype=numpy.int64)
        self._freed.clear()
        free = numpy.concatenate([freed, numpy.arange(slots.active, self._capacity)])
        if len(freed):
            slots.finished_N[self._tensor(freed)] = True
        unused = len(free)
        while len(free) and (self._shelf or self._queue):
            if self._shelf:
                free = free[self._admit(free) :]
            elif prefills == 0:
                break
            else:
                self._prefill()
                prefills = None if prefills is None else prefills - 1
        # What is left of `free` are the highest slots, and gaps only if nothing could be started in them.
        gaps = free[free < slots.active]
        active = self._capacity - len(free)
        last = numpy.setdiff1d(numpy.arange(active, slots.active), gaps, assume_unique=True)
        if len(last):
            self._move(last, gaps[gaps < active], self._held(last))
            slots.finished_N[self._tensor(last)] = True
        slots.active = active
        return len(free) < unused

    def step(self) -> None:
        """Decode the next tokens of the active sequences, of which there must be some."""
        self._adapt()
        active = numpy.arange(self._slots.active)
        # A constrained sequence stands still until it has its next mask.
        most = 1 if self._ruled_N[active].any() else self._steps_per_look
        count = min(most, int((self._limit_N[active] - self._generated_N[active]).max()))
        self._steps(count, self._blocks(self._arranged(self._held(active))))

    def settle(self) -> bool:
        """Act on what the device did since the last look; whether slots are free that have to be filled."""
        active = self._slots.active
        finished_N, stopped_N, asking_N, generated_N = self._slots.look().numpy()
        self._generated_N[:active] = generated_N
        fresh_N = self._listens_N[:active] & (generated_N > self._heard_N[:active])
        concerned = numpy.flatnonzero(self._owned_N[:active] & (fresh_N | ((finished_N | asking_N) != 0)))
        if len(concerned):
            self._hear(concerned)
            rows, masks = [], []
            for slot in concerned.tolist():
                mask = self._consider(slot, bool(finished_N[slot]), bool(stopped_N[slot]), bool(asking_N[slot]))
                if mask is not None:
                    rows.append(slot)
                    masks.append(mask)
            if rows:
                self._slots.allow(self._tensor(rows), masks)
        return bool(self._freed)

    def _hear(self, rows: numpy.ndarray) -> None:
        """Read what samples have said since they were read last."""
        counts_N = self._generated_N[rows] - self._heard_N[rows]
        heard = self._slots.read(self._tensor(rows), self._tensor(self._heard_N[rows]), int(counts_N.max()))
        self._heard_N[rows] += counts_N
        for row, (slot, count) in enumerate(zip(rows.tolist(), counts_N.tolist(), strict=True)):
            self._owner_N[slot].hear(heard, row, count)

    def _consider(self, slot: int, finished: bool, stopped: bool, asking: bool) -> numpy.ndarray | None:
        """What follows from the tokens of a sample; its next mask if it is constrained and goes on."""
        sample: Sample = self._owner_N[slot]
        if sample.is_broken():
            self._slots.clean(self._tensor([slot]))
            self._fail(sample, InputError(BROKEN))
        else:
            try:
                met = not stopped and sample.meets_stop_string()
                complete = not met and sample.is_complete(stopped)
                if not (finished or met or complete):
                    if asking:
                        self._answer(slot, sample)
                    return self._mask(sample)
                sample.complete(stopped, complete, self._decode)
                self.ended.append(sample)
            except Exception as error:  # a bug, too, is one sequence's alone
                self._fail(sample, error)
        self._release(slot)
        return None

    def _answer(self, slot: int, sample: Sample) -> None:
        """Ask the tool of a sample that waits for it."""
        tool = sample.job.request.tool
        if tool is not None:
            answer = checked_answer(tool.call(list(sample.tokens)), self._slots.model.settings.known_tokens)
            self._slots.answer(slot, len(sample.tokens), answer)

    def _mask(self, sample: Sample) -> numpy.ndarray | None:
        """What a sample may say next, if it has a constraint."""
        if sample.constraint is None:
            return None
        words = numpy.array(sample.constraint.allowed(), dtype=numpy.int32)
        if not (words & self._known_words).any():
            raise InputError("generation: the constraint allows no token to follow.")
        return words

    @cached_property
    def _known_words(self) -> numpy.ndarray:
        """The mask of all tokens that may be drawn at all."""
        settings = self._slots.model.settings
        bits = numpy.arange(-(-settings.vocabulary // 32) * 32) < settings.known_tokens
        return numpy.packbits(bits, bitorder="little").view(numpy.int32)

    def _fail(self, sample: Sample, error: Exception) -> None:
        if not self._live:
            raise error
        sample.fault = str(error)
        if not isinstance(error, InputError):
            log.error("a constraint, a tool or the decoding of a sequence failed", exc_info=error)
            sample.fault = "generation: what follows its tokens failed, which is a bug; the log says more."
        self.ended.append(sample)

    def _release(self, slot: int) -> None:
        self._owner_N[slot], self._owned_N[slot] = None, False
        self._freed.append(slot)
        self._changed = True

    def _prefill(self) -> None:
        """Run the next prompts through the model, or a piece of the next one; those that are through are shelved."""
        jobs = self._next_jobs()
        self._adapt(jobs)
        slots, first, prompts = self._slots, jobs[0], [job.request.tokens for job in jobs]
        orders = orders_of([job.request for job in jobs], [job.limit for job in jobs], slots.device)
        if self._piece is not None and len(prompts[0]) > self._piece:
            start, first.prefilled = first.prefilled, min(first.prefilled + self._piece, len(prompts[0]))
            slots.prefill_piece(prompts[0], start, first.prefilled, orders)
            if first.prefilled < len(prompts[0]):
                return
        else:
            slots.prefill(prompts, orders)
        for place, job in enumerate(jobs):
            job.place = place
            del self._queue[job.number]
        self._shelf.extend(jobs)

    def _next_jobs(self) -> list[Job]:
        """Those from the front of the queue that are prefilled together."""
        most = self._piece or PREFILL_TOKENS
        jobs: list[Job] = []
        longest = 0
        for job in self._queue.values():
            longest = max(longest, len(job.request.tokens))
            if jobs and (len(jobs) == self._slots.size.shelf or (len(jobs) + 1) * longest > most):
                break
            jobs.append(job)
        return jobs

    def _admit(self, free: numpy.ndarray) -> int:
        """Start the next samples from the shelf in the first of the free slots; returns how many."""
        samples: list[Sample] = []
        constrained, masks = [], []
        while self._shelf and len(samples) < len(free):
            job = self._shelf[0]
            sample = Sample(job, job.started)
            job.started += 1
            self.waiting -= 1
            if not job.waiting:
                self._shelf.popleft()
            if job.request.constraint is not None:
                try:
                    sample.constraint = job.request.constraint()
                    mask = self._mask(sample)
                except Exception as error:
                    self._fail(sample, error)
                    continue
                if mask is not None:
                    constrained.append(int(free[len(samples)]))
                    masks.append(mask)
            samples.append(sample)
        if not samples:
            return 0
        targets = free[: len(samples)]
        for slot, sample in zip(targets.tolist(), samples, strict=True):
            self._owner_N[slot] = sample
        self._owned_N[targets] = True
        self._ruled_N[targets] = [sample.constraint is not None for sample in samples]
        self._listens_N[targets] = self._ruled_N[targets] | [
            self._live or sample.job.stops is not None for sample in samples
        ]
        self._prompt_N[targets] = [len(sample.job.request.tokens) for sample in samples]
        self._limit_N[targets] = [sample.job.limit for sample in samples]
        self._generated_N[targets], self._heard_N[targets] = 1, 0
        places_N, numbers_N = (
            self._tensor(column)
            for column in ([sample.job.place for sample in samples], [sample.number for sample in samples])
        )
        extent = int(self._prompt_N[targets].max())
        self._slots.admit(self._tensor(targets), places_N, numbers_N, extent, constrained, masks)
        return len(samples)

    def _adapt(self, coming: Sequence[Job] = ()) -> None:
        """Have the device do what the requests in flight and on the shelf use, and nothing else."""
        if self._features is None and (self._changed or coming):
            jobs = {*coming, *self._shelf, *(sample.job for sample in self.running())}
            self._slots.features = features_of([job.request for job in jobs], rounded=True)
            self._changed = False

    def _held(self, rows: numpy.ndarray) -> numpy.ndarray:
        """Tokens that slots hold in the cache; the newest is not in it yet."""
        held: numpy.ndarray = self._prompt_N[rows] + self._generated_N[rows] - 1
        return held

    def _arranged(self, held_N: numpy.ndarray) -> numpy.ndarray:
        """Tokens that every active sequence holds, sorted by them first if that has become worth its while.

        Attention reads as many keys for each sequence of a block as its longest has. What it read in vain is added up;
        when it exceeds what a sort would copy (to and from a buffer), the slots are sorted.
        """
        order = numpy.argsort(-held_N, kind="stable")
        self._read_in_vain += _keys_read(self._blocks(held_N)) - _keys_read(self._blocks(held_N[order]))
        if self._read_in_vain <= COPY_COST * held_N.sum():
            return held_N
        self._read_in_vain = 0
        targets = numpy.flatnonzero(order != numpy.arange(len(order)))
        if not len(targets):
            return held_N
        self._move(order[targets], targets, held_N[order[targets]])
        return held_N[order]

    def _move(self, sources: numpy.ndarray, targets: numpy.ndarray, held: numpy.ndarray) -> None:
        """Move samples that hold so many tokens into other slots."""
        self._slots.move(self._tensor(sources), self._tensor(targets), int(held.max()))
        for column in (
            *(self._owner_N, self._owned_N, self._listens_N, self._ruled_N),
            *(self._prompt_N, self._limit_N, self._generated_N, self._heard_N),
        ):
            column[targets] = column[sources]
        gone = numpy.setdiff1d(sources, targets)
        self._owner_N[gone], self._owned_N[gone] = None, False

    def _blocks(self, held_N: numpy.ndarray) -> list[tuple[int, int, int]]:
        """Blocks of neighbouring slots, and what the longest sequence of each holds."""
        size = max(SMALLEST_BLOCK, -(-len(held_N) // self._most_blocks))
        starts = numpy.arange(0, len(held_N), size)
        longest = numpy.maximum.reduceat(held_N, starts).tolist()
        ends = [*starts[1:].tolist(), len(held_N)]
        return list(zip(starts.tolist(), ends, longest, strict=True))

    def _tensor(self, array: numpy.ndarray | list[int]) -> Tensor:
        return torch.from_numpy(numpy.ascontiguousarray(array)).to(self._slots.device)


def _keys_read(blocks: Blocks) -> int:
    return sum((end - first) * most for first, end, most in blocks)
