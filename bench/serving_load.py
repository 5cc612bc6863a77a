"""64 streams at once for two minutes, a third of which hang up: does the server lose slots, memory, or mix answers up?

    python -m bench.serving_load --gguf MODEL.gguf [--seconds 120] [--streams 64]

Every request asks for an answer in a form that nobody else asks for, a number of its own in front, by a regular
expression; an answer in another form, or with another number, is cross-talk. Before and after the load the same prompts
are asked greedily, one at a time: their texts must be equal. Afterwards no sequence may be left on the engine and no
descriptor open. Memory is read ten times: slots are filled further and grammars kept for a while, then it must stay.

Prints a table and writes bench/results/serving_load.json. Not covered: a network between client and server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from bench.common import write_result
from bench.serving_process import Served, served

PROMPTS = (
    "Name three colours.",
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Explain in one sentence why the sky is blue.",
)
WORDS = "Give me a short list of words about the weather, and then tell me a little story with them. " * 3
TIMEOUT = httpx.Timeout(300.0)
READINGS = 10


@dataclass
class Tally:
    """What the streams saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    tokens: int = 0


@dataclass(frozen=True)
class Ask:
    """One request: its number, whether it streams, and after how many events or seconds its client hangs up."""

    number: int
    stream: bool
    leaves: float | None

    @property
    def form(self) -> str:
        return f"no {self.number}:( [a-z]{{1,7}}){{2,30}}"

    def body(self, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [{"role": "user", "content": WORDS[: 20 + self.number % 200]}],
            "seed": self.number,
            "temperature": 1.0,
            "max_tokens": 24 + self.number % 40,
            "stream": self.stream,
            "response_format": {"type": "regex", "regex": self.form},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--slots", type=int, default=16)
    given = parser.parse_args()
    arguments = [f"model={given.gguf}", "--slots", str(given.slots), "--context", "512", "--queue", str(given.streams)]
    with served(arguments) as server:
        payload = asyncio.run(measure(server, given.streams, given.seconds))
    payload |= {"streams": given.streams, "slots": given.slots, "seconds": given.seconds, "exit_code": 0}
    print(json.dumps(payload, indent=2))
    write_result("serving_load", payload, ("fastapi", "uvicorn", "llguidance"))


async def measure(server: Served, streams: int, seconds: float) -> dict[str, Any]:
    """Load a server and look at what it left behind."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT, limits=limits) as client:
        before = [await greedy(client, prompt) for prompt in PROMPTS]
        files = server.open_files()
        tally, numbers = Tally(), iter(range(10_000, 10_000_000))
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(_stream(client, tally, numbers, until, place)) for place in range(streams)]
        resident_mb = []
        for _ in range(READINGS):
            await asyncio.sleep(seconds / READINGS)
            resident_mb.append(server.resident_mb())
        await asyncio.gather(*tasks)
        left = await _left(client)
        after = [await greedy(client, prompt) for prompt in PROMPTS]
        await asyncio.sleep(1.0)
        first = sorted(tally.first_seconds)
        return {
            "requests": sum(tally.outcomes.values()),
            "outcomes": dict(tally.outcomes),
            "cross_talk": sum(tally.outcomes[name] for name in ("another form", "another text")),
            "faults": tally.faults[:10],
            "tokens_received": tally.tokens,
            "seconds_to_first_token": {f"p{share * 100:.0f}": _at(first, share) for share in (0.5, 0.95)},
            "sequences_left": left,
            "greedy_texts_equal": sum(one == other for one, other in zip(before, after, strict=True)),
            "greedy_texts": len(PROMPTS),
            "resident_mb": [*resident_mb, server.resident_mb()],
            "open_files": {"before": files, "after": server.open_files()},
        }


async def greedy(client: httpx.AsyncClient, prompt: str) -> str:
    """The likeliest answer."""
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 32, "model": "model"}
    answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
    return str(answer["choices"][0]["message"]["content"])


async def _stream(client: httpx.AsyncClient, tally: Tally, numbers: Any, until: float, place: int) -> None:
    """One of the streams: request after request, until the time is over."""
    draw = random.Random(place)
    while time.monotonic() < until:
        stream = draw.random() < 0.8
        leaves = draw.choice((None, None, draw.uniform(0, 20) if stream else draw.uniform(0, 3)))
        ask = Ask(next(numbers), stream, leaves)
        try:
            outcome = await (_streamed if stream else _whole)(client, tally, ask)
        except httpx.HTTPError as error:
            outcome = f"connection: {type(error).__name__}"
            tally.faults.append(f"{ask}: {error!r}")
        tally.outcomes[outcome] += 1
        if outcome == "429":
            await asyncio.sleep(draw.uniform(0.2, 1.0))


async def _streamed(client: httpx.AsyncClient, tally: Tally, ask: Ask) -> str:
    begun, text, events, finish = time.monotonic(), "", 0, None
    async with client.stream("POST", "/v1/chat/completions", json=ask.body("model")) as answer:
        if answer.status_code != 200:
            return _refused(tally, ask, answer.status_code, (await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                return _refused(tally, ask, 0, line)
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    if not text:
                        tally.first_seconds.append(time.monotonic() - begun)
                    text += choice["delta"]["content"]
                    tally.tokens += 1
                finish = choice["finish_reason"] or finish
            events += 1
            if ask.leaves is not None and events > ask.leaves:
                return "hung up" if _begins(ask, text) else _mixed(tally, ask, text)
    return _judged(tally, ask, text, finish)


async def _whole(client: httpx.AsyncClient, tally: Tally, ask: Ask) -> str:
    try:
        async with asyncio.timeout(ask.leaves):
            answer = await client.post("/v1/chat/completions", json=ask.body("model"))
    except TimeoutError:
        return "hung up"
    if answer.status_code != 200:
        return _refused(tally, ask, answer.status_code, answer.text)
    body = answer.json()
    tally.tokens += body["usage"]["completion_tokens"]
    return _judged(tally, ask, body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"])


def _judged(tally: Tally, ask: Ask, text: str, finish: str | None) -> str:
    if finish == "stop":
        return "whole" if re.fullmatch(ask.form, text) else _mixed(tally, ask, text)
    if finish == "length":
        return "cut at max_tokens" if _begins(ask, text) else _mixed(tally, ask, text)
    tally.faults.append(f"{ask}: finish {finish}: {text!r}")
    return "no finish reason"


def _begins(ask: Ask, text: str) -> bool:
    """Whether a text that was broken off is the beginning of one in the form."""
    head = f"no {ask.number}:"
    words = r"( [a-z]{1,7}){0,30} ?"
    return head.startswith(text) or (text.startswith(head) and re.fullmatch(words, text[len(head) :]) is not None)


def _mixed(tally: Tally, ask: Ask, text: str) -> str:
    tally.faults.append(f"{ask}: {text!r}")
    return "another text" if text.startswith("no ") else "another form"


def _refused(tally: Tally, ask: Ask, status: int, text: str) -> str:
    if status != 429:
        tally.faults.append(f"{ask}: {status} {text[:200]}")
    return str(status) if status else "error in the stream"


async def _left(client: httpx.AsyncClient) -> dict[str, float]:
    """Sequences in slots and in the queue, once those of clients that hung up have been noticed."""
    found: dict[str, float] = {}
    for _ in range(50):
        text = (await client.get("/metrics")).raise_for_status().text
        for name in ("active", "queued"):
            match = re.search(rf"^pocketlm_{name}_sequences\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
            if match is None:
                raise SystemExit(f"/metrics does not tell the {name} sequences")
            found[name] = float(match[1])
        if not any(found.values()):
            break
        await asyncio.sleep(0.1)
    return found


def _at(values: list[float], share: float) -> float | None:
    return round(values[min(len(values) - 1, int(share * len(values)))], 2) if values else None


if __name__ == "__main__":
    main()
