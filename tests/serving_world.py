"""A server over an engine of this file: no model, scripted answers, and faults on demand."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import tokenizers
from starlette.testclient import TestClient
from tokenizers import AddedToken
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel as ByteLevelSplit

from pocketlm.data.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer, byte_characters
from pocketlm.errors import InputError
from pocketlm.generation.live import Progress
from pocketlm.generation.requests import Completion, Odds, Request
from pocketlm.generation.stops import StopStrings
from pocketlm.serving.app import create_app
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel
from pocketlm.serving.worker import Worker

CONTEXT = 400
LETTERS = "The answer is blowing in the wind, é ö 😀! "


@cache
def tokenizer() -> Tokenizer:
    """Bytes and a few pieces of words: 'é' and '😀' take several tokens. Built by hand: learning one takes seconds."""
    characters = byte_characters()
    pieces = "t h|th e|Ġ the|a n|i s|Ġ is|i n|in g|Ġ b|l o|w ing|an s|Ġ ans|e r|w er|w i"
    merges = [(left, right) for left, right in map(str.split, pieces.split("|"))]
    words = [*SPECIAL_TOKENS, *characters, *("".join(pair) for pair in merges)]
    backend = tokenizers.Tokenizer(BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    backend.pre_tokenizer = ByteLevelSplit(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL_TOKENS])
    return Tokenizer(backend)


def said(text: str) -> Callable[[Request, int], list[int]]:
    """A script: every sample says this text, with its number before it, and ends."""
    return lambda request, sample: [*tokenizer().encode(f"{sample}{text}"), tokenizer().im_end]


@dataclass
class Running:
    request: Request
    ticket: int
    sample: int
    tokens: list[int]
    done: int = 0


@dataclass
class ScriptedEngine:
    """What `LiveEngine` promises, with texts from a script.

    Attributes:
        script: tokens of a sample, a stop token included if it says one; InputError makes the sample fail.
        seconds: that a step takes.
        broken: the next step raises, as a bug would.
        most_active: sequences that ran together, at most.
    """

    slots: int = 4
    script: Callable[[Request, int], list[int]] = field(default_factory=lambda: said(LETTERS))
    seconds: float = 0.0
    broken: bool = False
    most_active: int = 0
    asked: list[Request] = field(default_factory=list)
    _queue: list[tuple[int, int, Request]] = field(default_factory=list)
    _running: list[Running] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def active(self) -> int:
        return len(self._running)

    def add(self, request: Request) -> int:
        if 7 in request.tokens[:1]:
            raise InputError("generation: the engine does not like a prompt that begins with token 7.")
        self.asked.append(request)
        self._queue += [(len(self.asked), sample, request) for sample in range(request.samples)]
        return len(self.asked)

    def cancel(self, ticket: int) -> None:
        self._queue = [item for item in self._queue if item[0] != ticket]
        self._running = [item for item in self._running if item.ticket != ticket]

    def advance(self) -> list[Progress]:
        if self.broken:
            raise RuntimeError("a bug")
        time.sleep(self.seconds)
        news = []
        while self._queue and len(self._running) < self.slots:
            ticket, sample, request = self._queue.pop(0)
            try:
                self._running.append(Running(request, ticket, sample, self.script(request, sample)))
            except InputError as error:
                news.append(Progress(ticket, sample, [], [], None, fault=str(error)))
        self.most_active = max(self.most_active, len(self._running))
        for item in list(self._running):
            item.done += 1
            completion = self._completion(item)
            if completion is not None:
                self._running.remove(item)
            news.append(self._progress(item, completion))
        return news

    def _completion(self, item: Running) -> Completion | None:
        request, tokens, text = item.request, item.tokens[: item.done], None
        stopped = tokens[-1] in request.stop_tokens
        cut = None
        if request.stop_strings and not stopped:
            cut = StopStrings(request.stop_strings, tokenizer().decode).cut(tokens)
        if (
            not stopped
            and cut is None
            and item.done < min(len(item.tokens), request.max_tokens, CONTEXT - len(request.tokens))
        ):
            return None
        kept = tokens[:-1] if stopped else tokens
        if request.stop_strings:
            text = tokenizer().decode(kept)
        if cut is not None:
            kept, text = tokens[: cut[0]], cut[1]
        odds = [self._odds(request, token) for token in (tokens if cut is None else kept)]
        logs = [each.log_probability for each in odds]
        finish: Literal["stop", "length"] = "length" if not stopped and cut is None else "stop"
        return Completion(kept, logs, finish, text=text, odds=None if request.odds is None else odds)

    def _progress(self, item: Running, completion: Completion | None) -> Progress:
        token = item.tokens[item.done - 1]
        odds = self._odds(item.request, token)
        stopped = token in item.request.stop_tokens
        return Progress(
            item.ticket,
            item.sample,
            [] if stopped else [token],
            [odds.log_probability],
            None if item.request.odds is None else [odds],
            completion,
        )

    def _odds(self, request: Request, token: int) -> Odds:
        others = tuple(((token + step) % 275, -1.0 - step - token / 1000) for step in range(request.odds or 0))
        return Odds(-1.0 - token / 1000, others)


def served(engine: Any, limits: Limits | None = None, name: str = "toy") -> ServedModel:
    """A model of this file's tokenizer over an engine."""
    words = tokenizer().vocabulary
    return ServedModel(
        name, tokenizer(), CONTEXT, words, words, "fp_toy", Worker(name, engine, limits or Limits()), created=1
    )


@contextmanager
def client(
    *models: ServedModel, limits: Limits | None = None, token: str | None = None, **options: Any
) -> Iterator[TestClient]:
    """An in-process client of a server with these models."""
    app = create_app({model.name: model for model in models}, limits or Limits(), token, **options)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as made:
        yield made


def events(text: str) -> list[dict[str, Any]]:
    """The objects of a stream that ended as it should."""
    lines = [line for line in text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def asked(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": "toy", "messages": [{"role": "user", "content": text}], **fields}


def settled(model: ServedModel, seconds: float = 5.0) -> bool:
    """Whether nothing is held on a model's engine any more, soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if model.worker.held == 0 and model.worker.active == 0 and model.worker.waiting == 0:
            return True
        time.sleep(0.01)
    return False


def contents(chunks: Sequence[dict[str, Any]], field_name: str = "content") -> dict[int, str]:
    """The text of each choice, put together from a stream's chunks."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            piece = choice["delta"].get(field_name) if "delta" in choice else choice["text"]
            texts[choice["index"]] = texts.get(choice["index"], "") + (piece or "")
    return texts


@contextmanager
def running(
    *models: ServedModel, limits: Limits | None = None, token: str | None = None, send_buffer: int = 0
) -> Iterator[int]:
    """A real server on a port of this machine, in a thread; yields the port.

    Args:
        send_buffer: bytes that the kernel holds for a client that does not read; 0: megabytes.
    """
    import threading

    import uvicorn

    from pocketlm.serving.server import bound_socket, server_config

    bounds = limits or Limits()
    app = create_app({model.name: model for model in models}, bounds, token)
    with bound_socket("127.0.0.1", 0) as listener:
        if send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        server = uvicorn.Server(server_config(app, bounds))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()
