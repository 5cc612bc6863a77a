"""Post-training that is stopped midway ends with the bits of the run that was not."""

import pytest

from pocketlm.errors import Interrupted
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.rlvr import rlvr
from pocketlm.stages.sft import SftSettings, sft
from tests import posttraining_world as world
from tests.unit.test_posttraining_stages import RL

SFT = SftSettings(steps=9, batch_rows=12, warmup_steps=1, validate_every=2, patience=None, max_tokens=4)


def execute(definition, settings, inputs, folder, stop_after=()):
    """Run a stage; the first attempts are stopped after the given steps, the last runs through."""
    for limit in (*stop_after, None):
        surroundings = world.World(folder, definition.name)
        reports = [0]

        def progress(done, *rest, reports=reports, limit=limit, stop=surroundings.stop, **figures):
            reports[0] += 1
            if reports[0] == limit:
                stop.request()

        surroundings.context.progress = progress
        if limit is None:
            return definition.function(settings, inputs, surroundings.context)
        with pytest.raises(Interrupted):
            definition.function(settings, inputs, surroundings.context)
    raise AssertionError


@pytest.mark.parametrize(("definition", "settings"), [(rlvr, RL), (sft, SFT)], ids=["rlvr", "sft"])
def test_stopping_twice_changes_no_bit(definition, settings, tmp_path):
    inputs = Inputs(
        {
            "model": world.model_artifact(tmp_path / "taught", world.taught_model()),
            "problems": world.problems_artifact(tmp_path / "problems"),
        }
    )
    whole = execute(definition, settings, inputs, tmp_path / "whole")
    resumed = execute(definition, settings, inputs, tmp_path / "resumed", stop_after=(1, 2))
    assert resumed.digest == whole.digest
    assert resumed.metrics == whole.metrics
