"""Whatever JSON comes, the server answers it or says what is wrong, in the form that its document promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

from pocketlm.serving.bodies import ChatBody, CompletionBody
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel
from tests.serving_world import ScriptedEngine, asked, client, events, said, served, settled

LIMITS = Limits(queue=1000)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["toy", "user", "auto", "required", "text", "json_object", "function", "the answer", "😀"]),
)
NAMES = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["type", "role", "content", "text", "name", "function", "include_usage", "json_schema", "schema"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[TestClient, ServedModel, dict[str, Any]]]:
    model = served(ScriptedEngine(slots=4, script=said("ok 😀")), LIMITS)
    with client(model, limits=LIMITS) as http:
        yield http, model, http.get("/openapi.json").json()["components"]


def bodies(form: type[Any], minimal: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A right request in which some fields have any value."""
    names = [field.alias or name for name, field in form.model_fields.items()]
    changed = st.dictionaries(st.one_of(st.sampled_from(names), NAMES), VALUES, max_size=4)
    return changed.map(lambda fields: minimal | fields)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies(ChatBody, asked()))
def test_any_chat(server: tuple[TestClient, ServedModel, dict[str, Any]], body: dict[str, Any]) -> None:
    check(server, "/v1/chat/completions", body, "ChatCompletion", "ChatChunk")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies(CompletionBody, {"model": "toy", "prompt": "the"}))
def test_any_completion(server: tuple[TestClient, ServedModel, dict[str, Any]], body: dict[str, Any]) -> None:
    check(server, "/v1/completions", body, "Completion", "CompletionChunk")


def check(
    server: tuple[TestClient, ServedModel, dict[str, Any]], path: str, body: dict[str, Any], whole: str, chunk: str
) -> None:
    http, model, components = server
    answer = http.post(path, json=body)

    def fits(name: str, value: Any) -> None:
        Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components}).validate(value)

    if answer.status_code != 200:
        assert answer.status_code in (400, 404), answer.text
        fits("Error", answer.json())
    elif answer.headers["content-type"].startswith("text/event-stream"):
        for value in events(answer.text):
            fits(chunk, value)
    else:
        fits(whole, answer.json())
    assert settled(model)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_any_bytes(server: tuple[TestClient, ServedModel, dict[str, Any]], content: bytes) -> None:
    http, _, _ = server
    answer = http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
