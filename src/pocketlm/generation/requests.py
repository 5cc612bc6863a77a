"""What the engine is asked and what it answers: `Request`, `Completion` and the `Tool` that may write in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pocketlm.errors import InputError

Decode = Callable[[list[int]], str]
"""Token ids to text, for stop strings."""


class Tool(Protocol):
    """Something that writes into a sequence after certain tokens: a calculator, for example."""

    @property
    def triggers(self) -> frozenset[int]:
        """Ids of the tokens after which it is asked, when the model draws them."""

    def call(self, tokens: list[int]) -> list[int]:
        """Tokens to put behind `tokens`, the new tokens of a sequence up to and with a trigger; may be none."""


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    The sampling options mean what they mean in transformers and are applied in its order: repetition penalty,
    temperature, top-k, top-p, min-p. At temperature 0 only the repetition penalty has a meaning. One difference: equal
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


@dataclass(frozen=True)
class Completion:
    """A continuation.

    Attributes:
        tokens: new tokens without the stop token. Where a stop string ended it: those whose text lies wholly before.
        log_probabilities: of each token under the distribution that it was drawn from, after penalty, temperature and
            filters (a greedy request: softmax of the logits after the penalty), in nats; 0.0 for a forced token. One
            more than `tokens`, for the stop token, where a stop token ended it.
        finish: "stop" for a stop token or stop string, "length" when max_tokens or the context ended it.
        forced: for each log-probability whether a tool put the token in.
        text: of a request with stop strings: its text, cut exactly before the stop string; None without stop strings.
    """

    tokens: list[int]
    log_probabilities: list[float]
    finish: Literal["stop", "length"]
    forced: list[bool] = field(default_factory=list)
    text: str | None = None


def check_request(number: int, request: Request, vocabulary: int, length: int, decodes: bool) -> None:
    """Refuse a request that cannot be served.

    Args:
        number: its place in the call, for the message.
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
        raise InputError(f"generation: request {number}: {fault}.")


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
    if not 0 <= request.temperature < float("inf"):
        return f"temperature is {request.temperature}; it must be 0 (greedy) or a positive number"
    if not 0 <= request.seed < 2**63:
        return f"seed is {request.seed}; it must lie between 0 and 2**63 - 1"
    if request.top_k < 0:
        return f"top_k is {request.top_k}; it must be 0 (all tokens) or a positive number"
    if not 0 < request.top_p <= 1:
        return f"top_p is {request.top_p}; it must be above 0 and at most 1 (all tokens)"
    if not 0 <= request.min_p <= 1:
        return f"min_p is {request.min_p}; it must lie between 0 (all tokens) and 1"
    if not 0 < request.repetition_penalty < float("inf"):
        return f"repetition_penalty is {request.repetition_penalty}; it must be positive (1 for none)"
    return ""


def _inside(tokens: Sequence[int] | frozenset[int], vocabulary: int) -> bool:
    return not len(tokens) or (min(tokens) >= 0 and max(tokens) < vocabulary)
