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

from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.wind_tunnel import WindTunnelSettings, wind_tunnel
from pocketlm.training.sweep import optimum, rate_for_width
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
    rows = artifact.read_json("sweep.json")
    assert [row["learning_rate"] for row in rows] == [1e-4, 1e-3, 1e-2]
    assert rows[2]["bits_per_byte"] < rows[0]["bits_per_byte"] < rows[0]["start"]
    assert artifact.metrics["recommended_rate"] == 1e-2
    assert [kind for kind, _ in events if kind == "warning"] == ["warning"]
    # Runs that are there are read, not repeated, and the whole is reproducible.
    (tmp_path / "second" / "work").mkdir(parents=True)
    again, _ = run(tokens, tmp_path / "second")
    assert again.digest == artifact.digest


@pytest.mark.parametrize(
    "settings", [{"proxies": ()}, {"proxies": ("2m",)}, {"learning_rates": (1e-3, 2e-3)}, {"learning_rates": (0, 1, 2)}]
)
def test_impossible_sweeps_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WindTunnelSettings(**settings)
