"""From a body to what the engine is asked: prompts in tokens, room in the context, seeds, grammars."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketlm.errors import InputError
from pocketlm.generation.requests import LOWEST_TEMPERATURE, Constraint, Request
from pocketlm.pipeline.validation import suggest
from pocketlm.serving.bodies import ChatBody, CompletionBody
from pocketlm.serving.errors import ApiError
from pocketlm.serving.fields import GrammarFormat, JsonSchemaFormat, RegexFormat, Sampling, TextFormat
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel

SMALLEST_TOP_P = 1e-9
"""For OpenAI's top_p = 0: the likeliest token alone."""
SEEDS = 2**63
SEED_STEP = 0x9E3779B97F4A7C15 % SEEDS
"""Between the seeds of the prompts of one request, so that equal prompts are continued differently."""
COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions."""


@dataclass(frozen=True)
class Order:
    """What both endpoints need of a request.

    Attributes:
        seed: given, or drawn; the answer's header `x-seed` says it.
        likeliest: how many likeliest tokens are reported at each place; None: no log-probabilities.
    """

    model: ServedModel
    seed: int
    samples: int
    likeliest: int | None


def find_model(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """ApiError 404 with the nearest name."""
    if name not in models:
        message = f"there is no model {name[:100]!r}{suggest(name, models)}; there are {', '.join(models)}"
        raise ApiError(404, message, "model", "model_not_found")
    return models[name]


def read_order(
    body: Sampling, models: Mapping[str, ServedModel], limits: Limits, prompts: int, likeliest: int | None
) -> Order:
    """Check what is bounded before any work is done for a request of so many prompts."""
    model = find_model(models, body.model)
    samples = body.n or 1
    if samples > limits.samples:
        raise ApiError(400, f"n is {samples}; at most {limits.samples} are given", "n", "limit_exceeded")
    if prompts * samples > limits.sequences:
        message = (
            f"{prompts} prompts with {samples} samples each; at most {limits.sequences} sequences are given at once"
        )
        raise ApiError(400, message, "prompt", "limit_exceeded")
    if len(body.stop) > limits.stop_strings or any(len(stop) > limits.stop_characters for stop in body.stop):
        message = f"stop: at most {limits.stop_strings} strings of {limits.stop_characters} characters are looked for"
        raise ApiError(400, message, "stop", "limit_exceeded")
    if likeliest is not None and likeliest > limits.likeliest:
        field = "top_logprobs" if isinstance(body, ChatBody) else "logprobs"
        raise ApiError(400, f"{field} is {likeliest}; at most {limits.likeliest} are reported", field, "limit_exceeded")
    seed = secrets.randbelow(2**53) if body.seed is None else body.seed % SEEDS
    return Order(model, seed, samples, likeliest)


def engine_requests(
    order: Order, body: Sampling, prompts: Sequence[Sequence[int]], wished: int | None, limits: Limits,
    constrain: Callable[[int], Callable[[], Constraint] | None],
) -> list[Request]:  # fmt: skip
    """One request for each prompt.

    Args:
        wished: new tokens; None: what the context leaves. More than that is clamped.
        constrain: from the most new tokens to what makes a sample's constraint.

    Raises:
        ApiError: 400 where a prompt does not fit, names no tokens, or asks for too many log-probabilities.
    """
    model = order.model
    temperature = 1.0 if body.temperature is None else body.temperature
    requests = []
    for number, tokens in enumerate(prompts):
        if len(tokens) >= model.context:
            message = (
                f"this model's context is {model.context} tokens, but the prompt has {len(tokens)}, which leaves no "
                f"room for an answer; shorten it to {model.context - 1} tokens or fewer"
            )
            raise ApiError(
                400, message, "messages" if isinstance(body, ChatBody) else "prompt", "context_length_exceeded"
            )
        most = min(model.context - len(tokens), limits.max_tokens or model.context, wished or model.context)
        requests.append(
            Request(
                tokens,
                most,
                temperature=temperature if temperature >= LOWEST_TEMPERATURE else 0.0,
                seed=(order.seed + number * SEED_STEP) % SEEDS,
                samples=order.samples,
                stop_tokens=model.stops,
                top_k=body.top_k or 0,
                top_p=1.0 if body.top_p is None else max(body.top_p, SMALLEST_TOP_P),
                min_p=body.min_p or 0.0,
                repetition_penalty=body.repetition_penalty or 1.0,
                stop_strings=body.stop,
                constraint=constrain(most),
                odds=order.likeliest,
            )
        )
    if order.likeliest is not None:
        reported = sum(request.samples * request.max_tokens for request in requests) * (1 + order.likeliest)
        if reported > limits.reported:
            message = f"up to {reported:,} log-probabilities, at most {limits.reported:,} are given; lower max_tokens"
            raise ApiError(400, message, "max_tokens", "limit_exceeded")
    return requests


def compiles(body: Sampling) -> bool:
    """Whether the answer has to follow a grammar, which is compiled first."""
    return body.response_format is not None and not isinstance(body.response_format, TextFormat)


def formatted(body: Sampling, model: ServedModel) -> Callable[[int], Callable[[], Constraint] | None]:
    """The constraint of `response_format`, by the most new tokens. ApiError 400: no text can follow it."""
    form = body.response_format

    def constrain(most: int) -> Callable[[], Constraint] | None:
        if form is None or isinstance(form, TextFormat):
            return None
        try:
            if isinstance(form, JsonSchemaFormat) and form.json_schema.schema_ is not None:
                return model.grammars.json_schema(form.json_schema.schema_, most)
            if isinstance(form, RegexFormat):
                return model.grammars.regex(form.regex, most)
            if isinstance(form, GrammarFormat):
                return model.grammars.lark(form.grammar, most)
            return model.grammars.json_object(most)
        except InputError as error:
            raise ApiError(400, f"response_format: {error}", "response_format", "invalid_grammar") from None

    return constrain


def prompt_tokens(body: CompletionBody, model: ServedModel) -> list[list[int]]:
    """Text as it stands, without special tokens; an empty prompt is the border that begins a document."""
    found = []
    for prompt in body.prompt:
        if isinstance(prompt, str):
            found.append(model.tokenizer.encode(prompt) or [model.tokenizer.text_start])
            continue
        if min(prompt) < 0 or max(prompt) >= model.tokens:
            message = f"prompt: token ids go from 0 to {model.tokens - 1}"
            raise ApiError(400, message, "prompt", "invalid_request")
        found.append(list(prompt))
    return found


def one_limit(body: ChatBody) -> int | None:
    """`max_completion_tokens`, or `max_tokens` by its older name."""
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        message = "max_tokens and max_completion_tokens are two names of one limit; give one of them"
        raise ApiError(400, message, "max_tokens", "invalid_request")
    return body.max_completion_tokens or body.max_tokens


def usage(requests: Sequence[Request], generated: int) -> dict[str, Any]:
    """OpenAI's `usage`: a prompt counts once for all its samples; a stop token counts, a cut stop string not."""
    asked = sum(len(request.tokens) for request in requests)
    return {"prompt_tokens": asked, "completion_tokens": generated, "total_tokens": asked + generated}
