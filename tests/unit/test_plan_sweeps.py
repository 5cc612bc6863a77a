"""Plans of sweeps: every model at every rate is counted, as its stage trains it, and what cannot fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketlm.errors import InputError
from pocketlm.model.config import SHAPES
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.planning import plan as planning
from pocketlm.planning.flops import training_flops_per_token
from pocketlm.planning.machine import Machine
from pocketlm.planning.memory import training_memory
from pocketlm.planning.plan import plan, preflight
from pocketlm.planning.sweeps import sweeps_of
from pocketlm.stages import registry
from tests.unit.test_planning import roomy  # noqa: F401 (a fixture)

SEEDS = "wind_tunnel.seeds=2"


def test_a_sweep_is_as_long_as_all_its_runs() -> None:
    recipe = load_recipe("wind-tunnel", registry(), [SEEDS])
    [sweep] = sweeps_of(recipe)
    settings = recipe.stages["wind_tunnel"].settings
    assert (sweep.rates, sweep.seeds, sweep.runs) == (5, 2, 10)
    for work, proxy in zip(sweep.works, ("0.3m", "1m"), strict=True):
        assert work.model == SHAPES[proxy].with_vocabulary(recipe.stages["tokenizer"].settings.vocabulary)  # type: ignore[attr-defined]
        assert work.settings == settings.run_of(work.model, 4e-2)  # type: ignore[attr-defined]
        assert work.tokens == work.steps * work.rows * work.length
        assert work.tokens == pytest.approx(1.5 * work.model.parameter_count(), rel=0.01)
        assert not work.masked


@pytest.mark.usefixtures("roomy")
def test_its_tokens_operations_and_time_are_stated(tmp_path: Path) -> None:
    recipe = load_recipe("wind-tunnel", registry(), [SEEDS])
    text = "\n".join(plan(recipe, tmp_path))
    [sweep] = sweeps_of(recipe)
    tokens = 10 * sum(work.tokens for work in sweep.works)
    flops = 10 * sum(work.tokens * training_flops_per_token(work.model, work.length) for work in sweep.works)
    seconds = tokens / 1000 + 10 * sum(work.steps for work in sweep.works) * 0.01  # the speed of the fixture
    assert "\nwind_tunnel: 2 models x 5 learning rates x 2 seeds: 20 runs\n" in text
    assert f"  tokens      {tokens:,} in all runs" in text
    assert f"  operations  {flops:.3g} FLOP in all runs" in text
    assert f"  time        {seconds / 3600:.1f} h (measured now on cpu" in text
    assert f"training takes at most {seconds / 3600:.1f} h here" in text


def test_a_sweep_that_does_not_fit_is_refused_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("wind-tunnel", registry())
    work = sweeps_of(recipe)[0].works[-1]

    def with_room_for(rows: int, spare: int) -> None:
        total = training_memory(work.model, work.settings, rows, work.length, "cpu").total
        machine = Machine("cpu", "test", total + planning.LIBRARIES["cpu"] + spare, "of this test")
        monkeypatch.setattr(planning, "machine_of", lambda runtime: machine)

    with_room_for(8, 0)
    assert preflight(recipe, tmp_path) is None
    with_room_for(4, 0)
    assert preflight(recipe, tmp_path) == 4
    with_room_for(1, -1)
    with pytest.raises(InputError, match=r"wind_tunnel \(1m\) does not fit into memory"):
        preflight(recipe, tmp_path)
    assert preflight(recipe, tmp_path, only="curate") is None
