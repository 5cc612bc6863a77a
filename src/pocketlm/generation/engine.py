"""The generation engine: many prompts, several samples each, one static key-value cache, finished slots refilled.

    Engine(model).generate([Request(tokens, max_tokens=8, temperature=1.0, seed=7, samples=16), ...])

Prompts are prefilled together, each once, and copied to the slots of their samples. Every few steps (`STEPS_PER_LOOK`)
the host looks at the device: it takes finished sequences out, starts waiting ones in their slots, and moves the last
ones forward when nothing waits. Between two looks there is no Python per sequence.

What it promises: the text of a request depends on the weights and the request, not on its batch mates or the number of
slots. One limit: products of another batch size may round differently (about 1e-6 in a log-probability), so a draw that
falls on such a margin can differ; the same requests in the same call give the same bits.

Not covered yet: CUDA graphs (the state is laid out for them), top-k and top-p, grammar constraints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
import torch
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.generation.slots import NO_TOKEN, Slots
from pocketlm.model.transformer import Transformer

STEPS_PER_LOOK = {"cpu": 1, "cuda": 8}
"""Decode steps between two looks of the host at the device; on a CPU a look costs nothing and frees slots sooner."""
MOST_SLOTS = 512
CACHE_BYTES = 1 << 30
"""Key-value cache that the default number of slots stays within."""
SHELF = 64
"""Prompts that are prefilled together at most."""
PREFILL_TOKENS = 8192
"""Padded tokens of one prefill at most (a single longer prompt is taken alone)."""


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    Attributes:
        tokens: the prompt, at least one token.
        max_tokens: new tokens at most, the stop token included.
        temperature: 0 takes the most likely token.
        seed: 0 to 2**63 - 1.
        samples: number of independent continuations; sample i of a seed is always the same.
        stop_tokens: ids that end a continuation.
    """

    tokens: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1
    stop_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Completion:
    """A continuation.

    Attributes:
        tokens: new tokens without the stop token.
        log_probabilities: of each token under the distribution that it was drawn from (temperature 1 for a greedy
            request), in nats; one more than `tokens`, for the stop token, when `finish` is "stop".
        finish: "stop", or "length" when max_tokens or the context ended it.
    """

    tokens: list[int]
    log_probabilities: list[float]
    finish: Literal["stop", "length"]


