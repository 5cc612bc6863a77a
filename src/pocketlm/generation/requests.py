"""What an engine is asked and what it answers, and who may have a say in between: a `Tool` or a `Constraint`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy

from pocketlm.errors import InputError

Decode = Callable[[list[int]], str]
"""Token ids to text, for stop strings."""

Finish = Literal["stop", "length"]

LOWEST_TEMPERATURE = 1e-6
HIGHEST_TEMPERATURE = 1e30
MOST_PENALTY = 1e6
"""Logits divided or multiplied by less or more may be no float32 numbers any more, and no token could be drawn."""
MOST_ODDS = 20
"""Likeliest tokens of one place that may be asked for; memory is taken for as many."""


class Tool(Protocol):
    """Something that writes into a sequence after certain tokens: a calculator, for example."""

    @property
    def triggers(self) -> frozenset[int]:
        """Ids of the tokens after which it is asked, when the model draws them."""

    def call(self, tokens: list[int]) -> list[int]:
        """Tokens to put behind `tokens`, the new tokens of a sequence up to and with a trigger; may be none."""


class Constraint(Protocol):
    """What one sequence may say next: a grammar, for example. Each sequence has its own.

    A stop token has to be allowed like any other token, and `accept` is not called with it: it ends the sequence.
    """

    def allowed(self) -> numpy.ndarray:
        """Which tokens may come next, as bits.

        Returns:
            [ceil(V / 32)] int32 words, where V counts the rows of the model's head: bit t % 32 (lowest first) of word
            t // 32 speaks of token t. It is read before the next call of the constraint, and not kept.

        Raises:
            InputError: it cannot say; the sequence fails with this message.
        """

    def accept(self, token: int) -> bool:
        """Take the token that was drawn, or that a tool forced; True if the text is complete and nothing may follow.

        Raises:
            InputError: the token does not fit; the sequence fails with this message.
        """


@dataclass(frozen=True)
class Odds:
    """What the model itself thought at one place, before mask, penalty, temperature and filters, in nats.

    Attributes:
        log_probability: of the token that was drawn, or forced.
        likeliest: (token, log-probability), the likeliest first.
    """

    log_probability: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    The sampling options mean what they mean in transformers and are applied in its order: constraint, repetition
    penalty, temperature, top-k, top-p, min-p. At temperature 0 only the first two have a meaning. One difference: equal
    logits are kept or left out together.

    Attributes:
        tokens: the prompt, at least one token.
        max_tokens: new tokens at most, the stop token and forced tokens included.
        temperature: 0 takes the most likely token.
        seed: 0 to 2**63 - 1.
        samples: number of independent continuations; sample i of a seed is always the same.
        stop_tokens: ids that end a continuation.
        top_k: draw among so many most likely tokens; 0 for all.
        top_p: draw among the most likely tokens that hold this probability together (arXiv 1904.09751); 1 for all.
        min_p: draw among tokens at least this share as likely as the likeliest (arXiv 2407.01082); 0 for all.
        repetition_penalty: divides the positive logits of tokens that stand in prompt or continuation, and multiplies
            the negative ones (arXiv 1909.05858); 1 for none.
        stop_strings: texts that end a continuation, which is cut before them. They may begin or end inside a token.
        tool: asked after its triggers; what it answers is put into the sequence.
        constraint: makes what says which tokens may come next; called once for each sample.
        odds: how many of the likeliest tokens to report at each place, 0 for those drawn alone; None: no odds.
    """

    tokens: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1
    stop_tokens: tuple[int, ...] = ()
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop_strings: tuple[str, ...] = ()
    tool: Tool | None = None
    constraint: Callable[[], Constraint] | None = None
    odds: int | None = None


