"""An engine for requests that come and go while others run: what a server needs.

    engine = LiveEngine(model, slots=16, decode=tokenizer.decode)
    ticket = engine.add(Request(tokens, max_tokens=100))
    while engine.active or engine.waiting:
        for progress in engine.advance():
            ...

It shares the device's state and the host's bookkeeping with `Engine` (`slots.py`, `schedule.py`), and with it the
promise that a text depends on the weights and its request, not on its batch mates, up to rounding. A prompt that is
prefilled in pieces rounds differently, too.

Requests are served in the order in which they came. Memory is taken once; nothing grows with the requests served.

Not covered: several threads (one owns the engine), priorities, moving a running sequence out for another one, sharing
the keys of prompts that begin alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pocketlm.errors import InputError
from pocketlm.generation.engine import STEPS_PER_LOOK
from pocketlm.generation.graphs import GraphedSteps
from pocketlm.generation.requests import MOST_ODDS, Completion, Decode, Odds, Request, check_request
from pocketlm.generation.samples import Sample
from pocketlm.generation.schedule import Schedule
from pocketlm.generation.slots import Size, Slots
from pocketlm.model.transformer import Transformer

SHELF = 8
"""Prompts that are prefilled together at most; each place takes the memory of a slot."""
MOST_STOP_TOKENS = 64
MOST_TRIGGERS = 1024
"""Stop tokens of a request, and triggers of its tool, at most: the device's state has room for so many."""


@dataclass(frozen=True)
class Progress:
    """What happened to one sequence since the last `advance`.

    Attributes:
        ticket, sample: which one.
        tokens: its new tokens, without a stop token. They may turn out to be the beginning of a stop string, which
            is cut off: who shows text as it comes holds back as much as may belong to one. `completion` is what counts.
        log_probabilities: of these tokens, and of the stop token that ended it.
        odds: one for each log-probability, if the request asked for them.
        completion: the whole continuation, when it has ended.
        fault: why it failed, in a sentence for the user: its logits are not numbers, its constraint or tool broke.
            Nothing comes after it, and other sequences go on.
    """

    ticket: int
    sample: int
    tokens: list[int]
    log_probabilities: list[float]
    odds: list[Odds] | None
    completion: Completion | None = None
    fault: str | None = None


class LiveEngine:
    """Requests come and go while others run. Not thread-safe: one thread owns it.

    Args:
        model: the transformer; its type and device are the engine's.
        slots: sequences decoded at the same time at most.
        length: longest prompt plus continuation in tokens; the model's context unless given.
        decode: token ids to text (`Tokenizer.decode`); needed for stop strings only.
        prefill_tokens: tokens of prompts, padding included, that one `advance` takes at most. Fewer let running
            sequences wait less, more take less time altogether.
        longest: new tokens of a sequence at most, whatever its request asks for; `length` unless given.

    Attributes:
        slots: as given.
    """

    def __init__(
        self,
        model: Transformer,
        slots: int,
        length: int | None = None,
        decode: Decode | None = None,
        prefill_tokens: int = 512,
        longest: int | None = None,
    ) -> None:
        length = model.settings.context if length is None else min(length, model.settings.context)
        longest = length if longest is None else min(longest, length)
        for name, value in (
            ("slots", slots),
            ("length", length),
            ("longest", longest),
            ("prefill_tokens", prefill_tokens),
        ):
            if value < 1:
                raise InputError(f"generation: {name} is {value}; at least 1 is needed.")
        self.slots, self._length = slots, length
        self._vocabulary = model.settings.known_tokens
        self._decodes = decode is not None
        self._added = 0
        size = Size(
            slots=slots,
            shelf=min(SHELF, slots),
            length=length,
            longest=longest,
            stops=MOST_STOP_TOKENS,
            triggers=MOST_TRIGGERS,
            seen=1,
            masks=1,
            odds=1 + MOST_ODDS,
        )
        with torch.inference_mode():
            state = Slots(model, size)
            kind = state.device.type
            steps = GraphedSteps(state) if kind == "cuda" else state.steps
            self._schedule = Schedule(
                state,
                steps,
                slots,
                length,
                STEPS_PER_LOOK.get(kind, 1),
                decode,
                piece=prefill_tokens,
                live=True,
            )

    def add(self, request: Request) -> int:
        """Queue a request; returns its ticket, by which its progress is known.

        Raises:
            InputError: it cannot be served; says why.
        """
        check_request(None, request, self._vocabulary, self._length, self._decodes)
        triggers = 0 if request.tool is None else len(request.tool.triggers)
        for name, count, most in (
            ("stop tokens", len(request.stop_tokens), MOST_STOP_TOKENS),
            ("tokens that trigger its tool", triggers, MOST_TRIGGERS),
        ):
            if count > most:
                raise InputError(f"generation: the request has {count} {name}; at most {most} can be served.")
        self._added += 1
        self._schedule.add(self._added, request)
        return self._added

    @torch.inference_mode()
    def cancel(self, ticket: int) -> None:
        """Forget a request: its samples leave queue and slots. Of one that is not there any more nothing happens."""
        self._schedule.remove(ticket)

    @torch.inference_mode()
    def advance(self) -> list[Progress]:
        """Start what waits, prefilling at most `prefill_tokens`, and decode once; returns what is new, [] when idle."""
        schedule = self._schedule
        prefills = 1
        while schedule.fill(prefills):
            schedule.settle()  # a first token may end a sequence, and a constraint has to see it
            prefills = 0
        if schedule.active:
            schedule.step()
            schedule.settle()
        ended, schedule.ended = schedule.ended, []
        return [
            _progress(sample)
            for sample in (*ended, *schedule.running())
            if sample.completion or sample.fault or sample.handed < len(sample.tokens)
        ]

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot."""
        return self._schedule.waiting

    @property
    def active(self) -> int:
        """Sequences in slots."""
        return self._schedule.active


def _progress(sample: Sample) -> Progress:
    """What is new of a sample, which is then handed out."""
    ticket, first = sample.job.number, sample.handed
    odds = None if sample.job.request.odds is None else sample.odds[first:]
    if sample.fault is not None:
        return Progress(ticket, sample.number, [], [], None if odds is None else [], fault=sample.fault)
    sample.handed = len(sample.tokens)
    if sample.completion is None:
        return Progress(ticket, sample.number, sample.tokens[first:], sample.log_probabilities[first:], odds)
    whole = sample.completion
    odds = None if whole.odds is None else whole.odds[first:]
    return Progress(ticket, sample.number, whole.tokens[first:], whole.log_probabilities[first:], odds, whole)
