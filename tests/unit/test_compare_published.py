"""The shipped table of published scores: its arithmetic, its item counts, its names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pocketlm.errors import InputError
from pocketlm.evaluation.benchmarks.tasks import BENCHMARKS, SIX
from pocketlm.evaluation.comparison.compared import compare_records
from pocketlm.evaluation.comparison.published import published_names, published_record, published_table
from pocketlm.evaluation.comparison.record_sources import open_record

ROUNDING = 0.5e-4


def test_every_mean_is_that_of_its_scores_and_the_rest_is_marked() -> None:
    for name, row in published_table()["models"].items():
        scores = list(row["scores"].values())
        assert list(row["scores"]) == list(SIX), name
        assert row["mean_is"] in ("published", "recomputed")
        assert set(row["sources"]) <= set(published_table()["sources"])
        if None in scores:
            assert (name, set(scores)) == ("l20-edu-later", {None})
            continue
        # Scores are rounded too: their mean and the stated one may lie a whole last digit apart.
        assert sum(scores) / 6 == pytest.approx(row["mean"], abs=2 * ROUNDING), name
    recomputed = [name for name, row in published_table()["models"].items() if row["mean_is"] == "recomputed"]
    assert recomputed == ["l20-edu-base"]


def test_every_score_is_a_count_of_items_of_the_full_set() -> None:
    """A score of four digits that no number of right items gives would mean another set, or a typing error."""
    for name, row in published_table()["models"].items():
        for task, score in row["scores"].items():
            if score is not None:
                n = published_table()["tasks"][task]["items"]
                assert abs(round(score * n) / n - score) <= ROUNDING + 1e-12, (name, task)


def test_metrics_are_those_of_the_benchmarks() -> None:
    for task, entry in published_table()["tasks"].items():
        assert entry["metric"] == BENCHMARKS[task].primary


def test_records_carry_value_interval_and_where_it_comes_from() -> None:
    record = published_record("smollm2-135m")
    result = record.tasks["arc_challenge"]
    estimate = result.scores["acc_norm"]
    assert (estimate.value, result.n, result.items) == (0.2969, 1172, None)
    assert estimate.low < 0.2969 < estimate.high
    assert "Wilson" in result.derived
    assert "2606.22189" in record.origin
    assert record.settings["lm_eval"] == "0.4.12"


@pytest.mark.parametrize("name", ["SmolLM2-135M", "smollm2-135m", "OPT-125m"])
def test_names_are_found_in_either_case(name: str) -> None:
    assert open_record(name).name == name.casefold()


def test_a_near_name_is_suggested_and_all_are_listed() -> None:
    with pytest.raises(InputError, match=r"did you mean 'smollm2-135m'.*pythia-160m") as raised:
        open_record("SmolLM2-135")
    assert all(name in str(raised.value) for name in published_names())


def test_a_row_without_scores_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="nothing can be compared: l20-edu-later has no arc_challenge"):
        compare_records([open_record("l20-edu-later"), open_record("gpt2-small")])


def test_the_command_prints_a_table_and_a_wrong_name_ends_it_with_exit_code_2() -> None:
    command = [sys.executable, "-m", "pocketlm", "compare", "l20-edu-release"]
    right = subprocess.run([*command, "L20-Edu-Base"], capture_output=True, text=True, timeout=60, check=False)
    assert right.returncode == 0, right.stderr
    assert "- no difference between l20-edu-release and l20-edu-base is shown on the mean of 6 tasks" in right.stdout
    wrong = subprocess.run([*command, "l20-edu-bas"], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2
    assert "did you mean 'l20-edu-base'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
