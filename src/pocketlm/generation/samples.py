"""A request and its samples as the host follows them: what a sample has said, and what that means for it.

The tokens of a sample come from the device in pieces (`Sample.hear`). Then the host says what no device knows: whether
a stop string was met or a constraint is content, what a tool answers, and in the end what the completion is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pocketlm.generation.requests import Completion, Constraint, Decode, Finish, Odds, Request
from pocketlm.generation.slots import Readout
from pocketlm.generation.stops import StopStrings


@dataclass(eq=False)
class Job:
    """A request that is being served.

    Attributes:
        number: what the caller knows it by.
        limit: new tokens of each sample at most.
        stops: its stop strings, if it has any.
        started: samples that have left the queue.
        prefilled: tokens of a long prompt that are in the cache so far.
        place: on the shelf.
    """

    number: int
    request: Request
    limit: int
    stops: StopStrings | None
    started: int = 0
    prefilled: int = 0
    place: int = 0

    @property
    def waiting(self) -> int:
        """Samples that wait for a slot."""
        return self.request.samples - self.started


@dataclass(eq=False)
class Sample:
    """One continuation of a request.

    Attributes:
        job, number: which sample of which request.
        constraint: of this sample alone.
        tokens, log_probabilities, forced, odds: heard so far, the stop token included.
        handed: tokens among them that the caller was given.
        completion, fault: how it ended; both None while it runs.
    """

    job: Job
    number: int
    constraint: Constraint | None = None
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    odds: list[Odds] = field(default_factory=list)
    handed: int = 0
    completion: Completion | None = None
    fault: str | None = None
    _checked: int = 0
    _searched: int = 0
    _accepted: int = 0

    def hear(self, heard: Readout, row: int, count: int) -> None:
        """Take the next `count` tokens from a row of what was read."""
        self.tokens += heard.tokens_NC[row, :count].tolist()
        self.log_probabilities += heard.log_probabilities_NC[row, :count].tolist()
        self.forced += [False] * count if heard.forced_NC is None else heard.forced_NC[row, :count].tolist()
        likeliest = self.job.request.odds
        if likeliest is not None and heard.odds is not None:
            drawn = heard.odds.drawn_NC[row, :count].tolist()
            tokens = heard.odds.tokens_NCO[row, :count, :likeliest].tolist()
            logs = heard.odds.log_probabilities_NCO[row, :count, :likeliest].tolist()
            self.odds += [
                Odds(drawn[place], tuple(zip(tokens[place], logs[place], strict=True))) for place in range(count)
            ]

    def is_broken(self) -> bool:
        """Whether a token heard since the last call was drawn from what are no numbers."""
        fresh, self._checked = self.log_probabilities[self._checked :], len(self.log_probabilities)
        return any(map(math.isnan, fresh))

    def meets_stop_string(self) -> bool:
        """Whether one is complete since the last call."""
        stops, fresh = self.job.stops, len(self.tokens) - self._searched
        self._searched = len(self.tokens)
        return stops is not None and stops.near_end(self.tokens, fresh) and stops.cut(self.tokens) is not None

    def is_complete(self, stopped: bool) -> bool:
        """Whether its constraint, which is told the new tokens, calls the text complete.

        Args:
            stopped: the last token is a stop token, of which a constraint is not told.

        Raises:
            InputError: the constraint does not take a token.
        """
        end = len(self.tokens) - stopped
        fresh, self._accepted = self.tokens[self._accepted : end], end
        return self.constraint is not None and any(map(self.constraint.accept, fresh))

    def complete(self, stopped: bool, complete: bool, decode: Decode | None) -> None:
        """It has ended; its stop string, if there is one, is cut off.

        Args:
            stopped: by a stop token, the last.
            complete: by its constraint.
        """
        tokens = self.tokens[:-1] if stopped else self.tokens
        logs, forced, text = self.log_probabilities, self.forced, None
        odds = None if self.job.request.odds is None else self.odds
        finish: Finish = "stop" if stopped or complete else "length"
        if self.job.stops is not None and decode is not None:
            cut = self.job.stops.cut(tokens)
            if cut is None:
                text = decode(tokens)
            else:
                kept, text = cut
                tokens, logs, forced, finish = tokens[:kept], logs[:kept], forced[:kept], "stop"
                odds = None if odds is None else odds[:kept]
        self.completion = Completion(tokens, logs, finish, forced, text, odds)
