"""Every alarm fires where it should and is silent where all is well; budgets and stops end a run."""

import pytest

from pocketlm.posttraining.rlvr.alarms import RlvrWatcher
from pocketlm.posttraining.rlvr.rlvr_settings import AlarmSettings

HEALTHY = {
    "live_groups": 0.6, "entropy": 1.0, "completion_tokens": 20.0, "truncated": 0.05, "verifier_failures": 0.0,
    "engine_distance": 1e-6, "sampled_tokens": 100.0, "skipped": 0,
}  # fmt: skip
SETTINGS = AlarmSettings(window=3)
START = {"pass@k": 0.6, "pass@k.error": 0.01}


def log(*last, rows=9):
    """Healthy rows, then one for each dictionary of changes."""
    changes = [{}] * (rows - len(last)) + list(last)
    return [{"step": step, **HEALTHY, **change} for step, change in enumerate(changes, start=1)]


def alarms(rows, scores=(), **options):
    return RlvrWatcher(SETTINGS, START, **options).alarms(rows, list(scores))


@pytest.mark.parametrize(
    ("figure", "value", "name"),
    [
        ("live_groups", 0.05, "dead_groups"),
        ("entropy", 0.09, "entropy"),
        ("completion_tokens", 61.0, "length"),
        ("truncated", 0.51, "truncated"),
        ("verifier_failures", 0.03, "verifier_failures"),
        ("engine_distance", 0.06, "engine_distance"),
    ],
)
def test_each_figure_has_its_alarm(figure, value, name):
    bad = {figure: value}
    assert list(alarms(log(bad, bad, bad))) == [name]
    assert alarms(log()) == {}
    if name not in ("verifier_failures", "engine_distance"):
        assert alarms(log(bad)) == {}, "one bad row of three is no alarm"
        assert alarms(log(bad, bad, rows=2)) == {}, "nor are the first rows, before there is a mean"


def test_a_reused_batch_compares_engine_and_trainer_on_its_first_update():
    rows = log({"engine_distance": 1e-6}, {"engine_distance": 0.2}, {"engine_distance": 0.3})
    assert list(alarms(rows)) == ["engine_distance"]
    assert alarms(rows, updates=3) == {}
    assert list(alarms(log(*[{"engine_distance": 0.2}] * 3), updates=3)) == ["engine_distance"]


@pytest.mark.parametrize(
    ("now", "error", "found"), [(0.5, 0.01, True), (0.56, 0.01, False), (0.5, 0.06, False), (0.7, 0.01, False)]
)
def test_pass_at_k_falls_beyond_the_noise(now, error, found):
    scores = [{"pass@k": 0.1, "pass@k.error": 0.01}, {"pass@k": now, "pass@k.error": error}]
    assert list(alarms(log(), scores)) == (["pass_at_k"] if found else []), "only the newest score counts"
    assert alarms(log(), [{"exact_match": 0.1}]) == {}, "nothing is sampled, nothing is said"
    unjudged = RlvrWatcher(SETTINGS, {"exact_match": 0.1})
    assert unjudged.alarms(log(), scores) == {}, "nor where no verifier judged the start"


def test_a_run_ends_by_an_alarm_or_when_its_tokens_are_spent():
    rows = log()
    watcher = RlvrWatcher(SETTINGS.model_copy(update={"stop_on": ("entropy",)}), START, token_budget=1000)
    assert watcher.ended(rows) == ""
    assert watcher.ended(log(rows=10)) == "spent its budget at step 10: 1,000 of 1,000 sampled tokens"
    rows[-1]["alarms"] = ["length", "truncated"]
    assert watcher.ended(rows) == ""
    rows[-1]["alarms"] = ["entropy", "length"]
    assert watcher.ended(rows) == "stopped at step 9 by the alarm entropy"
