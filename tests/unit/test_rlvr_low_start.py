"""The benchmark of low starts runs from end to end on a toy world, and its interval is right where it is known."""

import pytest

from bench import rlvr_low_start
from bench.rlvr_low_start_arms import ARMS
from bench.rlvr_low_start_world import World
from pocketlm.model.config import ModelShape

TOY = World(
    digits=((1, 1), (1, 1)), solved=(20, 20), selection=(1, 6), report=(4, 8), pool=9, gold=3, start_steps=80,
    start_rate=1e-2, start_success=0.01, budget=16000, profiled=6, sft_steps=2, rounds=1, samples=4,
    shape=ModelShape(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn_width=64, context=64),
)  # fmt: skip


@pytest.mark.long
def test_every_arm_runs_and_the_table_states_them(tmp_path, monkeypatch):
    monkeypatch.setattr(rlvr_low_start, "RATES", (3e-4,))
    monkeypatch.setattr(rlvr_low_start, "SIZES", (384,))
    rlvr_low_start.run_all(TOY, tmp_path, (1,))
    made = {path.name for path in tmp_path.glob("*.json")}
    assert len(made) == len(ARMS) + 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    rlvr_low_start.run_all(TOY, tmp_path, (1,))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    record = rlvr_low_start.table(tmp_path)
    assert {row["arm"] for row in record["arms"]} == set(ARMS)
    assert len(record["differences"]) == len(rlvr_low_start.COMPARED)
    spent = {row["arm"]: row["sampled_tokens"][0] for row in record["arms"]}
    assert spent.pop("gold_sft") == 0
    # The step that reaches the budget is finished, with its redraws: at toy size half a budget.
    assert all(TOY.budget <= tokens < 1.6 * TOY.budget for tokens in spent.values()), spent
    for row in record["starts"]:
        assert row["success"]["2"] > 0, "arms of a start that never succeeds would learn nothing here"


def test_success_by_size_of_the_sum():
    def run(samples, corrects):
        return {"samples": samples, "items": [["", pair, correct, 0] for pair, correct in corrects.items()]}

    runs = [run(4, {"49+50": 4, "50+49": 2, "50+50": 1}), run(2, {"49+50": 0, "50+49": 0, "50+50": 2})]
    assert rlvr_low_start.by_sum(runs) == {"below 100": [0.75, 0.0], "100 to 109": [0.25, 1.0]}
    for one in runs:
        one["items"].append(["", "55+55", 1, 0])
    assert rlvr_low_start.by_sum(runs)["from 110"] == [0.25, 0.5]


def test_a_difference_is_over_equal_seeds_and_its_interval_covers_seeds_and_pairs():
    def run(seed, corrects):
        items = [[f"{pair}/{order}", pair, correct, 0] for pair, correct in corrects.items() for order in "ab"]
        return {"seed": seed, "samples": 4, "items": items}

    better = [run(1, {"1+2": 4, "3+4": 2}), run(2, {"1+2": 4, "3+4": 2}), run(9, {"1+2": 0, "3+4": 0})]
    worse = [run(2, {"1+2": 2, "3+4": 0}), run(1, {"1+2": 2, "3+4": 0})]
    assert rlvr_low_start.difference(better, worse) == {"mean": 0.5, "interval": [0.5, 0.5], "by_seed": [0.5, 0.5]}
    worse[0] = run(2, {"1+2": 4, "3+4": 2})
    by_seed = rlvr_low_start.difference(better, worse)
    assert by_seed == {"mean": 0.25, "interval": [0.0, 0.5], "by_seed": [0.5, 0.0]}, "seeds are drawn"
    worse = [run(seed, {"1+2": 4, "3+4": 1}) for seed in (1, 2)]
    by_pair = rlvr_low_start.difference(better, worse)
    assert by_pair == {"mean": 0.125, "interval": [0.0, 0.25], "by_seed": [0.125, 0.125]}, "pairs are drawn"
    assert rlvr_low_start.difference(better[2:], worse) == {"mean": None}