@dataclass(frozen=True)
class Completion:
    """A continuation.

    Attributes:
        tokens: new tokens without the stop token. Where a stop string ended it: those whose text lies wholly before.
        log_probabilities: of each token under the distribution that it was drawn from, after constraint, penalty,
            temperature and filters (a greedy request: softmax of the logits after the penalty), in nats; 0.0 for a
            forced token. One more than `tokens`, for the stop token, where a stop token ended it.
        finish: "stop" for a stop token, a stop string or a constraint that says that the text is complete, "length"
            when max_tokens or the context ended it.
        forced: for each log-probability whether a tool put the token in.
        text: of a request with stop strings: its text, cut exactly before the stop string; None without stop strings.
        odds: one for each log-probability, if the request asked for them.
    """

    tokens: list[int]
    log_probabilities: list[float]
    finish: Finish
    forced: list[bool] = field(default_factory=list)
    text: str | None = None
    odds: list[Odds] | None = None


def check_request(number: int | None, request: Request, vocabulary: int, length: int, decodes: bool) -> None:
    """Refuse a request that cannot be served.

    Args:
        number: its place in the call, for the message; None if it came alone.
        vocabulary, length: number of token ids, and longest prompt plus continuation.
        decodes: whether the engine can turn tokens into text.
    """
    fault = _prompt_fault(request.tokens, vocabulary, length) or _option_fault(request)
    if not fault and request.stop_strings:
        if not decodes:
            fault = "it has stop strings, but the engine was made without `decode`"
        elif "" in request.stop_strings:
            fault = "a stop string is empty; leave it out"
    if not fault and request.tool is not None and not _inside(request.tool.triggers, vocabulary):
        fault = f"its tool is triggered by a token id outside the vocabulary of {vocabulary}"
    if fault:
        raise InputError(f"generation: {'' if number is None else f'request {number}: '}{fault}.")


def checked_answer(answer: Sequence[int], vocabulary: int) -> list[int]:
    """The tokens that a tool answered; InputError if some are none of the model's."""
    if not _inside(answer, vocabulary):
        raise InputError(
            f"generation: a tool answered with a token id outside the vocabulary of {vocabulary}; "
            "was another tokenizer used?"
        )
    return list(answer)


def _prompt_fault(tokens: Sequence[int], vocabulary: int, length: int) -> str:
    if not len(tokens):
        return "the prompt is empty; give at least one token"
    if len(tokens) >= length:
        return (
            f"the prompt has {len(tokens)} tokens, which leaves no room in a context of {length}; "
            f"shorten it to {length - 1} or fewer"
        )
    if not _inside(tokens, vocabulary):
        return f"a token id lies outside the vocabulary of {vocabulary}; was another tokenizer used?"
    return ""


def _option_fault(request: Request) -> str:
    if request.max_tokens < 1 or request.samples < 1:
        return f"max_tokens is {request.max_tokens} and samples {request.samples}; both must be at least 1"
    if request.temperature != 0 and not LOWEST_TEMPERATURE <= request.temperature <= HIGHEST_TEMPERATURE:
        return (
            f"temperature is {request.temperature}; it must be 0 (greedy) or a number of at least {LOWEST_TEMPERATURE} "
            f"and at most {HIGHEST_TEMPERATURE:g}"
        )
    if not 0 <= request.seed < 2**63:
        return f"seed is {request.seed}; it must lie between 0 and 2**63 - 1"
    if not all(-(2**63) <= token < 2**63 for token in request.stop_tokens):
        return "a stop token is too large for a token id"
    if request.top_k < 0:
        return f"top_k is {request.top_k}; it must be 0 (all tokens) or a positive number"
    if not 0 < request.top_p <= 1:
        return f"top_p is {request.top_p}; it must be above 0 and at most 1 (all tokens)"
    if not 0 <= request.min_p <= 1:
        return f"min_p is {request.min_p}; it must lie between 0 (all tokens) and 1"
    if not 1 / MOST_PENALTY <= request.repetition_penalty <= MOST_PENALTY:
        return (
            f"repetition_penalty is {request.repetition_penalty}; it must lie between {1 / MOST_PENALTY:g} and "
            f"{MOST_PENALTY:g} (1 for none)"
        )
    if request.odds is not None and not 0 <= request.odds <= MOST_ODDS:
        return f"odds is {request.odds}; it must lie between 0 (of the drawn tokens alone) and {MOST_ODDS}"
    return ""


def _inside(tokens: Sequence[int] | frozenset[int], vocabulary: int) -> bool:
    return not len(tokens) or (min(tokens) >= 0 and max(tokens) < vocabulary)
