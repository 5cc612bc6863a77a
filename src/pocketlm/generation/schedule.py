"""One call of `generate` as the host sees it: which prompts wait, which sequence sits in which slot, what comes out.

Between two looks at the device there is no Python per sequence. At a look the host takes finished sequences out, asks
tools, looks for stop strings, starts waiting sequences in free slots, and closes gaps when nothing waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy
import torch
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.generation.filters import Filters
from pocketlm.generation.requests import Completion, Decode, Request, checked_answer
from pocketlm.generation.slots import NO_TOKEN, Features, Orders, Slots
from pocketlm.generation.stops import StopStrings
from pocketlm.model.cache import Blocks

PREFILL_TOKENS = 8192
"""Padded tokens of one prefill at most (a single longer prompt is taken alone)."""

MOST_BLOCKS = 8
SMALLEST_BLOCK = 8
"""Blocks of slots that attend apart, each as far as its longest sequence: of a smaller one the call costs more."""
COPY_COST = 4
"""Passes over the keys of a sequence that moving it takes."""

Steps = Callable[[int, Blocks], None]
"""`Slots.steps`, or the same as a graph."""


class Schedule:
    """The queue of prompts and the owners of slots.

    Shape letters: R requests, W stop tokens, U triggers. `waiting` holds a row (request, sample, place on the shelf)
    for every sequence that waits for a slot, `owner` a row (request, sample) for every slot.

    Args:
        slots: the device's state, large enough for the call.
        steps: runs decode steps on it.
        capacity: slots to use.
        length: longest prompt plus continuation.
        steps_per_look: decode steps between two looks.
        decode: token ids to text, if any request has stop strings.
    """

    def __init__(
        self,
        slots: Slots,
        steps: Steps,
        capacity: int,
        requests: Sequence[Request],
        length: int,
        steps_per_look: int,
        decode: Decode | None,
    ) -> None:
        # Only `capacity` slots are used, even if an earlier call left more: equal calls then round equally.
        self._slots, self._steps, self._capacity, self._requests = slots, steps, capacity, requests
        self._steps_per_look = steps_per_look
        self._prompt_lengths_R = numpy.array([len(request.tokens) for request in requests])
        wanted_R = numpy.array([request.max_tokens for request in requests])
        self._limits_R = numpy.minimum(wanted_R, length - self._prompt_lengths_R)
        self._orders = _orders(requests, self._limits_R, slots.device)
        self._stops = [
            StopStrings(request.stop_strings, decode) if request.stop_strings and decode else None
            for request in requests
        ]
        self._decode = decode
        self._has_stops = any(self._stops)
        # Longest first: prompts of like length are prefilled together, with little padding.
        self._queue = [int(number) for number in numpy.argsort(-self._prompt_lengths_R, kind="stable")]
        self._waiting = numpy.zeros((0, 3), dtype=numpy.int64)
        self._owner = numpy.zeros((capacity, 2), dtype=numpy.int64)
        self._read = numpy.zeros(capacity, dtype=numpy.int64)
        """Tokens of each slot in which stop strings were looked for."""
        self._most_blocks = MOST_BLOCKS if slots.device.type == "cpu" else 1
        self._read_in_vain = 0
        self._completions: dict[tuple[int, int], Completion] = {}

    def run(self) -> list[list[Completion]]:
        slots = self._slots
        slots.finished_N[: slots.active] = True  # an earlier call may have been interrupted
        slots.active = 0
        slots.features = _features(self._requests)
        self._fill(freed=numpy.zeros(0, dtype=numpy.int64))
        while slots.active:
            finished_N, asking_N, generated_N = slots.look().numpy()
            if self._has_stops:
                finished_N = finished_N | self._stopped(finished_N, generated_N)
            self._answer(numpy.flatnonzero(asking_N & ~finished_N & 1), generated_N)
            finished = numpy.flatnonzero(finished_N)
            if len(finished):
                self._collect(finished, generated_N)
                self._fill(finished)
                continue  # a first token may have ended a sequence at once
            numbers = self._owner[: slots.active, 0]
            steps = min(self._steps_per_look, int((self._limits_R[numbers] - generated_N).max()))
            held_N = self._prompt_lengths_R[numbers] + generated_N - 1  # the newest token is not in the cache yet
            self._steps(steps, self._blocks(self._arranged(held_N)))
        return [
            [self._completions[number, sample] for sample in range(request.samples)]
            for number, request in enumerate(self._requests)
        ]

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
        sources = order[targets]
        self._slots.move(self._tensor(sources), self._tensor(targets), int(held_N[sources].max()))
        self._owner[targets], self._read[targets] = self._owner[sources], self._read[sources]
        return held_N[order]

    def _blocks(self, held_N: numpy.ndarray) -> list[tuple[int, int, int]]:
        """Blocks of neighbouring slots, and what the longest sequence of each holds."""
        size = max(SMALLEST_BLOCK, -(-len(held_N) // self._most_blocks))
        starts = numpy.arange(0, len(held_N), size)
        longest = numpy.maximum.reduceat(held_N, starts).tolist()
        ends = [*starts[1:].tolist(), len(held_N)]
        return list(zip(starts.tolist(), ends, longest, strict=True))

    def _stopped(self, finished_N: numpy.ndarray, generated_N: numpy.ndarray) -> numpy.ndarray:
        """Which of the sequences that go on have met a stop string, [N] of 0 and 1."""
        stopped_N = numpy.zeros_like(finished_N)
        for slot in numpy.flatnonzero((finished_N == 0) & (generated_N > self._read[: len(generated_N)])).tolist():
            stops = self._stops[self._owner[slot, 0]]
            if stops is not None:
                tokens = self._tokens(slot, int(generated_N[slot]))
                if stops.near_end(tokens, len(tokens) - int(self._read[slot])):
                    stopped_N[slot] = stops.cut(tokens) is not None
                self._read[slot] = len(tokens)
        return stopped_N

    def _answer(self, asking: numpy.ndarray, generated_N: numpy.ndarray) -> None:
        """Ask the tools of sequences that wait for one."""
        for slot in asking.tolist():
            tool = self._requests[self._owner[slot, 0]].tool
            if tool is not None:
                count = int(generated_N[slot])
                answer = checked_answer(tool.call(self._tokens(slot, count)), self._slots.model.settings.known_tokens)
                self._slots.answer(slot, count, answer)

    def _tokens(self, slot: int, count: int) -> list[int]:
        tokens: list[int] = self._slots.outputs_NM[slot, :count].tolist()
        return tokens

    def _collect(self, finished: numpy.ndarray, generated_N: numpy.ndarray) -> None:
        """Turn finished sequences into completions."""
        slots, rows, counts = self._slots, self._tensor(finished), generated_N[finished].tolist()
        stopped = slots.stopped_N[rows].tolist()
        tokens = slots.outputs_NM[rows, : max(counts)].tolist()
        log_probabilities = slots.log_probabilities_NM[rows, : max(counts)].tolist()
        forced = (slots.forced_NM[rows, : max(counts)] != NO_TOKEN).tolist() if slots.features.tools else None
        for place, (number, sample) in enumerate(self._owner[finished].tolist()):
            count = counts[place]
            if any(map(math.isnan, log_probabilities[place][:count])):
                raise InputError(
                    "generation: the model's logits are not numbers, its weights are broken. "
                    "Look at the loss of the training that made it."
                )
            completion = Completion(
                tokens[place][: count - 1 if stopped[place] else count],
                log_probabilities[place][:count],
                "stop" if stopped[place] else "length",
                forced[place][:count] if forced else [False] * count,
            )
            self._completions[number, sample] = self._cut(completion, self._stops[number])

    def _cut(self, completion: Completion, stops: StopStrings | None) -> Completion:
        """The completion up to its stop string, with its text."""
        if stops is None or self._decode is None:
            return completion
        cut = stops.cut(completion.tokens)
        if cut is None:
            text = self._decode(completion.tokens)
            return Completion(
                completion.tokens, completion.log_probabilities, completion.finish, completion.forced, text
            )
        kept, text = cut
        return Completion(
            completion.tokens[:kept], completion.log_probabilities[:kept], "stop", completion.forced[:kept], text
        )

    def _fill(self, freed: numpy.ndarray) -> None:
        """Start waiting sequences in freed slots, then in unused ones; close the gaps that remain."""
        slots = self._slots
        free = numpy.concatenate([freed, numpy.arange(slots.active, self._capacity)])
        slots.finished_N[self._tensor(freed)] = True
        while len(free) and (len(self._waiting) or self._queue):
            if not len(self._waiting):
                self._prefill()
            starting = min(len(free), len(self._waiting))
            self._admit(free[:starting], self._waiting[:starting])
            free, self._waiting = free[starting:], self._waiting[starting:]
        # What is left of `free` are the highest slots, and gaps only if nothing waits any more.
        gaps = free[free < slots.active]
        active = self._capacity - len(free)
        last = numpy.setdiff1d(numpy.arange(active, slots.active), gaps, assume_unique=True)
        if len(last):
            generated = slots.generated_N[self._tensor(last)].cpu().numpy()
            extent = int((self._prompt_lengths_R[self._owner[last, 0]] + generated).max()) - 1
            targets = gaps[gaps < active]
            slots.move(self._tensor(last), self._tensor(targets), extent)
            slots.finished_N[self._tensor(last)] = True
            self._owner[targets], self._read[targets] = self._owner[last], self._read[last]
        slots.active = active

    def _prefill(self) -> None:
        """Lay the next prompts on the shelf; all their samples then wait."""
        most = max(1, PREFILL_TOKENS // len(self._requests[self._queue[0]].tokens))
        count = min(most, self._slots.size.shelf)
        shelf, self._queue = self._queue[:count], self._queue[count:]
        self._slots.prefill([self._requests[number].tokens for number in shelf])
        self._waiting = numpy.array(
            [
                (number, sample, place)
                for place, number in enumerate(shelf)
                for sample in range(self._requests[number].samples)
            ]
        )

    def _admit(self, targets: numpy.ndarray, starting: numpy.ndarray) -> None:
        numbers, samples, places = starting.T
        extent = int(self._prompt_lengths_R[numbers].max())
        targets_N, places_N, numbers_N, samples_N = map(self._tensor, (targets, places, numbers, samples))
        self._slots.admit(targets_N, places_N, numbers_N, samples_N, self._orders, extent)
        self._owner[targets], self._read[targets] = starting[:, :2], 0

    def _tensor(self, array: numpy.ndarray) -> Tensor:
        return torch.from_numpy(numpy.ascontiguousarray(array)).to(self._slots.device)


def _keys_read(blocks: Blocks) -> int:
    return sum((end - first) * most for first, end, most in blocks)


def _features(requests: Sequence[Request]) -> Features:
    drawn = [request for request in requests if request.temperature > 0]  # the greedy ones take no filter
    filters = Filters(
        top_k=max((request.top_k for request in drawn), default=0),
        top_k_always=all(request.top_k > 0 for request in drawn if request.top_p < 1),
        top_p=any(request.top_p < 1 for request in drawn),
        min_p=any(request.min_p > 0 for request in drawn),
    )
    return Features(
        greedy=len(drawn) < len(requests),
        penalty=any(request.repetition_penalty != 1 for request in requests),
        tools=any(request.tool is not None and request.tool.triggers for request in requests),
        filters=filters,
    )


def _orders(requests: Sequence[Request], limits_R: numpy.ndarray, device: torch.device) -> Orders:
    drawn_R = torch.tensor([request.temperature > 0 for request in requests])

    def column(values: list[float], kind: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=kind)

    triggers = [() if request.tool is None else sorted(request.tool.triggers) for request in requests]
    columns = (
        torch.tensor([request.seed for request in requests]),
        torch.from_numpy(limits_R),
        column([request.temperature for request in requests]),
        torch.where(drawn_R, torch.tensor([request.top_k for request in requests]), 0),
        torch.where(drawn_R, column([request.top_p for request in requests]), 1.0),
        torch.where(drawn_R, column([request.min_p for request in requests]), 0.0),
        column([request.repetition_penalty for request in requests]),
        _padded([request.stop_tokens for request in requests]),
        _padded(triggers),
    )
    return Orders(*(values.to(device) for values in columns))


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of different lengths as one int64 tensor, filled up with `NO_TOKEN`."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=NO_TOKEN
    )
