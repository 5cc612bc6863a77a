"""The sweep of learning rates: its arithmetic on known curves, and the stage on a small corpus."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pocketlm.model.config import SHAPES
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.pretrain import PretrainSettings
from pocketlm.stages.wind_tunnel import WindTunnelSettings, wind_tunnel
from pocketlm.training.settings import OptimizationSettings
from pocketlm.training.sweep import CURVE_POINTS, optimum, rate_for_width, sweep_chart
from tests.unit.test_pretrain_stage import tokens  # noqa: F401 (a fixture)

RATES = [1e-3 * 2**power for power in range(7)]


def parabola(best: float, bend: float = 0.1) -> dict[float, float]:
    return {rate: 1.5 + bend * math.log(rate / best) ** 2 for rate in RATES}


@given(st.floats(min_value=2.1e-3, max_value=3.1e-2))
def test_the_optimum_of_a_parabola_is_found_between_the_points(best: float) -> None:
    found = optimum(parabola(best), start=8.0)
    assert found.rate == pytest.approx(best, rel=1e-6)
    assert found.loss == pytest.approx(1.5, abs=1e-9)
    assert not found.on_edge


def test_the_fitted_curve_is_the_one_that_the_optimum_lies_on() -> None:
    losses = {rate: loss + (0.02 if place % 2 else -0.01) for place, (rate, loss) in enumerate(parabola(6e-3).items())}
    found = optimum(losses, start=8.0)
    assert found.curve is not None
    assert found.loss == found.curve.loss(found.rate)
    around = [found.curve.loss(found.rate * factor) for factor in (0.9, 1.1)]
    assert min(around) > found.loss
    # Two runs on either side of the best one, which is the third.
    assert (found.curve.lowest, found.curve.highest) == (RATES[0], RATES[4])


def test_the_chart_shows_the_runs_and_the_curve_over_the_logarithm_of_the_rate() -> None:
    losses = {"a": parabola(4e-3), "b": parabola(1.0)}  # b: the best rate is the last one
    runs = [
        {"proxy": proxy, "learning_rate": rate, "bits_per_byte": loss}
        for proxy, own in losses.items()
        for rate, loss in sorted(own.items(), reverse=True)
    ]
    chart = sweep_chart(runs, {proxy: optimum(own, start=8.0) for proxy, own in losses.items()})
    assert chart["x_title"] == "log10(learning rate)"
    lines: dict[str, list[Any]] = {}
    for row in chart["rows"]:
        lines.setdefault(row["series"], []).append((row["log10 rate"], row["bits per byte"]))
    assert {name: len(points) for name, points in lines.items()} == {
        "a, runs": len(RATES),
        "a, fitted": CURVE_POINTS,
        "b, runs": len(RATES),
    }
    assert lines["a, runs"] == [(round(math.log10(rate), 4), losses["a"][rate]) for rate in RATES]
    for at, loss in lines["a, fitted"]:
        assert loss == pytest.approx(1.5 + 0.1 * math.log(10**at / 4e-3) ** 2, abs=1e-3)


def test_runs_that_diverge_cost_sensitivity_and_nothing_else() -> None:
    whole = parabola(4e-3)
    broken = {**whole, RATES[-1]: math.inf, RATES[-2]: math.nan}
    assert optimum(broken, start=8.0).rate == pytest.approx(4e-3, rel=1e-6)
    expected = sum(min(value if math.isfinite(value) else 8.0, 8.0) - whole[4e-3] for value in broken.values()) / 7
    assert optimum(broken, start=8.0).sensitivity == pytest.approx(expected)


@pytest.mark.parametrize("best", [2e-4, 1.0])
def test_an_optimum_at_the_end_of_the_sweep_is_said(best: float) -> None:
    found = optimum(parabola(best), start=8.0)
    assert found.on_edge
    assert found.curve is None
    assert found.rate == (RATES[0] if best < 1e-3 else RATES[-1])


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="three rates"):
        optimum({1e-3: 2.0, 2e-3: 1.9}, start=8.0)
    with pytest.raises(ValueError, match="does not diverge"):
        optimum(dict.fromkeys(RATES, math.inf), start=8.0)


def test_the_rate_of_a_larger_width_follows_the_power_law() -> None:
    optima = {width: 0.02 * (width / 100) ** -0.7 for width in (64, 128, 256)}
    rate, exponent = rate_for_width(optima, 576)
    assert exponent == pytest.approx(-0.7)
    assert rate == pytest.approx(0.02 * 5.76**-0.7)
    assert rate_for_width({128: 0.01}, 576) == (0.01, 0.0)


SETTINGS = WindTunnelSettings(
    proxies=("0.3m",), learning_rates=(1e-4, 1e-3, 1e-2), tokens_per_parameter=0.02, batch_rows=2, warmup_fraction=0.1
)


def run(tokens: Artifact, folder: Path, settings: WindTunnelSettings = SETTINGS) -> tuple[Artifact, list[Any]]:  # noqa: F811
    manifest = {"stage": "wind_tunnel", "fingerprint": "f" * 64, "inputs": {}, "settings": {}, "version": 1}
    events: list[Any] = []
    context = Context(
        "wind_tunnel", 5, Runtime(threads=1, device="cpu"), folder / "work",
        lambda kind: Draft(folder / "sweep", {"kind": kind, **manifest}),
        lambda kind, body: events.append((kind, body)), Progress(io.StringIO()), StopRequest(),
    )  # fmt: skip
    return wind_tunnel.function(settings, Inputs({"tokens": tokens}), context), events


def test_the_stage_sweeps_recommends_and_says_that_the_best_rate_was_the_last(
    tokens: Artifact,  # noqa: F811
    tmp_path: Path,
) -> None:
    artifact, events = run(tokens, tmp_path / "first")
    sweep = artifact.read_json("sweep.json")
    rows = sweep["runs"]
    assert [row["learning_rate"] for row in rows] == [1e-4, 1e-3, 1e-2]
    assert rows[2]["bits_per_byte"] < rows[0]["bits_per_byte"] < rows[0]["start"]
    assert artifact.metrics["recommended_rate"] == sweep["optima"]["0.3m"]["rate"] == 1e-2
    assert sweep["optima"]["0.3m"]["curve"] is None
    assert [kind for kind, _ in events if kind == "warning"] == ["warning"]
    # Runs that are there are read, not repeated, and the whole is reproducible.
    (tmp_path / "second" / "work").mkdir(parents=True)
    again, _ = run(tokens, tmp_path / "second")
    assert again.digest == artifact.digest


def test_a_sweep_trains_by_default_as_pretraining_does() -> None:
    sweep, pretraining = WindTunnelSettings.model_fields, PretrainSettings.model_fields
    shared = OptimizationSettings.model_fields
    assert {name: sweep[name].default for name in shared} == {name: pretraining[name].default for name in shared}
    assert min(sweep["learning_rates"].default) < pretraining["learning_rate"].default
    assert max(sweep["learning_rates"].default) > pretraining["learning_rate"].default


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_is_as_long_as_its_model_asks_for(optimizer: str) -> None:
    shape = SHAPES["0.3m"].with_vocabulary(300)
    settings = WindTunnelSettings(optimizer=optimizer, tokens_per_parameter=2.0, warmup_fraction=0.1)
    run = settings.run_of(shape, 3e-3)
    assert run.steps == round(2 * shape.parameter_count() / (settings.batch_rows * shape.context))
    assert (run.optimizer, run.learning_rate, run.warmup_steps) == (optimizer, 3e-3, round(0.1 * run.steps))
    assert run.decay_fraction == settings.decay_fraction


@pytest.mark.parametrize(
    "settings", [{"proxies": ()}, {"proxies": ("2m",)}, {"learning_rates": (1e-3, 2e-3)}, {"learning_rates": (0, 1, 2)}]
)
def test_impossible_sweeps_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WindTunnelSettings(**settings)
