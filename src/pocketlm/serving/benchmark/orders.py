"""What `pocketlm bench-serve` is asked for, and the endpoints that are named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.pipeline.validation import suggest
from pocketlm.serving.benchmark.asking import Target
from pocketlm.serving.benchmark.client import ask, list_models
from pocketlm.serving.benchmark.cost import Prices
from pocketlm.serving.confidence import Measure
from pocketlm.serving.endpoint import EndpointFault, parse_endpoint, read_token


@dataclass(frozen=True)
class Side:
    """An endpoint as the command line names it.

    Attributes:
        model: one of its models; None: the only one.
        options: what the names of its options begin with, for messages.
    """

    url: str
    model: str | None = None
    token_file: Path | None = None
    options: str = "--"


@dataclass(frozen=True)
class TokenPrices:
    """Of a model that is paid by tokens, per million of them; None: not given."""

    per_million_prompt: float | None = None
    per_million_completion: float | None = None


@dataclass(frozen=True)
class CurveOrder:
    """What a trade-off curve needs beside the small model.

    Attributes:
        side: the larger model.
        most_routed: share of the tasks that the chosen threshold may give away.
    """

    side: Side
    measure: Measure = "mean"
    most_routed: float = 0.5
    prices: TokenPrices = field(default_factory=TokenPrices)


@dataclass(frozen=True)
class BenchmarkOrder:
    """What the command was asked for.

    Attributes:
        side: the endpoint; None with `model`.
        model: a model that our own server serves here while the benchmark runs.
        streams: requests at the same time.
        limit: only the first tasks.
        timeout: seconds for one request.
        curve: ask two models and draw the router's curve, instead of one model both ways.
    """

    side: Side | None = None
    model: Path | None = None
    streams: int = 8
    limit: int | None = None
    timeout: float = 120.0
    prices: Prices = field(default_factory=Prices)
    curve: CurveOrder | None = None


def open_side(side: Side, order: BenchmarkOrder) -> Target:
    """The endpoint of a side, once it has answered a greeting.

    Raises:
        InputError: no such address, nobody answers, no such model, several models and none named.
    """
    endpoint = parse_endpoint(f"{side.options}url", side.url, read_token(f"{side.options}token-file", side.token_file))
    try:
        model = side.model or _only(list_models(endpoint, order.timeout), side, endpoint.url)
        target = Target(endpoint, model, order.streams, order.timeout)
        greeting = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}
        if fault := (answer := ask(endpoint, greeting, order.timeout)).fault:
            raise EndpointFault(f"{fault}{_near(model, target, answer.status)}", answer.status)
    except EndpointFault as fault:
        remedy = f"; give the token in a file with {side.options}token-file" if fault.status == 401 else ""
        raise InputError(f"{side.options}url {endpoint.url}: {fault}{remedy}") from None
    return target


def _only(models: list[str], side: Side, url: str) -> str:
    if len(models) != 1:
        listed = ", ".join(models[:20]) or "none"
        raise InputError(
            f"{side.options}url {url} serves {len(models)} models ({listed}); name one with {side.options}model"
        )
    return models[0]


def _near(model: str, target: Target, status: int) -> str:
    if status != 404:
        return ""
    try:
        return suggest(model, list_models(target.endpoint, target.timeout))
    except EndpointFault:
        return ""
