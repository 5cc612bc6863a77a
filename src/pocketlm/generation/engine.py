"""The generation engine: many prompts, several samples each, one static key-value cache, finished slots refilled.

    Engine(model).generate([Request(tokens, max_tokens=8, temperature=1.0, seed=7, samples=16), ...])

Prompts are prefilled together, each once, and copied to the slots of their samples. Every few steps (`STEPS_PER_LOOK`)
the host looks at the device (`schedule.py`); sampling, stop tokens and limits are the device's own work (`slots.py`).

What it promises: the text of a request depends on the weights and the request, not on its batch mates or the number of
slots. One limit: products of another batch size may round differently (about 1e-6 in a log-probability), so a draw that
falls on such a margin can differ; the same requests in the same call give the same bits.

Ids that no token of the tokenizer has (`ModelSettings.tokens`) are never drawn: they would be text that nobody reads
and that reinforcement learning learns from. transformers draws them, and decodes them to nothing.

On a GPU the steps between two looks run as one graph (`graphs.py`).

Not covered: requests that come while others run (`live.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch

from pocketlm.errors import InputError
from pocketlm.generation.graphs import STEPS, GraphedSteps
from pocketlm.generation.orders import features_of
from pocketlm.generation.requests import Completion, Decode, Request, Tool, check_request
from pocketlm.generation.schedule import PREFILL_TOKENS, Schedule, Steps
from pocketlm.generation.slots import Size, Slots
from pocketlm.model.transformer import Transformer

__all__ = ["Completion", "Engine", "Request", "Tool"]

STEPS_PER_LOOK = {"cpu": 1, "cuda": STEPS}
"""Decode steps between two looks of the host at the device; on a CPU a look costs nothing and frees slots sooner."""
MOST_SLOTS = {"cpu": 512, "cuda": 1024}
CACHE_BYTES = {"cpu": 2 << 30, "cuda": 16 << 30}
"""Key-value cache that the default number of slots stays within. More slots are faster, up to some 250 on a CPU."""
SHELF = 64
"""Prompts that are prefilled together at most."""


class Engine:
    """Batched generation with a transformer's own weights (no copy: it follows an optimizer step at once).

    Args:
        model: the transformer.
        slots: sequences decoded at the same time at most; unless given, `MOST_SLOTS` or what `CACHE_BYTES` hold. Memory
            is taken as far as a call needs it and kept for the next call.
        length: longest prompt plus continuation in tokens; the model's context unless given.
        decode: token ids to text (`Tokenizer.decode`); needed for stop strings only.
    """

    def __init__(
        self, model: Transformer, slots: int | None = None, length: int | None = None, decode: Decode | None = None
    ) -> None:
        if slots is not None and slots < 1:
            raise InputError(f"generation: slots is {slots}; at least 1 is needed.")
        self._model = model
        self._most_slots = slots
        self._length = min(length or model.settings.context, model.settings.context)
        self._decode = decode
        self._slots: Slots | None = None
        self._steps: Steps | None = None

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Continue every request; the result has one list of `samples` completions a request, in the given order.

        Raises:
            InputError: a request cannot be served (empty or too long prompt, unknown token, bad setting); names it. Or
                a constraint or a tool failed, or logits are not numbers: nothing is kept of the call then.
        """
        vocabulary = self._model.settings.known_tokens
        for number, request in enumerate(requests):
            check_request(number, request, vocabulary, self._length, self._decode is not None)
        if not requests:
            return []
        try:
            return self._run(requests)
        except InputError:
            self._slots = self._steps = None  # the cache may hold what is no number
            raise

    def _run(self, requests: Sequence[Request]) -> list[list[Completion]]:
        size = self._size(requests)
        slots, steps = self._prepare(size)
        steps_per_look = STEPS_PER_LOOK.get(slots.device.type, 1)
        schedule = Schedule(
            slots, steps, size.slots, self._length, steps_per_look, self._decode, features=features_of(requests)
        )
        # Longest first: prompts of like length are prefilled together, with little padding.
        for number in numpy.argsort([-len(request.tokens) for request in requests], kind="stable").tolist():
            schedule.add(number, requests[number])
        schedule.fill()
        while schedule.active:
            if schedule.settle():
                schedule.fill()  # and look again: a first token may end a sequence at once
            else:
                schedule.step()
        found = {
            (sample.job.number, sample.number): sample.completion
            for sample in schedule.ended
            if sample.completion is not None  # for a fault is raised
        }
        return [[found[number, sample] for sample in range(request.samples)] for number, request in enumerate(requests)]

    def _size(self, requests: Sequence[Request]) -> Size:
        """What a call needs."""
        length = min(self._length, max(len(request.tokens) + request.max_tokens for request in requests))
        return Size(
            slots=min(self._most_slots or self._default_slots(length), sum(request.samples for request in requests)),
            # Prompts are prefilled at most so many tokens at a time: more places would stay empty.
            shelf=min(SHELF, len(requests), max(1, PREFILL_TOKENS // min(len(request.tokens) for request in requests))),
            length=length,
            longest=min(max(request.max_tokens for request in requests), length),
            stops=max(len(request.stop_tokens) for request in requests),
            triggers=max(0 if request.tool is None else len(request.tool.triggers) for request in requests),
            seen=int(any(request.repetition_penalty != 1 for request in requests)),
            masks=int(any(request.constraint is not None for request in requests)),
            odds=max(0 if request.odds is None else 1 + request.odds for request in requests),
        )

    def _prepare(self, size: Size) -> tuple[Slots, Steps]:
        """Device state of at least that size, kept from the last call if it is large enough, and what steps it."""
        if self._slots is None or self._steps is None or not self._slots.size.holds(size):
            self._slots = self._steps = None  # free the old cache before the new one is taken
            self._slots = Slots(self._model, size)
            self._steps = GraphedSteps(self._slots) if self._slots.device.type == "cuda" else self._slots.steps
        return self._slots, self._steps

    def _default_slots(self, length: int) -> int:
        shape, item = self._model.settings, self._model.head_weight_VD.element_size()
        slot_bytes = 2 * shape.layers * shape.kv_heads * shape.head_dim * length * item
        kind = "cuda" if self._model.head_weight_VD.is_cuda else "cpu"
        return max(1, min(MOST_SLOTS[kind], CACHE_BYTES[kind] // slot_bytes))
