"""The benchmark's HTTP client against a stand-in: what is read, what is a fault, what never goes out."""

from __future__ import annotations

import json
import socket
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.serving.benchmark.client import Answer, ask, list_models, read_stream
from pocketlm.serving.endpoint import Endpoint, EndpointFault, parse_endpoint, read_token
from tests.openai_stand_in import Said, openai_stand_in

BODY: dict[str, Any] = {"model": "stand-in", "messages": [{"role": "user", "content": "Hello, you there."}]}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}


def asked(said: Said, body: dict[str, Any] | None = None, **options: Any) -> Answer:
    with openai_stand_in(lambda _: said, **options) as server:
        return ask(parse_endpoint("--url", server.url), {**BODY, **(body or {})}, 5.0)


def test_a_stream_is_read() -> None:
    answer = asked(Said("Good morning to you. ü€", log_probability=-0.25), {"logprobs": True})
    assert (answer.fault, answer.status, answer.text, answer.finish) == ("", 200, "Good morning to you. ü€", "stop")
    assert answer.log_probabilities == (-0.25,) * 6
    assert (answer.prompt_tokens, answer.completion_tokens) == (4, 6)
    assert answer.first_token_seconds is not None
    assert 0 < answer.first_token_seconds <= answer.seconds


def test_calls_in_pieces_are_joined() -> None:
    answer = asked(Said(call=("f", '{"a": [1, 2, 3]}'), finish="tool_calls"), TOOLS)
    assert answer.calls == (("f", '{"a": [1, 2, 3]}'),)
    assert (answer.text, answer.finish, answer.log_probabilities) == ("", "tool_calls", None)


@pytest.mark.parametrize("call", [None, ("f", "{}")])
def test_an_answer_in_one_piece_has_no_first_token(call: tuple[str, str] | None) -> None:
    answer = asked(Said("Good day", call), {"logprobs": True, **TOOLS}, streams=False, usage=False)
    assert not answer.fault
    assert answer.first_token_seconds is answer.completion_tokens is None
    assert (answer.text, answer.calls) == (("", (call,)) if call else ("Good day", ()))


@pytest.mark.parametrize(
    ("said", "status", "fault"),
    [
        (Said("too much of it", status=429), 429, "status 429: too much of it"),
        (Said(raw=b"<html>", status=502), 502, "status 502"),
        (Said(raw=b'{"error": "oh"}', status=500), 500, "status 500"),
        (Said("Good morning to you", broken=300), 200, "the answer broke off"),
        (Said(raw=b'{"choices": 5}'), 200, "no answer of OpenAI's form (TypeError)"),
        (Said(raw=b'{"choices": [{}]}'), 200, "no answer of OpenAI's form (KeyError)"),
        (Said(raw=b"[" * 100_000), 200, "no answer of OpenAI's form (RecursionError)"),
        (Said(raw=b"no JSON"), 200, "no answer of OpenAI's form (JSONDecodeError)"),
        (Said(raw=b'{"choices": [{"message": {"content": "x"}}]}'), 200, "the answer has no finish_reason"),
        (Said(raw=b"x" * (16 * 2**20 + 1)), 200, "the answer is longer than 16777216 bytes"),
    ],
)
def test_what_goes_wrong_is_a_fault(said: Said, status: int, fault: str) -> None:
    answer = asked(said)
    assert (answer.status, answer.fault) == (status, fault)
    assert answer.seconds > 0


def test_an_error_in_a_stream_is_a_fault() -> None:
    with pytest.raises(EndpointFault, match="broke off"):
        list(read_stream(iter([b'data: {"a": 1}\n\n', b"data: {}"])))
    raw = b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n'
    with one_answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + raw) as endpoint:
        assert "out of memory" in ask(endpoint, BODY, 5.0).fault


def test_a_chunked_stream_is_read_and_a_cut_one_is_a_fault() -> None:
    event = json.dumps({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}).encode()
    events = b"data: " + event + b"\n\ndata: [DONE]\n\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(events[at : at + 7]), events[at : at + 7]) for at in range(0, len(events), 7)
    )
    with one_answer(head + chunks + b"0\r\n\r\n") as endpoint:
        assert (found := ask(endpoint, BODY, 5.0)).text == "hi", found
    with one_answer(head + chunks[:40]) as endpoint:
        assert "broke off" in ask(endpoint, BODY, 5.0).fault


