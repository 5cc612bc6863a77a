"""The two bench scripts on benchmarks: that they find a difference, and how they sum up."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from bench import benchmark_parity, common
from bench.benchmark_world import first_items
from bench.evaluation_speed import totals
from pocketlm.evaluation.adapter import PocketLM
from tests.benchmark_files import write_benchmarks
from tests.evaluation_world import trained, worse


@pytest.mark.parametrize("task", ["arc_easy", "lambada_openai", "gsm8k"])
def test_the_parity_bench_tells_equal_models_from_others(tmp_path: Path, task: str) -> None:
    data = first_items(write_benchmarks(tmp_path), [task], 3)
    model, tokenizer = trained()
    ours = PocketLM(model, tokenizer)
    if task == "gsm8k":  # its answers may be longer than this model's context
        ours.generate_until = lambda requests, **_: ["#### 3"] * len(requests)  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = benchmark_parity.compare(task, data, ours, ours)
        assert benchmark_parity.agrees(same)
        assert (same["items"], same["different_hashes"], same["differences"]) == (3, 0, [])
        other = PocketLM(worse(model), tokenizer)
        other.generate_until = lambda requests, **_: ["#### 4"] * len(requests)  # type: ignore[method-assign]
        differing = benchmark_parity.compare(task, data, ours, other)
    assert not benchmark_parity.agrees(differing)
    if task == "gsm8k":
        assert [one["metric"] for one in differing["differences"]] == [
            "text strict flexible",
            "text strict flexible",
            "text",
        ]
    else:
        assert differing["largest_difference"] > 1e-3


def test_finished_tasks_are_kept_for_the_same_model_and_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark_parity, "RESULTS", tmp_path)
    identity = {"sha256": "a", "items_per_task": 3}
    assert benchmark_parity.finished(identity) == {}
    common.write_result("benchmark_parity", {**identity, "tasks": {"piqa": {"items": 3}}})
    assert benchmark_parity.finished(identity) == {"piqa": {"items": 3}}
    assert benchmark_parity.finished({**identity, "items_per_task": 4}) == {}
    assert json.loads((tmp_path / "benchmark_parity.json").read_text())["benchmark"] == "benchmark_parity"


def test_the_ratio_is_to_the_best_batch_size_over_all_tasks() -> None:
    seconds = [
        {"ours": 1.0, "stock, batch 1": 2.0, "stock, batch 8": 9.0},
        {"ours": 3.0, "stock, batch 1": 9.0, "stock, batch 8": 1.0},
    ]
    found = totals([{"seconds": one, "processor_seconds": {"ours": 1.0, "stock, batch 1": 3.0}} for one in seconds])
    assert (found["best_in_seconds"], found["ratio_in_seconds"]) == ("stock, batch 8", 2.5)
    assert found["ratio_in_processor_seconds"] == 3.0