class Engine:
    """Batched generation with a transformer's own weights (no copy: it follows an optimizer step at once).

    Args:
        model: the transformer.
        slots: sequences decoded at the same time at most; unless given, 512 or what 1 GiB of cache holds. Memory is
            taken as far as a call needs it and kept for the next call.
        length: longest prompt plus continuation in tokens; the model's context unless given.
    """

    def __init__(self, model: Transformer, slots: int | None = None, length: int | None = None) -> None:
        if slots is not None and slots < 1:
            raise InputError(f"generation: slots is {slots}; at least 1 is needed.")
        self._model = model
        self._most_slots = slots
        self._length = min(length or model.settings.context, model.settings.context)
        self._slots: Slots | None = None

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Continue every request; the result has one list of `samples` completions a request, in the given order.

        Raises:
            InputError: a request cannot be served (empty or too long prompt, unknown token, bad setting); names it.
        """
        for number, request in enumerate(requests):
            self._check(number, request)
        if not requests:
            return []
        longest = max(request.max_tokens for request in requests)
        length = min(self._length, max(len(request.tokens) + request.max_tokens for request in requests))
        capacity = min(self._most_slots or self._default_slots(length), sum(request.samples for request in requests))
        stops = max(len(request.stop_tokens) for request in requests)
        slots = self._prepare(capacity, min(SHELF, len(requests)), length, min(longest, length), stops)
        return _Call(slots, capacity, requests, self._length).run()

    def _prepare(self, *size: int) -> Slots:
        """Device state of at least that size (see `Slots`); kept from the last call if it is large enough."""
        if self._slots is None or not self._slots.fits(*size):
            self._slots = None  # free the old cache before the new one is taken
            self._slots = Slots(self._model, *size)
        return self._slots

    def _default_slots(self, length: int) -> int:
        shape, item = self._model.settings, self._model.head_weight_VD.element_size()
        slot_bytes = 2 * shape.layers * shape.kv_heads * shape.head_dim * length * item
        return max(1, min(MOST_SLOTS, CACHE_BYTES // slot_bytes))

    def _check(self, number: int, request: Request) -> None:
        tokens, vocabulary = request.tokens, self._model.settings.vocabulary
        fault = ""
        if not len(tokens):
            fault = "the prompt is empty; give at least one token"
        elif len(tokens) >= self._length:
            fault = (
                f"the prompt has {len(tokens)} tokens, which leaves no room in a context of {self._length}; "
                f"shorten it to {self._length - 1} or fewer"
            )
        elif min(tokens) < 0 or max(tokens) >= vocabulary:
            fault = f"a token id lies outside the vocabulary of {vocabulary}; was another tokenizer used?"
        elif request.max_tokens < 1 or request.samples < 1:
            fault = f"max_tokens is {request.max_tokens} and samples {request.samples}; both must be at least 1"
        elif not 0 <= request.temperature < float("inf"):
            fault = f"temperature is {request.temperature}; it must be 0 (greedy) or a positive number"
        elif not 0 <= request.seed < 2**63:
            fault = f"seed is {request.seed}; it must lie between 0 and 2**63 - 1"
        if fault:
            raise InputError(f"generation: request {number}: {fault}.")


class _Call:
    """One call of `generate`, seen from the host: the queue of prompts, and which sequence sits in which slot.

    Shape letters: R requests, W stop tokens. `waiting` holds a row (request, sample, place on the shelf) for every
    sequence that waits for a slot, `owner` a row (request, sample) for every slot.
    """

    def __init__(self, slots: Slots, capacity: int, requests: Sequence[Request], length: int) -> None:
        # Only `capacity` slots are used, even if an earlier call left more: equal calls then round equally.
        self._slots, self._capacity, self._requests = slots, capacity, requests
        self._prompt_lengths_R = numpy.array([len(request.tokens) for request in requests])
        wanted_R = numpy.array([request.max_tokens for request in requests])
        self._limits_R = numpy.minimum(wanted_R, length - self._prompt_lengths_R)
        self._temperatures_R = numpy.array([request.temperature for request in requests], dtype=numpy.float32)
        self._seeds_R = numpy.array([request.seed for request in requests])
        self._stops_RW = numpy.full((len(requests), slots.stops), NO_TOKEN)
        for number, request in enumerate(requests):
            self._stops_RW[number, : len(request.stop_tokens)] = request.stop_tokens
        # Longest first: prompts of like length are prefilled together, with little padding.
        self._queue = [int(number) for number in numpy.argsort(-self._prompt_lengths_R, kind="stable")]
        self._waiting = numpy.zeros((0, 3), dtype=numpy.int64)
        self._owner = numpy.zeros((capacity, 2), dtype=numpy.int64)
        self._completions: dict[tuple[int, int], Completion] = {}
        self._steps_per_look = STEPS_PER_LOOK.get(slots.finished_N.device.type, 1)

    def run(self) -> list[list[Completion]]:
        slots = self._slots
        slots.active = 0
        slots.greedy = bool((self._temperatures_R == 0).any())
        self._fill(freed=numpy.zeros(0, dtype=numpy.int64))
        while slots.active:
            finished = slots.finished_N[: slots.active].nonzero().squeeze(1).cpu().numpy()
            if len(finished):
                self._collect(finished)
                self._fill(finished)
                continue  # a first token may have ended a sequence at once
            numbers, generated = self._owner[: slots.active, 0], self._generated()
            held = int((self._prompt_lengths_R[numbers] + generated).max()) - 1  # the newest token is not in it yet
            steps = min(self._steps_per_look, int((self._limits_R[numbers] - generated).max()))
            for step in range(1, steps + 1):
                slots.step(min(held + step, slots.length))
        return [
            [self._completions[number, sample] for sample in range(request.samples)]
            for number, request in enumerate(self._requests)
        ]

    def _generated(self) -> numpy.ndarray:
        """Number of new tokens of every active sequence."""
        return self._slots.generated_N[: self._slots.active].cpu().numpy()

    def _collect(self, finished: numpy.ndarray) -> None:
        """Turn finished sequences into completions."""
        slots, rows = self._slots, self._tensor(finished)
        counts = slots.generated_N[rows].tolist()
        stopped = slots.stopped_N[rows].tolist()
        tokens = slots.outputs_NM[rows, : max(counts)].tolist()
        log_probabilities = slots.log_probabilities_NM[rows, : max(counts)].tolist()
        for place, (number, sample) in enumerate(self._owner[finished].tolist()):
            count = counts[place]
            if math.isnan(log_probabilities[place][count - 1]):  # what is not a number stays so to the end
                raise InputError(
                    "generation: the model's logits are not numbers, its weights are broken. "
                    "Look at the loss of the training that made it."
                )
            self._completions[number, sample] = Completion(
                tokens[place][: count - 1 if stopped[place] else count],
                log_probabilities[place][:count],
                "stop" if stopped[place] else "length",
            )

    def _fill(self, freed: numpy.ndarray) -> None:
        """Start waiting sequences in freed slots, then in unused ones; close the gaps that remain."""
        slots = self._slots
        free = numpy.concatenate([freed, numpy.arange(slots.active, self._capacity)])
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
            extent = int((self._prompt_lengths_R[self._owner[last, 0]] + self._generated()[last]).max()) - 1
            targets = gaps[gaps < active]
            slots.move(self._tensor(last), self._tensor(targets), extent)
            self._owner[targets] = self._owner[last]
        slots.active = active

    def _prefill(self) -> None:
        """Lay the next prompts on the shelf; all their samples then wait."""
        most = max(1, PREFILL_TOKENS // len(self._requests[self._queue[0]].tokens))
        count = min(most, self._slots.shelf)
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
        self._slots.admit(
            self._tensor(targets),
            self._tensor(places),
            int(self._prompt_lengths_R[numbers].max()),
            seeds_N=self._tensor(self._seeds_R[numbers]),
            samples_N=self._tensor(samples),
            limits_N=self._tensor(self._limits_R[numbers]),
            temperatures_N=self._tensor(self._temperatures_R[numbers]),
            stops_NW=self._tensor(self._stops_RW[numbers]),
        )
        self._owner[targets] = starting[:, :2]

    def _tensor(self, array: numpy.ndarray) -> Tensor:
        return torch.from_numpy(numpy.ascontiguousarray(array)).to(self._slots.finished_N.device)
