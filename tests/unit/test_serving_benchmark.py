"""`bench-serve` against stand-in servers that obey, ignore or refuse constraints: figures, comparison, cost, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from typer.testing import CliRunner

from pocketlm.cli import app
from pocketlm.errors import InputError
from pocketlm.generation.requests import Request
from pocketlm.pipeline import environment
from pocketlm.serving.benchmark import cost
from pocketlm.serving.benchmark.asking import ODD_NAME, ODD_SCHEMA
from pocketlm.serving.benchmark.command import bench_serve
from pocketlm.serving.benchmark.cost import Prices, find_meter
from pocketlm.serving.benchmark.orders import BenchmarkOrder, Side
from pocketlm.serving.benchmark.task import Task
from pocketlm.serving.benchmark.tasks import task_set
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel
from pocketlm.statistics.quantiles import quantile
from tests import serving_world
from tests.openai_stand_in import Body, Said, StandIn, openai_stand_in
from tests.serving_world import ScriptedEngine, served, settled, tokenizer

TASKS = task_set(40)
BY_PROMPT = {task.messages[-1]["content"]: task for task in task_set()}
BY_QUESTION = {task.question: task for task in task_set()}


def constrained(body: Body) -> bool:
    return "response_format" in body or "tools" in body


def right(task: Task) -> Said:
    gold = json.dumps(task.gold)
    call = (task.gold["name"], json.dumps(task.gold["arguments"])) if task.kind == "tool_call" else None
    return Said(gold, call)


def model(know: Callable[[Task, bool], bool], obey: bool = True, refuse: int = 0) -> Callable[[Body], Said]:
    """A stand-in's answers.

    Args:
        know: whether it is right about a task, with constraints or without; otherwise it chats.
        obey: whether it follows constraints that it is asked for outside of the tasks.
        refuse: the status with which it refuses constraints.
    """

    def say(body: Body) -> Said:
        if refuse and constrained(body):
            return Said("response_format: there is no such field", status=refuse)
        last = body["messages"][-1]["content"]
        if last == "Say hello.":
            odd = json.dumps({"zq7": "vx-4913"})
            return Said(odd, (ODD_NAME, odd)) if obey and constrained(body) else Said("Hello!")
        task = BY_PROMPT.get(last) or BY_QUESTION[last]
        return right(task) if know(task, constrained(body)) else Said("Well, let me see ...")

    return say


def measured(say: Callable[[Body], Said], out: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    order = {key: options.pop(key) for key in ("streams", "limit", "prices", "timeout") if key in options}
    with openai_stand_in(say, **options) as server:
        lines = bench_serve(BenchmarkOrder(Side(server.url), **{"limit": 40, **order}), out)
    return json.loads(out.read_text()), lines


def figures(content: dict[str, Any], way: str) -> dict[str, Any]:
    return content["ways"][way]["figures"]


def test_figures_of_a_model_whose_answers_are_known(tmp_path: Path) -> None:
    """Right with constraints always, without only about tasks whose hash ends with 0 to 7."""
    say = model(lambda task, held: held or task.hash[-1] < "8")
    content, lines = measured(say, tmp_path / "out.json", streams=4)
    knows = [task for task in TASKS if task.hash[-1] < "8"]
    of_kind = {kind: [task for task in TASKS if task.kind == kind] for kind in ("extraction", "tool_call")}
    for way, known in (("constrained", TASKS), ("prompt_only", knows)):
        found = figures(content, way)
        for name, kind in (("schema_valid", "extraction"), ("executable_call", "tool_call")):
            successes = sum(task.kind == kind for task in known)
            assert found[name]["value"] == pytest.approx(successes / len(of_kind[kind]))
            assert found[name]["n"] == len(of_kind[kind])
            assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
        assert found["task_success"]["value"] == pytest.approx(len(known) / 40)
        assert found["latency_p50"]["n"] == 40
        assert 0 < found["latency_p50"]["value"] <= found["latency_p95"]["value"]
        assert found["first_token_p50"]["value"] <= found["latency_p50"]["value"]
        assert found["cost_per_success"] == {"value": None, "why": cost.NO_PRICE, "n": 40}
        tokens = [entry["completion_tokens"] for entry in content["records"] if entry["way"] == way]
        assert found["tokens_per_second"]["value"] == pytest.approx(sum(tokens) / found["seconds"]["value"])
    assert content["support"] == {kind: {"state": "enforced", "message": ""} for kind in ("extraction", "tool_call")}
    compared = content["comparison"]["task_success"]
    only = 40 - len(knows)
    assert (compared["only_first"], compared["only_second"]) == (only, 0)
    assert compared["value"] == pytest.approx(only / 40)
    assert compared["p"] == pytest.approx(min(1, 2 * 0.5**only))  # McNemar's exact test, all on one side
    assert compared["p_adjusted"] >= compared["p"]
    assert any(line.startswith("task success") and "100.0 %" in line for line in lines)
    assert len(content["records"]) == 80
    assert {entry["hash"] for entry in content["records"]} == {task.hash for task in TASKS}


def test_what_is_sent(tmp_path: Path) -> None:
    """Constraints with constraints, none without; the second half goes the other way first."""
    with openai_stand_in(model(lambda task, held: True)) as server:
        bench_serve(BenchmarkOrder(Side(server.url), streams=1, limit=10), tmp_path / "out.json")
    probes, asked = server.asked[:3], server.asked[3:]
    assert probes[1]["response_format"]["json_schema"]["schema"] == ODD_SCHEMA
    assert [constrained(body) for body in asked] == [True] * 5 + [False] * 10 + [True] * 5
    for body in asked:
        last = body["messages"][-1]["content"]
        task = BY_PROMPT.get(last) or BY_QUESTION[last]
        assert (body["temperature"], body["stream"], body["max_tokens"]) == (0, True, task.max_tokens)
        if "response_format" in body:
            assert body["response_format"]["json_schema"]["schema"] == task.schema
        if task.kind == "extraction":
            assert body["messages"] == task.messages
        elif constrained(body):
            assert [tool["function"]["name"] for tool in body["tools"]] == list(task.functions)
            assert body["tool_choice"] == "required"


@pytest.mark.parametrize("refuse", [0, 400, 422])
def test_servers_without_constraints_are_named(refuse: int, tmp_path: Path) -> None:
    say = model(lambda task, held: False, obey=False, refuse=refuse)
    content, lines = measured(say, tmp_path / "out.json", limit=12)
    state = "refused" if refuse else "ignored"
    for name in ("response_format", "tool_choice"):
        assert any(line.startswith(f"{name}: {state}") for line in lines)
    found = figures(content, "constrained")["task_success"]
    if refuse:
        assert found["value"] is None
        assert state in found["why"]
        assert content["comparison"] == {}
    else:
        assert (found["value"], found["n"]) == (0, 12)


def test_no_success_is_no_cost(tmp_path: Path) -> None:
    say = model(lambda task, held: held)
    content, lines = measured(say, tmp_path / "out.json", limit=12, prices=Prices(per_hour=2.0))
    assert figures(content, "prompt_only")["cost_per_success"] == {"value": None, "why": cost.NO_SUCCESS, "n": 12}
    paid = figures(content, "constrained")
    assert paid["cost_per_success"]["value"] == pytest.approx(2.0 * paid["seconds"]["value"] / 3600 / 12)
    assert any("no task succeeded" in line for line in lines)


def test_energy_is_measured_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(1000))
    monkeypatch.setattr(environment, "_energy_counters", lambda: {"gpu0": 30.0 * next(counter)})
    prices = Prices(per_hour=1.0, per_kilowatt_hour=0.4)
    content, _ = measured(model(lambda task, held: held), tmp_path / "out.json", limit=12, prices=prices)
    assert content["energy_counters"] == ["gpu0"]
    found = figures(content, "constrained")
    # Two rounds of each way; each reads the counter when it begins and when it ends.
    assert found["joules"]["value"] == 60.0
    energy = found["energy_per_success"]
    assert energy["value"] == 5.0
    assert energy["low"] == pytest.approx(5.0)
    assert energy["high"] > 5.0  # with 12 of 12 the true rate may be lower, never higher
    expected = (found["seconds"]["value"] / 3600 + 0.4 * 60 / 3.6e6) / 12
    assert found["cost_per_success"]["value"] == pytest.approx(expected)
    monkeypatch.setattr(environment, "_energy_counters", dict)
    content, _ = measured(model(lambda task, held: held), tmp_path / "out.json", limit=12, prices=prices)
    for name in ("energy_per_success", "cost_per_success", "joules"):
        assert figures(content, "constrained")[name]["value"] is None
        assert "no energy counter" in figures(content, "constrained")[name]["why"]


def test_energy_of_another_machine_or_an_unmetered_gpu_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_energy_counters", lambda: {"intel-rapl:0": 1.0})
    assert find_meter(True).counters == ("intel-rapl:0",)
    assert "another machine" in find_meter(False).why_not
    monkeypatch.setattr(cost, "DRIVER", tmp_path)
    assert "nvidia-ml-py" in find_meter(True).why_not


def test_failed_requests_are_tasks_without_success(tmp_path: Path) -> None:
    def say(body: Body) -> Said:
        task = BY_PROMPT.get(body["messages"][-1]["content"])
        return Said("busy", status=429) if task and task.hash[-1] < "8" else model(lambda task, held: True)(body)

    content, lines = measured(say, tmp_path / "out.json", usage=False)
    failed = sum(task.hash[-1] < "8" for task in TASKS)
    found = figures(content, "prompt_only")
    assert content["ways"]["prompt_only"]["faults"] == {"status 429: busy": failed}
    assert found["task_success"]["value"] == pytest.approx((40 - failed) / 40)
    assert found["latency_p50"]["n"] == 40 - failed
    assert found["tokens_per_second"]["value"] is None
    assert f"failed, prompt only: {failed} x status 429: busy" in lines


@contextmanager
def two_models() -> Iterator[StandIn]:
    with openai_stand_in(model(lambda task, held: True), models=("one", "two")) as server:
        yield server


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with two_models() as server:
        with pytest.raises(InputError, match=r"serves 2 models \(one, two\); name one with --model"):
            bench_serve(BenchmarkOrder(Side(server.url)), out)
        assert bench_serve(BenchmarkOrder(Side(server.url, "two"), limit=2), out)
        assert server.asked[-1]["model"] == "two"
        out.unlink()
        for order in (BenchmarkOrder(), BenchmarkOrder(Side(server.url), tmp_path)):
            with pytest.raises(InputError, match="one of the two"):
                bench_serve(order, out)
        with pytest.raises(InputError, match="name a file"):
            bench_serve(BenchmarkOrder(Side(server.url)), tmp_path)
    with pytest.raises(InputError, match="nobody listens there"):
        bench_serve(BenchmarkOrder(Side(server.url)), out)
    for status, remedy in ((401, "give the token in a file with --token-file"), (404, "no such model")):
        said = Said("no such model", status=status)
        with (
            openai_stand_in(lambda _, said=said: said, models=("mine",)) as server,  # type: ignore[misc]
            pytest.raises(InputError, match=remedy),
        ):
            bench_serve(BenchmarkOrder(Side(server.url, "main")), out)
    assert not out.exists()


def test_quantiles_cover() -> None:
    """At least 95 % of the intervals hold the quantile; with too few values there is no bound."""
    draws = numpy.random.default_rng(0)
    for n, share in ((20, 0.5), (100, 0.95), (160, 0.5)):
        truth = -numpy.log(1 - share)
        samples = (quantile(draws.exponential(size=n).tolist(), share) for _ in range(400))
        held = sum((one.low or 0) <= truth <= (one.high or numpy.inf) for one in samples)
        assert held >= 0.95 * 400 - 3 * numpy.sqrt(400 * 0.05 * 0.95)
    assert quantile([3.0] * 20, 0.95).high is None
    assert quantile(range(1, 101), 0.95).value == 95
    assert quantile([5.0], 0.5) == quantile([5.0], 0.95)
    with pytest.raises(ValueError, match="no items"):
        quantile([], 0.5)


def test_a_model_is_served_for_the_time_of_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own server, over an engine that reads the question from its prompt and follows constraints if it has any."""
    monkeypatch.setattr(serving_world, "CONTEXT", 20_000)

    def script(request: Request, sample: int) -> list[int]:
        asked = tokenizer().decode(list(request.tokens))
        texts = [json.dumps(task.gold) for task in TASKS if task.question in asked]
        if "Say hello." in asked:
            texts = [json.dumps({"zq7": "vx-4913"}) if request.constraint else "Hello!"]
        (text,) = texts
        if "<tool_call>" in asked:
            gold = {"name": ODD_NAME, "arguments": json.loads(text)} if "zq7" in text else json.loads(text)
            text = f"<tool_call>\n{json.dumps(gold)}\n</tool_call>"
        return [*tokenizer().encode(text), tokenizer().im_end]

    opened = []

    def open_model(name: str, path: Path, limits: Limits) -> ServedModel:
        opened.append(served(ScriptedEngine(script=script), limits, name))
        return opened[0]

    monkeypatch.setattr("pocketlm.serving.models.open_model", open_model)
    roomy = [replace(task, max_tokens=2000) for task in TASKS[:12]]
    monkeypatch.setattr("pocketlm.serving.benchmark.command.task_set", lambda limit: roomy)
    lines = bench_serve(BenchmarkOrder(model=tmp_path / "toy", streams=3), tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    for way in ("constrained", "prompt_only"):
        assert content["ways"][way]["faults"] == {}
        for name in ("schema_valid", "executable_call", "task_success"):
            assert figures(content, way)[name]["value"] == 1
    assert content["support"]["tool_call"]["state"] == content["support"]["extraction"]["state"] == "enforced"
    assert content["in_process"]
    assert lines[0].startswith("toy at http://127.0.0.1:")
    assert settled(opened[0])


def test_the_command(tmp_path: Path) -> None:
    out = str(tmp_path / "out.json")
    run = CliRunner().invoke
    with openai_stand_in(model(lambda task, held: held)) as server:
        result = run(app, ["bench-serve", "--url", server.url, "--limit", "4", "--price-per-hour", "1", "--out", out])
        assert result.exit_code == 0, result.output
        assert "task success" in result.output
        assert f"written: {out}" in result.output
        curve = ["--router-curve", "--router-url", server.url, "--most-routed", "0.3", "--router-price-prompt", "1"]
        result = run(app, ["bench-serve", "--url", server.url, "--limit", "8", *curve, "--out", out])
        assert result.exit_code == 0, result.output
        assert "area under the curve" in result.output
        assert json.loads((tmp_path / "out.json").read_text())["router"]["chosen"]["most_routed"] == 0.3
    for wrong, message in (
        ([], "one of the two"),
        (["--url", "x"], "--url 'x': an address"),
        (["--url", "http://x/v1", "--router-curve"], "go together"),
        (["--url", "http://x/v1", *curve, "--router-measure", "meen"], "did you mean 'mean'"),
    ):
        result = run(app, ["bench-serve", *wrong, "--out", out])
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)
