"""A server among bad clients, on real sockets: row 23 of the fault list. Other requests are answered all the same."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pocketlm.serving.limits import Limits
from tests.serving_world import ScriptedEngine, asked, events, running, said, served, settled, tokenizer

ROOT = Path(__file__).parents[2]
JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"


def post(port: int, body: Any, path: str = CHAT, timeout: float = 20.0) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer; `body` is an object, or bytes as they are."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, content, JSON)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def lines_of(port: int, body: Any) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def connected(port: int, timeout: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout)


def until_closed(connection: socket.socket) -> bytes:
    """What a server still says before it closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def until(connection: socket.socket, text: bytes) -> bytes:
    received = b""
    while text not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def resident(process: int) -> int:
    """Bytes of memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def server_process(**given: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "tests.serving_process", json.dumps(given)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_another_host_without_a_token_does_not_start(host: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "POCKETLM_TOKEN"}
    command = [sys.executable, "-m", "pocketlm", "serve", str(tmp_path), "--host", host, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 2
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_body_of_100_megabytes_is_refused_in_bounded_memory() -> None:
    with server_process() as (process, port):
        assert post(port, asked())[0] == 200
        before = resident(process.pid)
        status, error = post(port, b'{"model": "' + b"x" * 100_000_000)
        assert (status, error["error"]["code"]) == (413, "request_too_large")
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("POST", CHAT, (b"x" * 100_000 for _ in range(1000)), JSON, encode_chunked=True)
            assert connection.getresponse().status == 413
        assert resident(process.pid) - before < 20_000_000
        assert post(port, asked())[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"messages": [{"role": "user", "content": ""}] * 1_000_000}, 413),
        ({"messages": [{"role": "user", "content": ""}] * 20_000}, 400),
        ({"max_tokens": 10**9}, 200),
        ({"n": 10**6}, 400),
        ({"n": 10**400}, 400),
        ({"unknown": {"deep": [1]}}, 400),
        (b'{"model": "toy", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400),
        (b"[" * 900_000, 400),
        (b"", 400),
    ],
)
def test_absurd_requests_are_refused_and_others_answered(body: Any, status: int) -> None:
    model = served(ScriptedEngine())
    with running(model) as port:
        content = body if isinstance(body, bytes) else asked() | body
        given, answer = post(port, content)
        assert given == status
        assert status == 200 or answer["error"]["message"]
        assert post(port, asked())[0] == 200
        assert settled(model)


def test_clients_that_send_slowly_are_given_up() -> None:
    limits = Limits(header_seconds=0.5, body_seconds=0.5, idle_seconds=0.5)
    with running(served(ScriptedEngine()), limits=limits) as port:
        silent, headers, body, idle = (connected(port) for _ in range(4))
        began = time.monotonic()
        headers.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
        request = lines_of(port, asked())
        body.sendall(request[:-20])
        idle.sendall(request)
        answer = until(idle, b"]")
        assert b"200 OK" in answer
        for _ in range(4):  # a byte now and then buys no time
            time.sleep(0.1)
            headers.sendall(b"x-a: b\r\n")
            body.sendall(b" ")
        assert post(port, asked())[0] == 200
        assert until_closed(headers) == b""
        assert until_closed(silent) == b""
        assert b"408" in until_closed(body).split(b"\r\n")[0]
        until_closed(idle)
        assert time.monotonic() - began < 4
        for connection in (silent, headers, body, idle):
            connection.close()


def test_a_body_that_nobody_reads_holds_its_connection_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketlm.serving.protocol.MORE_BODY_SECONDS", 0.1)
    limits = Limits(body_seconds=0.3, idle_seconds=60)
    with running(served(ScriptedEngine()), limits=limits, token="a-token-of-this-test") as port:
        connection = connected(port)
        with closing(connection):
            connection.sendall(lines_of(port, asked())[:-20])
            assert b"401" in until(connection, b"}")
            connection.settimeout(5)
            until_closed(connection)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(send_seconds=0.5, backlog=10**9, reported=10**9),  # the clock of its connection
        Limits(send_seconds=600, backlog=1000, reported=10**9),  # what lies unread for it
    ],
)
def test_a_client_that_reads_nothing_loses_its_request(limits: Limits) -> None:
    """Megabytes of log-probabilities for a reader that never reads: neither memory nor its slots are held."""
    long = [*tokenizer().encode("a" * 390), tokenizer().im_end]
    model = served(ScriptedEngine(seconds=0.004, script=lambda request, sample: long), limits)
    body = {"model": "toy", "prompt": ["the"] * 60, "logprobs": 20, "stream": True, "max_tokens": 390}
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with running(model, limits=limits, send_buffer=8192) as port, closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        while not model.worker.held:
            time.sleep(0.01)
        assert settled(model, 12)  # to write it all takes 25 s
        assert post(port, asked(max_tokens=3))[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_gives_back_slots_and_places_in_the_queue(stream: bool) -> None:
    long = [*tokenizer().encode("the " * 90), tokenizer().im_end]
    model = served(engine := ScriptedEngine(slots=2, seconds=0.01, script=lambda request, sample: long))
    with running(model) as port:
        connections = [connected(port) for _ in range(6)]
        for connection in connections:
            connection.sendall(lines_of(port, asked(stream=stream, n=2)))
        while model.worker.held < 12 or not engine.active:
            time.sleep(0.01)
        if stream:
            until(connections[0], b"data: ")
        for number, connection in enumerate(connections):
            if number % 2:  # some end in good order, some without
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        began = time.monotonic()
        assert settled(model)
        assert time.monotonic() - began < 1.5  # the answers would take 10 s
        assert post(port, asked(max_tokens=3))[0] == 200


def test_who_sends_ahead_and_hangs_up_is_noticed_as_well() -> None:
    """A second request behind one that is being answered is not read yet; that the client has gone is."""
    long = [*tokenizer().encode("the " * 90), tokenizer().im_end]
    model = served(ScriptedEngine(seconds=0.02, script=lambda request, sample: long))
    with running(model) as port:
        with closing(connected(port)) as connection:
            connection.sendall(lines_of(port, asked()))
            while not model.worker.active:
                time.sleep(0.005)
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            time.sleep(0.1)
        began = time.monotonic()
        assert settled(model)
        assert time.monotonic() - began < 1  # the answer would take 1.8 s


def test_a_client_that_reads_slowly_gets_all_of_its_answer() -> None:
    """It takes longer than `send_seconds`, but never so long without a byte."""
    limits = Limits(send_seconds=0.4, reported=10**9)
    long = [*tokenizer().encode("a" * 390), tokenizer().im_end]
    model = served(ScriptedEngine(slots=16, script=lambda request, sample: long), limits)
    body = {"model": "toy", "prompt": ["the"] * 16, "logprobs": 20, "max_tokens": 390}
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    with running(model, limits=limits, send_buffer=8192) as port, closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", port))
        connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        received = until(connection, b"\r\n\r\n")
        began = time.monotonic()
        while piece := connection.recv(1 << 14):
            received += piece
            time.sleep(0.03)
        assert time.monotonic() - began > 3 * limits.send_seconds
    assert len(json.loads(received.partition(b"\r\n\r\n")[2])["choices"]) == 16


def test_200_requests_at_once_are_answered_or_refused_and_never_mixed() -> None:
    def script(request: Any, sample: int) -> list[int]:
        return [*tokenizer().encode(f"answer {request.seed}.{sample}"), tokenizer().im_end]

    limits = Limits(queue=100)
    model = served(ScriptedEngine(slots=8, seconds=0.002, script=script), limits)
    with running(model, limits=limits) as port, ThreadPoolExecutor(200) as pool:

        def ask(number: int) -> int:
            if number % 3:
                status, answer = post(port, asked(seed=number), timeout=60)
                if status == 200:
                    assert answer["choices"][0]["message"]["content"] == f"answer {number}.0"
                return status
            with closing(connected(port, 60)) as connection:
                connection.sendall(
                    lines_of(port, asked(seed=number, stream=True)).replace(
                        b"\r\nhost", b"\r\nconnection: close\r\nhost"
                    )
                )
                head, _, rest = until_closed(connection).partition(b"\r\n\r\n")
                status = int(head.split()[1])
                if status == 200:
                    text = b"".join(rest.split(b"\r\n")[1::2]).decode()
                    said_ = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in events(text))
                    assert said_ == f"answer {number}.0"
                return status

        statuses = list(pool.map(ask, range(200)))
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 108
        assert settled(model)


def test_connections_above_the_limit_are_refused_not_kept() -> None:
    limits = Limits(connections=8)
    with running(served(ScriptedEngine()), limits=limits) as port:
        held = [connected(port) for _ in range(8)]
        time.sleep(0.1)
        status, answer = post(port, asked())
        assert (status, answer["error"]["code"]) == (503, "too_many_connections")
        more = [connected(port) for _ in range(30)]
        time.sleep(0.2)
        for connection in (*held, *more):
            connection.close()
        time.sleep(0.2)
        assert post(port, asked())[0] == 200


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 5000,
     b"GET " + b"/a" * 20000,
     b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
     b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_does_no_harm(garbage: bytes) -> None:
    limits = Limits(header_seconds=0.5, idle_seconds=0.5, body_seconds=0.5)
    with running(served(ScriptedEngine()), limits=limits) as port:
        with closing(connected(port, 10)) as connection:
            connection.sendall(garbage)
            answer = until_closed(connection)
        assert b" 500 " not in answer
        assert post(port, asked())[0] == 200


def test_sigterm_lets_streams_finish_and_refuses_new_work() -> None:
    with server_process(seconds=0.02, tokens=60, limits={"drain_seconds": 20}) as (process, port):
        with closing(connected(port)) as connection, closing(connected(port)) as kept:
            connection.sendall(lines_of(port, asked(stream=True)))
            until(connection, b"data: ")
            kept.sendall(lines_of(port, asked(max_tokens=1)))
            until(kept, b"]")
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            kept.sendall(lines_of(port, asked()))
            refused = until_closed(kept)
            assert b" 503 " in refused.split(b"\r\n")[0]
            assert b"retry-after" in refused
            assert post(port, asked())[1]["error"]["code"] == "shutting_down"
            rest = until_closed(connection)
        assert rest.rstrip().endswith(b"0")  # the last chunk of HTTP
        assert b"data: [DONE]" in rest
        assert process.wait(10) == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_the_drain_has_an_end(signals: int) -> None:
    seconds = 0.5 if signals == 1 else 60
    with server_process(seconds=0.05, tokens=300, limits={"drain_seconds": seconds}) as (process, port):
        with ThreadPoolExecutor(1) as pool, closing(connected(port)) as connection:
            whole = pool.submit(post, port, asked())
            connection.sendall(lines_of(port, asked(stream=True)))
            until(connection, b"data: ")
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
                time.sleep(0.2)
            rest = until_closed(connection)
            assert b'"code":"shutting_down"' in rest
            assert b"[DONE]" not in rest
            status, answer = whole.result()
            assert (status, answer["error"]["code"]) == (503, "shutting_down")
        assert process.wait(10) == 0


def test_a_said_text_is_whole_over_a_real_connection() -> None:
    with running(served(ScriptedEngine(script=said("é😀" * 40)))) as port:
        status, answer = post(port, asked())
        assert answer["choices"][0]["message"]["content"] == "0" + "é😀" * 40
        assert status == 200
