"""Who may ask: token, host names, origins; what every answer carries; the figures."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pocketlm.errors import InputError
from pocketlm.serving.serve_settings import ServeSettings, checked_token, is_loopback, named_models
from tests.serving_world import ScriptedEngine, asked, client, served, settled

TOKEN = "correct-horse-battery-staple"


def test_a_token_guards_all_but_health_and_the_page() -> None:
    with client(served(ScriptedEngine()), token=TOKEN) as http:
        assert http.get("/health").status_code == 200
        for path in ("/ready", "/metrics", "/v1/models", "/openapi.json", "/nothing", "/v1/chat/completions"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xff"):
            headers = {"authorization": wrong.encode("latin-1")}
            assert http.post("/v1/chat/completions", json=asked(), headers=headers).status_code == 401
        for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}"):
            headers = {"authorization": right, "host": "model.example.org"}
            assert http.post("/v1/chat/completions", json=asked(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200), ("LOCALHOST", 200),
        ("127.0.0.2:8000", 200), ("[0:0:0:0:0:0:0:1]", 200), ("[::2]", 403), ("128.0.0.1", 403), ("127.0.0.1.", 403),
        ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost:80:80", 403), ("", 403),
        ("localhost@evil.example", 403), ("0.0.0.0", 403), ("[::1", 403),
    ],
)  # fmt: skip
def test_without_a_token_the_server_answers_to_its_own_names(host: str, status: int) -> None:
    with client(served(ScriptedEngine())) as http:
        assert http.get("/health", headers={"host": host}).status_code == status
        assert http.post("/v1/chat/completions", json=asked(), headers={"host": host}).status_code == status


def test_no_other_origin_may_read_answers_unless_it_is_named() -> None:
    headers = {"origin": "https://page.example", "access-control-request-method": "POST"}
    with client(served(ScriptedEngine())) as http:
        assert http.options("/v1/chat/completions", headers=headers).status_code == 405
        assert "access-control-allow-origin" not in http.get("/v1/models", headers=headers).headers
    with client(served(ScriptedEngine()), token=TOKEN, origins=["https://page.example"]) as http:
        wished = "authorization,content-type,x-stainless-lang"  # of OpenAI's own client in a browser
        asked_before = http.options(
            "/v1/chat/completions", headers={**headers, "access-control-request-headers": wished}
        )
        assert asked_before.status_code == 200
        assert asked_before.headers["access-control-allow-origin"] == "https://page.example"
        assert asked_before.headers["access-control-allow-headers"] == wished
        refused = http.post("/v1/chat/completions", json=asked(), headers={"origin": "https://page.example"})
        assert refused.status_code == 401
        assert "retry-after" in refused.headers["access-control-expose-headers"]
        other = http.get("/health", headers={"origin": "https://other.example"})
        assert other.headers.get("access-control-allow-origin") != "https://other.example"


def test_every_answer_says_how_it_may_be_used() -> None:
    with client(served(ScriptedEngine())) as http:
        for path in ("/health", "/nothing", "/v1/models", "/metrics"):
            headers = http.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
        assert http.delete("/v1/models").json()["error"]["message"] == "this path takes another method"
        assert http.delete("/v1/models").headers["allow"] == "GET"


def test_the_page_loads_from_this_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>chat</title>", encoding="utf-8")
    (tmp_path / "page.js").write_text("'use strict'", encoding="utf-8")
    (tmp_path / "notes.py").write_text("secret", encoding="utf-8")
    monkeypatch.setattr("pocketlm.serving.page_files.page_files.__defaults__", (tmp_path,))
    with client(served(ScriptedEngine()), token=TOKEN) as http:
        index, script = http.get("/"), http.get("/page.js")
        assert http.get("/notes.py").status_code == 401
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    for answer in (index, script):
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-cache"


def test_figures_count_what_happened() -> None:
    model = served(ScriptedEngine())
    with client(model) as http:
        body = http.post("/v1/chat/completions", json=asked(n=2)).json()
        http.post("/v1/chat/completions", json={})
        http.get("/v1/models/nothing")
        http.get("/elsewhere/1")
        http.get("/elsewhere/2")
        assert settled(model)
        text = http.get("/metrics").text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["pocketlm_requests_total", "/v1/chat/completions", "200"] == 1
    assert found["pocketlm_requests_total", "/v1/chat/completions", "400"] == 1
    assert found["pocketlm_requests_total", "/v1/models", "404"] == 1
    assert found["pocketlm_requests_total", "404", "other"] == 2
    assert found["pocketlm_prompt_tokens_total", "toy"] == body["usage"]["prompt_tokens"]
    assert found["pocketlm_generated_tokens_total", "toy"] == body["usage"]["completion_tokens"]
    assert found["pocketlm_time_to_first_token_seconds_count", "toy"] == 2
    assert found["pocketlm_time_between_tokens_seconds_count", "toy"] == body["usage"]["completion_tokens"] - 2
    assert found["pocketlm_sequence_seconds_count", "toy"] == 2
    assert found["pocketlm_active_sequences", "toy"] == found["pocketlm_queued_sequences", "toy"] == 0
    first = [found["pocketlm_time_to_first_token_window_seconds", share, "toy"] for share in ("0.5", "0.95")]
    assert 0 < first[0] <= first[1] < 5


def test_figures_fall_back_when_an_engine_has_failed() -> None:
    model = served(engine := ScriptedEngine(slots=1, seconds=0.01))
    with client(model) as http, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(http.post, "/v1/chat/completions", json=asked()) for _ in range(3)]
        while model.worker.held < 3 or not model.worker.active:
            time.sleep(0.002)
        engine.broken = True
        assert {answer.result().status_code for answer in answers} == {500}
        assert settled(model)
        lines = http.get("/metrics").text.splitlines()
    assert 'pocketlm_active_sequences{model="toy"} 0.0' in lines
    assert 'pocketlm_queued_sequences{model="toy"} 0.0' in lines


def test_another_host_needs_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKETLM_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org", ""):
        with pytest.raises(InputError, match="token"):
            checked_token(ServeSettings(host=host))
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert checked_token(ServeSettings(host=host)) is None
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    assert checked_token(ServeSettings(host="0.0.0.0", token_file=file)) == TOKEN
    monkeypatch.setenv("POCKETLM_TOKEN", TOKEN)
    assert checked_token(ServeSettings(host="0.0.0.0")) == TOKEN
    for wrong in ("", "short", "with space in its middle", "schlüssel-schlüssel"):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(InputError, match="at least 16"):
            checked_token(ServeSettings(token_file=file))
    with pytest.raises(InputError, match="cannot be read"):
        checked_token(ServeSettings(token_file=tmp_path / "missing"))
    monkeypatch.delenv("POCKETLM_TOKEN")
    for origin in ("*", "null"):
        with pytest.raises(InputError, match="allow-origin"):
            checked_token(ServeSettings(origins=["https://page.example", origin]))
    assert not is_loopback("127.0.0.1.nip.io")


def test_models_are_named_after_their_places() -> None:
    assert named_models(["runs/quickstart"]) == {"quickstart": Path("runs/quickstart")}
    assert named_models(["a/m.gguf", "base=b/m.gguf"]) == {"m": Path("a/m.gguf"), "base": Path("b/m.gguf")}
    assert named_models(["/data/a=b/model"]) == {"model": Path("/data/a=b/model")}
    with pytest.raises(InputError, match="two models are called m"):
        named_models(["a/m.gguf", "b/m.gguf"])
    with pytest.raises(InputError, match="NAME=MODEL"):
        named_models(["the model=a"])