def test_drops_do_not_pass_the_deadline() -> None:
    """A server that sends a byte now and then is given up in time."""
    began = time.monotonic()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    with one_answer(head, drops=b":\n" * 200, pause=0.05) as endpoint:
        assert ask(endpoint, BODY, 0.5).fault == "no whole answer within 0.5 s"
    assert time.monotonic() - began < 3


class one_answer:
    """A socket that answers one connection with given bytes, then closes it."""

    def __init__(self, content: bytes, drops: bytes = b"", pause: float = 0.0) -> None:
        self._content, self._drops, self._pause = content, drops, pause
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, connection.makefile("rb") as request:
            length = 0  # a connection that is closed before its request was read is reset, and the answer is lost
            while line := request.readline().strip().lower():
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            request.read(length)
            connection.sendall(self._content)
            try:
                for byte in self._drops:
                    connection.sendall(bytes([byte]))
                    time.sleep(self._pause)
            except OSError:
                pass  # the client has gone

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return Endpoint("127.0.0.1", self._listening.getsockname()[1], False, "/v1")

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listening.close()


@given(st.lists(st.integers(0, 400), max_size=20))
def test_pieces_of_a_stream_do_not_matter(cuts: list[int]) -> None:
    events = [{"n": number, "text": "€uro\n"} for number in range(8)]
    lines = [": a comment", "event: x", *(f"data: {json.dumps(event, ensure_ascii=False)}\r\n" for event in events)]
    content = "\n".join([*lines, "data:[DONE]", "data: {}", ""]).encode()
    ends = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [content[start:end] for start, end in pairwise(ends)]
    assert list(read_stream(iter(pieces))) == events


def test_a_token_goes_to_its_server_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("se-cret\n")
    with openai_stand_in(lambda _: Said("Hi")) as server:
        endpoint = parse_endpoint("--url", server.url, read_token("--token-file", file))
        assert not ask(endpoint, BODY, 5.0).fault
        assert list_models(endpoint, 5.0) == ["stand-in"]
        assert server.authorizations == ["Bearer se-cret"]
        moved = b"HTTP/1.1 307 Moved\r\nLocation: " + server.url.encode() + b"/chat/completions\r\n\r\n"
        with one_answer(moved) as elsewhere:
            assert ask(Endpoint(elsewhere.host, elsewhere.port, False, "/v1", "se-cret"), BODY, 5.0).status == 307
        assert len(server.asked) == 1, "a redirect was followed"
    assert "se-cret" not in repr(endpoint) + endpoint.url


def test_nobody_there() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    listening.close()
    assert ask(Endpoint("127.0.0.1", port, False, "/v1"), BODY, 5.0).fault == "nobody listens there"
    assert "no HTTP answer" in ask(Endpoint("no.such.host.invalid", 80, False, "/v1"), BODY, 5.0).fault


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000/v1", "was expected"),
        ("ftp://x/v1", "was expected"),
        ("http://", "was expected"),
        ("http://me:secret@x/v1", "put the token into a file"),
        ("http://x:99999/v1", "is no address"),
        ("http://x/v1?key=1", "nothing may follow the path"),
    ],
)
def test_bad_addresses(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as found:
        parse_endpoint("--url", url)
    assert "secret" not in str(found.value)


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines", "t\u00f6ken".encode(), b"\xff"])
def test_bad_tokens(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match="--token-file"):
        read_token("--token-file", tmp_path / "token")
    with pytest.raises(InputError, match="cannot be read"):
        read_token("--token-file", tmp_path / "nothing")


def test_addresses() -> None:
    assert parse_endpoint("--url", "https://api.example.com/v1/").url == "https://api.example.com:443/v1"
    assert parse_endpoint("--url", "http://[::1]:8000").url == "http://[::1]:8000"
    assert parse_endpoint("--url", "http://[::1]:8000").here
    assert not parse_endpoint("--url", "http://127.example.com/v1").here
