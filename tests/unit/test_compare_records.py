"""Records: what can be compared is read in one form; whatever is no result, or is altered, is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketlm.errors import CorruptionError, InputError
from pocketlm.evaluation.comparison.command import compare, run_blocks
from pocketlm.evaluation.comparison.compared import compare_records
from pocketlm.evaluation.comparison.record_sources import open_record, open_records
from pocketlm.evaluation.scores import summarise
from pocketlm.pipeline.artifact import Draft
from pocketlm.statistics.rates import clustered_rate, wilson
from tests.comparison_world import answers, document, items, write


@pytest.fixture
def result(tmp_path: Path) -> Path:
    tasks = {"arc_easy": items("arc_easy", answers(40, 0.5, 1)), "piqa": items("piqa", answers(30, 0.6, 2))}
    return write(tmp_path / "a.json", document("a", tasks))


def run_with(folder: Path, shares: dict[str, float], stage: str = "evaluate") -> Path:
    """A run folder with an evaluation of these models: 60 sums and 12 documents each; intervals as if every item stood
    alone.
    """
    models, counts = {}, {}
    asked = {"split": "selection", "chat": True, "limit": 60, "shown_answers": 8}
    manifest = {"kind": "evaluation", "stage": stage, "version": 3, "fingerprint": "fp", "settings": asked}
    draft = Draft(folder / "artifacts" / stage, manifest)
    for place, (model, share) in enumerate(shares.items()):
        sums = [
            {**row, "operands": [number // 2, 100 + number // 2]}
            for number, row in enumerate(items("arithmetic_level_1", answers(60, share, place)))
        ]
        texts = [
            {"id": f"d/{number}", "hash": f"d/{number}", "bytes": 100 + number, "log_likelihood": -70.0 * (2 - share)}
            for number in range(12)
        ]
        rate = asdict(wilson(sum(row["correct"] for row in sums), len(sums)))
        bits = 12 * 70.0 * (2 - share) / 0.6931471805599453 / sum(row["bytes"] for row in texts)
        figure = {"value": bits, "low": bits - 0.1, "high": bits + 0.1, "n": 12, "error": None}
        models[model] = {
            "digest": f"digest of {model}",
            "scores": {
                "arithmetic": {"exact_match": rate},
                "arithmetic_level_1": {"exact_match": rate},
                "heldout_bits_per_byte": {"bits_per_byte": figure},
            },
        }
        for task, rows in (("arithmetic_level_1", sums), ("heldout_bits_per_byte", texts)):
            counts[task] = {"n": len(rows), "examples_sha256": f"shown before {task}"}
            draft.write_jsonl(f"items/{model}.{task}.jsonl", rows)
    draft.write_json("results.json", {"lm_eval": "0.4.13", "models": models, "tasks": counts})
    draft.commit({})
    (folder / "recipe.yaml").write_text(f"name: tiny\nmodel: {next(reversed(shares))}\n", encoding="utf-8")
    return folder


def test_a_result_file_is_read_without_its_group_means(result: Path) -> None:
    record = open_record(str(result))
    assert (record.name, record.digest, list(record.tasks)) == ("a", "digest of a", ["arc_easy", "piqa"])
    assert record.settings == {"lm_eval": "0.4.13", "limit": None, "chat": False, "split": "report"}
    assert record.tasks["piqa"].n == 30
    assert open_record(f"other={result}").name == "other"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.update(format=2), "has format 2, this version reads 1"),
        (lambda d: d.pop("format"), "has format none"),
        (lambda d: d.pop("tasks"), "is no result: neither of `pocketlm eval"),
        (lambda d: d.pop("settings"), "has no name or no settings"),
        (lambda d: d["tasks"].update(arc_easy=3), "task arc_easy has no scores"),
        (lambda d: d["tasks"]["arc_easy"].pop("n"), "has no count of items"),
        (lambda d: d["tasks"]["arc_easy"].update(items=[]), "has no items"),
        (lambda d: d["tasks"]["arc_easy"].update(n=39), "states 39 items and holds 40: the file was altered"),
        (lambda d: d["tasks"]["arc_easy"].update(primary="f1"), "the main metric 'f1' is not among its scores .acc"),
        (lambda d: d["tasks"]["arc_easy"]["items"][3].pop("hash"), "item 4 has no id and hash"),
        (lambda d: d["tasks"]["arc_easy"]["items"][3].update(correct=0.5), "item 4 .3. does not say whether"),
        (
            lambda d: d["tasks"]["arc_easy"]["items"].append(d["tasks"]["arc_easy"]["items"][0]),
            "item 41 .0. is item 1 once more",
        ),
        (lambda d: _flip(d["tasks"]["arc_easy"]["items"][0]), "states acc 0.*, but its items give"),
        (lambda d: d["tasks"]["arc_easy"]["items"][0].update(metrics={"acc": 0.5}), "item 1 .0.: .* is not right or"),
        (lambda d: d["tasks"]["arc_easy"]["items"][7].pop("metrics"), "its items are none of such a task"),
        (lambda d: d["tasks"]["arc_easy"]["items"][0].update(metrics={}), "its items do not say acc, only acc_norm"),
        (lambda d: _contradict(d["tasks"]["arc_easy"]["items"][0]), "item 1 .0. contradicts itself"),
        (
            lambda d: _narrow(d["tasks"]["arc_easy"]["scores"]["acc"]),
            r"states acc .*\[.*of 40 items, but its items give",
        ),
        (lambda d: d["tasks"]["arc_easy"]["scores"]["acc"].update(n=4000), "of 4000 items, but its items give"),
        (lambda d: d["tasks"]["arc_easy"]["scores"]["acc"].update(n="40"), "is of '40' items, which is no number"),
        (lambda d: d["tasks"]["arc_easy"]["scores"].update(acc=0.5), "acc is 0.5, not a score with value"),
        (lambda d: d["tasks"]["arc_easy"]["scores"]["acc"].pop("low"), "not three finite numbers"),
        (lambda d: d["tasks"]["arc_easy"]["scores"]["acc"].update(low=0.9), "lies outside its interval"),
        (lambda d: d["tasks"]["arc_easy"]["scores"]["acc"].update(value=float("nan")), "it holds NaN"),
        (lambda d: d["tasks"].pop("arc_easy") and d["tasks"].pop("piqa"), "holds no task with items"),
    ],
)
def test_an_altered_result_file_is_refused(result: Path, damage: Callable[[dict[str, Any]], Any], message: str) -> None:
    content = json.loads(result.read_text())
    damage(content)
    write(result, content)
    with pytest.raises(InputError, match=message) as raised:
        open_record(str(result))
    assert str(result) in str(raised.value)


def _flip(item: dict[str, Any]) -> None:
    item["correct"] = item["metrics"]["acc"] = not item["correct"]


def _contradict(item: dict[str, Any]) -> None:
    item["correct"] = not item["correct"]


def _narrow(figure: dict[str, Any]) -> None:
    """An interval of nearly no width, as if of millions of items."""
    figure.update(low=figure["value"] - 1e-6, high=figure["value"] + 1e-6)


def test_stated_intervals_must_be_those_of_the_clusters_and_of_the_documents(tmp_path: Path) -> None:
    """What `pocketlm eval` would write is read; the interval of single items, or a narrower one, is refused."""
    sums = [{**row, "operands": [n // 2, 99]} for n, row in enumerate(items("s", [n // 2 % 2 == 0 for n in range(60)]))]
    texts = [{"id": f"{n}", "hash": f"{n}", "bytes": 90 + n, "log_likelihood": -60.0 - n % 7} for n in range(30)]
    rows = {"arithmetic_level_1": sums, "heldout_bits_per_byte": texts}
    primary = {"arithmetic_level_1": "exact_match", "heldout_bits_per_byte": "bits_per_byte"}
    scores = summarise(rows, np.random.default_rng(8), whole=False)

    def written(changed: str = "", **bounds: float) -> str:
        tasks = {
            task: {
                "n": len(rows[task]),
                "primary": metric,
                "scores": {metric: {**asdict(scores[task][metric]), **(bounds if task == changed else {})}},
                "items": rows[task],
            }
            for task, metric in primary.items()
        }
        return str(write(tmp_path / "own.json", {**document("own", {}), "tasks": tasks}))

    read = open_record(written()).tasks["heldout_bits_per_byte"].scores["bits_per_byte"]
    assert (read.low, read.high) == (scores["heldout_bits_per_byte"]["bits_per_byte"].low, read.high)
    alone = wilson(sum(row["correct"] for row in sums), len(sums))
    with pytest.raises(InputError, match=r"states exact_match 0\.5 .*, but its items give exact_match 0\.5"):
        open_record(written("arithmetic_level_1", low=alone.low, high=alone.high))
    with pytest.raises(InputError, match=r"states bits_per_byte .*, but its items give bits_per_byte"):
        open_record(written("heldout_bits_per_byte", low=read.value - 1e-6, high=read.value + 1e-6))


@pytest.mark.parametrize(
    ("ours", "theirs", "refused"), [("a", "b", True), ("a", "a", False), ("a", None, False), (None, None, False)]
)
def test_other_few_shot_examples_are_other_questions(
    tmp_path: Path, ours: str | None, theirs: str | None, refused: bool
) -> None:
    rows = [{**row, "metrics": {"strict": row["correct"]}} for row in items("gsm8k", answers(30, 0.5, 1))]
    figure = {"strict": asdict(wilson(sum(row["correct"] for row in rows), 30))}
    for name, examples in (("one", ours), ("two", theirs)):
        entry = {"n": 30, "primary": "strict", "scores": figure, "items": rows}
        stated = {} if examples is None else {"examples_sha256": examples}
        write(tmp_path / f"{name}.json", {**document(name, {}), "tasks": {"gsm8k": {**entry, **stated}}})
    records = open_records([str(tmp_path / "one.json"), str(tmp_path / "two.json")])
    if refused:
        with pytest.raises(InputError, match="one and two were shown other few-shot examples"):
            compare_records(records)
    else:
        assert compare_records(records).pairs[0].tasks[0].paired


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no result"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[1]", "neither of"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_record(str(tmp_path / "x.json"))


def test_a_run_gives_its_final_model_and_others_by_name(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {"base": 0.3, "tuned": 0.7})
    final, base = open_records([str(run), f"{run}:base"])
    assert (final.name, base.name) == ("run:tuned", "run:base")
    assert final.digest == "digest of tuned"
    assert final.settings == {"lm_eval": "0.4.13", "split": "selection", "chat": True, "limit": 60}
    assert final.tasks["heldout_bits_per_byte"].primary == "bits_per_byte"
    assert final.tasks["arithmetic_level_1"].examples == "shown before arithmetic_level_1"
    lines = compare([str(run), f"{run}:base"], [], None)
    assert any(
        line.startswith("run:base") and line.endswith("better") and "arithmetic_level_1" in line for line in lines
    )
    with pytest.raises(InputError, match=r"evaluates no model 'bas' .did you mean 'base'\?.; it has: base, tuned"):
        open_record(f"{run}:bas")
    with pytest.raises(InputError, match=r"evaluates 2 models: say which with .*:MODEL, one of base, tuned"):
        open_record(str(run / "artifacts" / "evaluate"))


def test_fewer_bits_are_better_and_no_mean_mixes_them_with_rates(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {"base": 0.3, "tuned": 0.7})
    lines = compare([str(run), f"{run}:base"], [], tmp_path / "all.json")
    pair = json.loads((tmp_path / "all.json").read_text())["pairs"][0]
    bits = next(row for row in pair["differences"] if row["metric"] == "bits_per_byte")
    assert bits["difference"]["value"] < 0
    assert bits["verdict"] == "better"
    assert any("heldout_bits_per_byte is no rate" in line for line in lines)


def test_an_evaluation_of_another_version_gets_the_intervals_of_this_one(tmp_path: Path) -> None:
    """Its files are what they were; it stated the interval of single items, where sums come in two orders."""
    task = open_record(str(run_with(tmp_path / "run", {"tuned": 0.7}))).tasks["arithmetic_level_1"]
    assert task.items is not None
    right = [item["correct"] for item in task.items]
    clustered = clustered_rate(right, [tuple(item["operands"]) for item in task.items])
    assert task.scores["exact_match"] == clustered != wilson(sum(right), len(right))


def test_an_altered_evaluation_is_found_by_its_hash(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {"tuned": 0.7})
    file = run / "artifacts" / "evaluate" / "items" / "tuned.arithmetic_level_1.jsonl"
    file.write_text(file.read_text().replace('"correct": true', '"correct": false', 1))
    with pytest.raises(CorruptionError, match=r"tuned\.arithmetic_level_1\.jsonl"):
        open_record(str(run))


def test_a_page_of_runs_gets_blocks_or_the_reason(tmp_path: Path) -> None:
    runs = {name: run_with(tmp_path / name, {"tuned": share}) for name, share in (("one", 0.3), ("two", 0.8))}
    blocks = run_blocks(runs)
    assert blocks[0]["title"] == "Scores"
    assert [row["model"] for row in blocks[0]["rows"]] == ["one", "two"]
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "recipe.yaml").write_text("name: three\n")
    (reason,) = run_blocks({**runs, "three": tmp_path / "three"})
    assert "holds 0 evaluations; run it to its end" in reason["text"]


def test_runs_with_several_evaluations_are_paired_by_the_name_of_the_evaluation(tmp_path: Path) -> None:
    """Of `one` and `two` a third evaluation did not score the final model; `three` has the usual one alone."""
    for name, share in (("one", 0.3), ("two", 0.8)):
        run_with(tmp_path / name, {"base": 0.5}, "a_first_look")  # before the others by name, without the final model
        run_with(tmp_path / name, {"tuned": share}, "evaluate_benchmarks")
        run_with(tmp_path / name, {"base": 0.5, "tuned": share})
    run_with(tmp_path / "three", {"tuned": 0.6})
    run_with(tmp_path / "two", {"tuned": 0.1}, "evaluate_once_more")
    blocks = run_blocks({name: tmp_path / name for name in ("one", "two", "three")})
    scores = {block["title"]: block["rows"] for block in blocks if block.get("title", "").endswith(": Scores")}
    assert {title: [row["model"] for row in rows] for title, rows in scores.items()} == {
        "evaluate: Scores": ["one", "two", "three"],
        "evaluate_benchmarks: Scores": ["one", "two"],
    }
    paired = [row for block in blocks if block.get("title", "").endswith("against the others") for row in block["rows"]]
    assert {row["for : against"] for row in paired if row["on"] == "arithmetic_level_1"} != {"not paired"}
    said = [block["text"] for block in blocks if block["kind"] == "paragraph"]
    assert "Evaluation evaluate_benchmarks (not in three):" in said
    assert "Evaluation evaluate_once_more (not in one, three):" in said
    assert "Only two has it: nothing to compare." in said
    two = {name: tmp_path / name for name in ("one", "three")}
    assert [block["title"] for block in run_blocks(two) if block.get("title", "").endswith("Scores")] == [
        "evaluate: Scores"
    ]


def test_of_several_evaluations_the_one_that_scored_the_model_is_taken(tmp_path: Path) -> None:
    run_with(tmp_path / "run", {"base": 0.4}, "a_first_look")
    run = run_with(tmp_path / "run", {"base": 0.2, "tuned": 0.7})
    assert "artifacts/evaluate" in open_record(str(run)).origin
    with pytest.raises(InputError, match=r"holds 2 evaluations of base; name one of .*a_first_look, .*evaluate"):
        open_record(f"{run}:base")
    with pytest.raises(InputError, match="holds 2 evaluations; name one of"):
        open_record(f"{run}:other")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.json", "there is no file, run or published model 'nowhere.json'"),
        ("a=", "'a=' names nothing"),
        (".", "holds nothing to compare"),
    ],
)
def test_a_source_that_is_nothing_is_refused(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        open_record(source)


def test_the_command_writes_what_it_prints_and_refuses_a_bad_out_first(result: Path, tmp_path: Path) -> None:
    other = document("b", {"arc_easy": items("arc_easy", [True] * 40), "piqa": items("piqa", answers(30, 0.6, 2))})
    write(tmp_path / "b.json", other)
    sources = [str(tmp_path / "b.json"), str(result)]
    out = tmp_path / "out.json"
    lines = compare(sources, [], out)
    written = json.loads(out.read_text())
    assert [record["name"] for record in written["records"]] == ["b", "a"]
    refused = [claim for claim in written["claims"] if not claim["allowed"]]
    assert all(any(claim["sentence"][:40] in line for line in lines) for claim in refused)
    with pytest.raises(InputError, match="name a file in a folder that exists"):
        compare(sources, [], tmp_path)
