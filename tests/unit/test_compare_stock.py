"""Records from results of the stock `lm_eval` command, with samples beside them or without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pocketlm.errors import InputError
from pocketlm.evaluation.comparison.command import compare
from pocketlm.evaluation.comparison.compared import compare_records
from pocketlm.evaluation.comparison.record_sources import open_record
from pocketlm.evaluation.task_data import find_files, read_task_data, write_task_folder
from pocketlm.pipeline.storage import write_json_atomic
from tests.comparison_world import write
from tests.evaluation_world import write_data


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085"])
def test_signs_that_end_lines_elsewhere_may_stand_in_a_stock_sample(tmp_path: Path, sign: str) -> None:
    common = {"doc": f"a{sign}b", "filter": "none", "metrics": ["acc"]}
    rows = [{**common, "doc_id": n, "doc_hash": f"h{n}", "acc": float(n % 2)} for n in range(4)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    content = {"results": {"t": {"acc,none": 0.5, "acc_stderr,none": 0.2}}, "n-samples": {"t": {"effective": 4}}}
    write(tmp_path / "results_now.json", content)
    samples = tmp_path / "samples_t_now.jsonl"
    samples.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert len(open_record(str(tmp_path)).tasks["t"].items or ()) == 4
    samples.write_text("\n".join([*lines[:2], "{"]), encoding="utf-8")
    with pytest.raises(InputError, match="line 3 is no sample of lm_eval"):
        open_record(str(tmp_path))


def test_results_of_the_stock_command_are_read_with_their_samples(tmp_path: Path) -> None:
    """Written by the harness itself, with its dummy model, which answers at random."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    names = ["last_word_cloze", "short_instructions", "heldout_bits_per_byte"]
    data = read_task_data(find_files(write_data(tmp_path / "data"))).select(names)
    tasks = write_task_folder(tmp_path / "tasks", data, cache=tmp_path / "cache")
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    tracker = EvaluationTracker(output_path=str(tmp_path / "stock"))
    found = simple_evaluate("dummy", tasks=list(data.rows), task_manager=manager, evaluation_tracker=tracker)
    assert found is not None
    samples = found.pop("samples")
    tracker.save_results_aggregated(found, samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task, rows)
    with_items = open_record(f"stock={tmp_path / 'stock'}")
    cloze = with_items.tasks["last_word_cloze"]
    assert cloze.items is not None
    assert (cloze.n, len(cloze.items)) == (20, 20)
    assert cloze.scores[cloze.primary].value == found["results"]["last_word_cloze"][f"{cloze.primary},none"]
    assert with_items.settings["chat"] is False
    bits = with_items.tasks["heldout_bits_per_byte"]
    assert bits.items is not None
    assert bits.primary == "bits_per_byte"
    assert bits.scores["bits_per_byte"].low < bits.scores["bits_per_byte"].value
    paired = compare([f"stock={tmp_path / 'stock'}", f"again={tmp_path / 'stock'}"], ["last_word_cloze"], None)
    assert any("0 : 0" in line for line in paired)
    for file in tmp_path.glob("stock/*/samples_*"):
        file.unlink()
    alone = open_record(str(tmp_path / "stock"))
    assert alone.tasks["last_word_cloze"].items is None
    estimate = alone.tasks["last_word_cloze"].scores[cloze.primary]
    assert estimate.low <= estimate.value <= estimate.high
    lines = compare([f"stock={tmp_path / 'stock'}", f"again={tmp_path / 'stock'}"], ["last_word_cloze"], None)
    assert any("not paired" in line for line in lines)
    assert "no interval" in alone.unusable["heldout_bits_per_byte"]
    (pair,) = compare_records([with_items, alone]).pairs
    assert [item.task for item in pair.refused] == ["heldout_bits_per_byte", "mean"]
    assert "has bits_per_byte without standard error and samples" in pair.refused[0].reason


def test_both_readings_of_a_stock_gsm8k_answer_become_one_item(tmp_path: Path) -> None:
    right = {"strict-match": [True, False, False, False], "flexible-extract": [True, True, False, True]}
    rows = [
        {"doc_id": number, "doc_hash": f"h{number}", "filter": name, "metrics": ["exact_match"], "exact_match": value}
        for name, values in right.items()
        for number, value in enumerate(map(float, values))
    ]
    scores = {f"exact_match,{name}": sum(values) / 4 for name, values in right.items()}
    scores |= {f"exact_match_stderr,{name}": 0.2 for name in right}
    content = {"results": {"gsm8k": scores}, "n-samples": {"gsm8k": {"effective": 4}}, "n-shot": {"gsm8k": 5}}
    path = write(tmp_path / "results_now.json", content)
    (tmp_path / "samples_gsm8k_now.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = open_record(str(path)).tasks["gsm8k"]
    assert (task.primary, task.shots, task.n) == ("strict", 5, 4)
    assert task.items is not None
    assert [item["correct"] for item in task.items] == right["strict-match"]
    assert [item["metrics"]["flexible"] for item in task.items] == right["flexible-extract"]
    assert task.scores["flexible"].value == 0.75
    scores["exact_match,strict-match"] = 0.3
    write(path, content)
    with pytest.raises(InputError, match=r"states strict 0\.3, but its items give 0\.25"):
        open_record(str(path))


def test_a_stock_result_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    content = {"results": {"t": {"acc,none": None}}, "n-samples": {"t": {"effective": 10}}}
    with pytest.raises(InputError, match="task t has no scores"):
        open_record(str(write(tmp_path / "results_1.json", content)))
    write_json_atomic(tmp_path / "results_2.json", {**content, "results": {"t": {"acc,none": 0.5}}, "n-samples": {}})
    with pytest.raises(InputError, match="holds no task that can be compared"):
        open_record(str(tmp_path / "results_2.json"))
    with pytest.raises(InputError, match="holds 2 results of lm_eval"):
        open_record(str(tmp_path))
