"""Files of benchmarks: where they are found, and that nothing without a right answer is scored."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from pyarrow import Table, parquet

from pocketlm.errors import InputError
from pocketlm.evaluation.benchmarks.files import local_files, places
from pocketlm.evaluation.benchmarks.settings import BenchmarkFiles
from pocketlm.evaluation.benchmarks.tasks import BENCHMARKS, SIX, find_benchmarks, read_benchmark
from pocketlm.evaluation.scores import groups_of, missing_of_groups
from pocketlm.evaluation.task_data import TaskData, read_benchmarks
from tests.benchmark_files import benchmark_rows, write_benchmarks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_benchmarks(tmp_path / "data")


def test_all_benchmarks_are_found_and_read_as_they_stand(folder: Path) -> None:
    found = find_benchmarks(folder)
    assert list(found) == list(BENCHMARKS)
    data = read_benchmarks(TaskData({}), found)
    assert list(data.rows) == [*SIX, "gsm8k", "blimp_anaphor_number_agreement", "blimp_complex_NP_island"]
    for name in SIX:
        (path,) = (key for key in benchmark_rows() if key.partition("/")[0] == name)
        assert list(data.rows[name]) == benchmark_rows()[path]
    assert list(data.examples["gsm8k"]) == benchmark_rows()["gsm8k/train"]


@pytest.mark.parametrize("form", ["piqa/validation-00000.parquet", "piqa_validation.jsonl.gz", "piqa.json"])
def test_the_forms_of_a_file_hold_the_same_items(folder: Path, form: str) -> None:
    rows = benchmark_rows()["piqa/validation"]
    (folder / "piqa" / "validation.jsonl").unlink()
    path = folder / form
    if form.endswith("parquet"):
        parquet.write_table(Table.from_pylist(rows), path)
    elif form.endswith("gz"):
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    else:
        path.write_text(json.dumps(rows))
    scored, examples = find_benchmarks(folder)["piqa"]
    assert (scored, examples) == ([path], [])
    assert list(read_benchmark("piqa", scored).rows["piqa"]) == rows


def test_two_copies_are_refused(folder: Path) -> None:
    (folder / "piqa.jsonl").write_bytes((folder / "piqa" / "validation.jsonl").read_bytes())
    with pytest.raises(InputError, match="the validation split of piqa more than once"):
        find_benchmarks(folder)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("hellaswag", "label", ""),
        ("piqa", "label", -1),
        ("winogrande", "answer", ""),
        ("arc_easy", "answerKey", ""),
        ("gsm8k", "answer", "It has 3 stones."),
        ("lambada_openai", "text", ""),
    ],
)
def test_an_item_without_a_right_answer_is_refused_with_its_row(
    folder: Path, name: str, column: str, value: object
) -> None:
    scored, examples = find_benchmarks(folder)[name]
    rows = [json.loads(line) for line in scored[0].read_text().splitlines()]
    rows[1][column] = value
    scored[0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=f"row 2: task {name} has no right answer there"):
        read_benchmark(name, scored, examples)


@pytest.mark.parametrize(
    ("name", "column"),
    [("hellaswag", "ctx_b"), ("hellaswag", "endings"), ("blimp", "sentence_bad"), ("winogrande", "option2")],
)
def test_a_missing_column_is_named(folder: Path, name: str, column: str) -> None:
    scored, examples = find_benchmarks(folder)[name]
    rows = [json.loads(line) for line in scored[0].read_text().splitlines()]
    del rows[2][column]
    scored[0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=rf"row 3, column '{column}': is missing"):
        read_benchmark(name, scored, examples)


def test_other_files_that_cannot_be_scored(folder: Path) -> None:
    found = find_benchmarks(folder)
    with pytest.raises(InputError, match=r"shows 5 examples of the split 'train'.*0 are there.*gsm8k/train\.jsonl"):
        read_benchmark("gsm8k", found["gsm8k"][0])
    (file,), _ = found["blimp"]
    file.write_text(file.read_text().replace("complex_NP_island", "nothing_like_it"))
    with pytest.raises(InputError, match="the installed lm-evaluation-harness has no blimp/nothing_like_it"):
        read_benchmark("blimp", [file])
    (file,), _ = found["piqa"]
    file.write_text("")
    with pytest.raises(InputError, match="piqa: no rows"):
        read_benchmark("piqa", [file])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("piqa", {"label": "1"}, "column 'label': holds str, upstream has int"),
        ("winogrande", {"answer": 1}, "column 'answer': holds int, upstream has str"),
        ("arc_easy", {"answerKey": "A "}, "holds 'A ', which is none of the labels"),
        ("arc_easy", {"choices": {"text": ["a", ""], "label": ["A", "B"]}, "answerKey": "A"}, "none empty and no two"),
        ("arc_easy", {"choices": {"text": ["a", "b"], "label": ["A", "B", "C"]}, "answerKey": "C"}, "label"),
        ("hellaswag", {"endings": ["runs."], "label": "0"}, "two choices or more"),
        ("piqa", {"sol1": "Wait.", "sol2": "Wait. "}, "no two alike"),
        ("piqa", {"goal": "half \ud800 of a pair"}, "cannot be written as JSON in UTF-8"),
    ],
)
def test_what_upstream_would_score_wrongly_or_not_at_all_is_refused(
    folder: Path, name: str, change: dict[str, object], message: str
) -> None:
    (file,), examples = find_benchmarks(folder)[name]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1] |= change
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=message):
        read_benchmark(name, [file], examples)


def test_a_mean_needs_every_task() -> None:
    assert groups_of(SIX) == {"six_tasks": list(SIX)}
    assert missing_of_groups(SIX) == {}
    for absent in SIX:
        rest = [name for name in SIX if name != absent]
        assert groups_of(rest) == {}
        assert missing_of_groups(rest) == {"six_tasks": [absent]}
    assert missing_of_groups(SIX[:1]) == {}
    assert groups_of([f"blimp_{number}" for number in range(67)])["blimp"]
    assert groups_of([f"blimp_{number}" for number in range(66)]) == {}
    assert missing_of_groups([f"blimp_{number}" for number in range(66)]) == {"blimp": ["1 of its 67 phenomena"]}


def test_an_unknown_benchmark_of_a_recipe_is_refused_and_a_known_one_has_a_place_on_the_hub(folder: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate\.benchmarks\.mmlu: not a benchmark that is known here"):
        places("evaluate.benchmarks", {"mmlu": BenchmarkFiles()})
    for name in BENCHMARKS:
        assert all(place.startswith("hf://") for place in places("x", {name: BenchmarkFiles()})[name].values())
    files = BenchmarkFiles(path=str(folder / "gsm8k/test.jsonl"), examples=str(folder / "gsm8k/train.jsonl"))
    found = local_files("x", {"gsm8k": files})
    assert found == {"gsm8k": ([folder / "gsm8k/test.jsonl"], [folder / "gsm8k/train.jsonl"])}
