"""Asking a larger model when ours is unsure: which answers, whom, and what comes of it when nobody answers.

Our model writes its answer to the end. If its confidence (`serving.confidence`: the least sure of its samples) is below
the threshold, the conversation is sent to an OpenAI-compatible endpoint, and that answer is given instead of ours. Our
own is given when the other does not come: too late, refused, broken off, not of OpenAI's form. An answer that must
follow a regular expression or a Lark grammar is never sent on, since OpenAI's API has neither.

Nothing goes out unless a router is configured. The token is sent to the endpoint and stands in no log, and neither do
conversations nor what the endpoint says of a refusal, which may quote either.

Not covered: choosing among several endpoints, retries, budgets, completions that are no chat.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pocketlm.errors import InputError
from pocketlm.generation.requests import Completion
from pocketlm.serving.confidence import Measure, confidence
from pocketlm.serving.endpoint import Endpoint, EndpointFault, parse_endpoint, read_token, send

log = logging.getLogger("pocketlm.serving")
Result = TypeVar("Result")

AT_ONCE = 16
"""Requests that are sent on at the same time; more wait, within their own time."""
OURS = ("stream", "stream_options", "model")
"""Fields of a request that are not passed on."""
OWN_FORMATS = ("regex", "grammar")


@dataclass(frozen=True)
class Router:
    """When and whom to ask.

    Attributes:
        model: what the endpoint calls the larger model.
        threshold: an answer whose confidence lies below is not trusted, in nats per token. 0 trusts certainty alone,
            any positive number trusts nothing.
        timeout: seconds that the larger model has.
    """

    endpoint: Endpoint
    model: str
    threshold: float
    measure: Measure = "mean"
    timeout: float = 60.0

    def takes(self, value: dict[str, Any]) -> bool:
        """Whether a request's body can be sent on at all."""
        form = value.get("response_format")
        return not (isinstance(form, dict) and form.get("type") in OWN_FORMATS)

    def trusts(self, sure: float | None) -> bool:
        """Whether an answer of this confidence is given as it is; one without tokens has none, and is not trusted."""
        return sure is not None and sure >= self.threshold

    def confidence_of(self, completions: Sequence[Completion]) -> float | None:
        """Of an answer: that of its least sure sample, without the token that ended it; None if one has no tokens."""
        found = []
        for completion in completions:
            odds = (completion.odds or [])[: len(completion.tokens)]
            found.append(confidence([one.log_probability for one in odds], self.measure))
        known = [sure for sure in found if sure is not None]
        return min(known) if known and len(known) == len(found) else None

    def ask(self, value: dict[str, Any]) -> dict[str, Any]:
        """The larger model's answer to a request's body, as a whole, whether or not a stream was asked for.

        Raises:
            EndpointFault: there is none.
        """
        body = {name: item for name, item in value.items() if name not in OURS} | {"model": self.model}
        with send(self.endpoint, "/chat/completions", body, self.timeout) as reply:
            content = reply.body()
            if reply.status != 200:
                raise EndpointFault(f"status {reply.status}", reply.status)
        return read_answer(content, self.model)


class Asking:
    """Requests that are sent on, each in a thread of its own, so that no client waits for another one's.

    A thread whose client has gone, or whose server stops, is left to its timeout, and keeps its place until then.
    """

    def __init__(self, router: Router) -> None:
        self.router = router
        self._free = asyncio.Semaphore(AT_ONCE)

    async def ask(self, value: dict[str, Any], seconds: float) -> dict[str, Any]:
        """`Router.ask` within so many seconds, the wait for a place included; EndpointFault if there is no answer."""
        try:
            async with asyncio.timeout(min(seconds, self.router.timeout)):
                await self._free.acquire()
                return await _in_thread(lambda: self.router.ask(value), self._free.release)
        except TimeoutError:
            raise EndpointFault("no answer in time") from None


def read_router(
    url: str | None,
    model: str | None,
    threshold: float | None,
    token_file: Path | None,
    measure: Measure = "mean",
    timeout: float = 60.0,
) -> Router | None:
    """A router from the options of `pocketlm serve`; None if none of them is given.

    Raises:
        InputError: some are given and others missing, or one is no address, token or number.
    """
    if url is None and model is None and threshold is None and token_file is None:
        return None
    if url is None or model is None or threshold is None:
        raise InputError("a router needs --router-url, --router-model and --router-threshold together")
    if not math.isfinite(threshold):
        raise InputError(f"--router-threshold {threshold}: a number of nats per token was expected, such as -0.5")
    endpoint = parse_endpoint("--router-url", url, read_token("--router-token-file", token_file))
    return Router(endpoint, model, threshold, measure, timeout)


def read_answer(content: bytes, model: str) -> dict[str, Any]:
    """A chat completion of OpenAI's form; `model` stands in it as the answering server has it, else as it was asked.

    Raises:
        EndpointFault: it is none, or cannot be written as JSON again.
    """
    try:
        answer = json.loads(content)
        choices = [_choice(index, choice) for index, choice in enumerate(answer["choices"])]
        named = answer.get("model")
        found = {**answer, "object": "chat.completion", "model": named if isinstance(named, str) else model}
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise EndpointFault("no answer of OpenAI's form") from None
    if not choices:
        raise EndpointFault("no answer of OpenAI's form")
    return {**found, "choices": choices}


def _choice(index: int, choice: dict[str, Any]) -> dict[str, Any]:
    message, finish = choice["message"], choice["finish_reason"]
    content, calls = message.get("content"), message.get("tool_calls")
    if not (content is None or isinstance(content, str)) or not isinstance(finish, str):
        raise ValueError("a choice without text")
    if not (calls is None or (isinstance(calls, list) and all(isinstance(call, dict) for call in calls))):
        raise ValueError("calls of another form")
    return {"logprobs": None, **choice, "index": index}


async def _in_thread(function: Callable[[], Result], ended: Callable[[], None]) -> Result:
    """Run a function in a thread that the end of the program does not wait for.

    Args:
        ended: called on the event loop when the thread has ended, whether or not somebody still waits for it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, fault: EndpointFault | None) -> None:
        ended()
        if future.cancelled():
            return
        if fault is not None:
            future.set_exception(fault)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, fault = None, None
        try:
            result = function()
        except EndpointFault as error:
            fault = error
        except Exception:  # a bug: the client gets our own answer, the log hears the rest
            log.exception("asking the larger model failed")
            fault = EndpointFault("it could not be asked")
        try:
            loop.call_soon_threadsafe(settle, result, fault)
        except RuntimeError:  # the server has stopped meanwhile
            log.debug("a larger model answered after the end")

    try:
        threading.Thread(target=run, name="larger model", daemon=True).start()
    except RuntimeError:  # there are too many
        ended()
        raise EndpointFault("it could not be asked") from None
    return await future
