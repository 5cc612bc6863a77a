"""Benchmark files in upstream's columns become items; a bad file is named with its line and column."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from pocketlm.data.contamination.benchmarks import HUB_FILES, READERS, Columns, load_benchmark
from pocketlm.data.contamination.contamination_index import Item
from pocketlm.data.contamination.contamination_settings import BenchmarkSettings, ContaminationSettings
from pocketlm.errors import InputError

CHOICES = {"text": ["a red fox of the hills", "snow"], "label": ["A", "B"]}
ARC = {"id": "x1", "question": "What hunts mice in the open field at dawn?", "choices": CHOICES, "answerKey": "A"}
ROWS: dict[str, dict[str, Any]] = {
    "arc_challenge": ARC,
    "arc_easy": ARC,
    "hellaswag": {
        "ctx": "[header] Baking [title] Knead the dough until quite smooth. he",
        "endings": ["[step] stops.", "goes."],
        "label": "1",
    },
    "piqa": {"goal": "boil an egg", "sol1": "heat water", "sol2": "heat sand", "label": 0},
    "winogrande": {"sentence": "Ann met Bea, _ waved.", "option1": "Ann", "option2": "Bea", "answer": "2"},
    "lambada_openai": {"text": "He looked at her and said to Anna"},
    "gsm8k": {"question": "How many are 3 and 4?", "answer": "It is 3+4=<<3+4=7>>7.\n#### 7"},
    "blimp": {
        "sentence_good": "Ann sees herself.",
        "sentence_bad": "Ann sees itself.",
        "UID": "anaphor",
        "pairID": "0",
    },
}
RECORDS = {
    "arc_challenge": (
        ARC["question"],
        f"{ARC['question']} a red fox of the hills",
        f"{ARC['question']} snow",
    ),
    "hellaswag": tuple(f"Baking. Knead the dough until quite smooth. he{end}" for end in ("", " stops.", " goes.")),
    "piqa": ("boil an egg", "boil an egg heat water", "boil an egg heat sand", "boil an egg heat water heat sand"),
    "winogrande": ("Ann met Bea, _ waved.", "Ann met Bea, Ann waved.", "Ann met Bea, Bea waved."),
    "lambada_openai": ("He looked at her and said to", "He looked at her and said to Anna"),
    "gsm8k": ("How many are 3 and 4?", "How many are 3 and 4? It is 3+4=7.\n7"),
    "blimp": ("Ann sees herself.", "Ann sees itself."),
}
ANSWERS = {"arc_challenge": CHOICES["text"][0], "hellaswag": "goes.", "piqa": "heat water", "winogrande": "Bea"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_known_benchmark_has_a_reader_and_a_place_on_the_hub() -> None:
    assert set(READERS) == set(HUB_FILES) == set(ROWS)


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_question_question_with_choices_and_question_with_answer(name: str, tmp_path: Path) -> None:
    (item,) = load_benchmark(name, [write(tmp_path / "b.jsonl", ROWS[name])])
    records = tuple(" ".join(record.split(" ")).replace("  ", " ") for record in item.records)
    assert records == tuple(record.replace("  ", " ") for record in RECORDS[name])
    assert item.kind == name
    assert item.literal == (name == "blimp")
    assert item.id == ROWS[name].get("id", "1")
    assert item.answer == ANSWERS.get(name, item.answer)


def test_all_formats_give_the_same_items(tmp_path: Path) -> None:
    rows = [{**ARC, "id": str(number)} for number in range(3)]
    plain = write(tmp_path / "rows.jsonl", *rows)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "rows.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    expected = load_benchmark("arc_easy", [plain])
    assert len(expected) == 3
    for name in ("rows.jsonl.gz", "rows.jsonl.zst", "rows.json", "rows.parquet"):
        assert load_benchmark("arc_easy", [tmp_path / name]) == expected


def test_a_users_own_file_by_declared_columns(tmp_path: Path) -> None:
    row = {"prompt": "Name it", "options": ["one", "two"], "right": 1}
    path = write(tmp_path / "own.jsonl", row)
    (item,) = load_benchmark("mine", [path], Columns("prompt", "options", "right"))
    records = ("Name it", "Name it one", "Name it two", "Name it one two")
    assert item == Item("mine", "1", records, ("one", "two"), "two")
    (item,) = load_benchmark("mine", [write(path, {"q": "Name it", "a": "three"})], Columns("q", None, "a"))
    assert item.records == ("Name it", "Name it three")


def test_labels_that_are_not_published_leave_no_answer(tmp_path: Path) -> None:
    (item,) = load_benchmark("piqa", [write(tmp_path / "test.jsonl", {**ROWS["piqa"], "label": -1})])
    assert item.answer == ""


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (
            "piqa",
            {"sol1": "a", "sol2": "b", "label": 0},
            r"jsonl, row 2, column 'goal': is missing; the row has sol1",
        ),
        ("piqa", {**ROWS["piqa"], "goal": 7}, r"row 2, column 'goal': holds int, text was expected"),
        ("piqa", {**ROWS["piqa"], "label": 4}, r"row 2, column 'label': holds '4', one of 0, 1"),
        ("arc_easy", {**ARC, "choices": ["a"]}, r"row 2, column 'text': is missing"),
        ("arc_easy", {**ARC, "choices": {"text": "a", "label": []}}, r"column 'choices.text': holds no list of texts"),
        ("winogrande", {**ROWS["winogrande"], "sentence": "no gap"}, r"column 'sentence': holds no single gap"),
        ("gsm8k", ["a list"], r"row 2: an object with columns"),
    ],
)
def test_a_bad_row_is_named(name: str, row: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_benchmark(name, [write(tmp_path / "b.jsonl", ROWS[name], row)])


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text('{"question": \n', encoding="utf-8")
    with pytest.raises(InputError, match=r"b\.jsonl, row 1: not JSON"):
        load_benchmark("gsm8k", [path])
    cut = tmp_path / "b.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(ROWS["gsm8k"]).encode() * 99)[:-20])
    with pytest.raises(InputError, match=r"b\.jsonl\.gz: unreadable"):
        load_benchmark("gsm8k", [cut])
    cut = tmp_path / "b.jsonl.zst"  # its end is a whole line: only the frame tells that rows are missing
    many = "".join(json.dumps({**ROWS["gsm8k"], "id": number}) + "\n" for number in range(20_000)).encode()
    cut.write_bytes(zstandard.ZstdCompressor().compress(many)[:-9])
    with pytest.raises(InputError, match=r"b\.jsonl\.zst: unreadable"):
        load_benchmark("gsm8k", [cut])
    one = tmp_path / "b.json"
    one.write_text(json.dumps(ROWS["gsm8k"]), encoding="utf-8")
    with pytest.raises(InputError, match=r"b\.json: a list of objects was expected"):
        load_benchmark("gsm8k", [one])
    (tmp_path / "b.csv").write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match="unknown format"):
        load_benchmark("gsm8k", [tmp_path / "b.csv"])
    with pytest.raises(InputError, match="no rows"):
        load_benchmark("gsm8k", [])
    with pytest.raises(InputError, match="Declare its question column"):
        load_benchmark("mine", [path])


def test_settings_refuse_what_cannot_work() -> None:
    with pytest.raises(ValidationError, match="name the column of the question"):
        BenchmarkSettings(path="x.jsonl", answer="a")
    with pytest.raises(ValidationError, match="could never decide"):
        ContaminationSettings(threshold=0.3)
    assert BenchmarkSettings(path="hf://datasets/a/b").path == "hf://datasets/a/b"
    assert Path(str(BenchmarkSettings(path="mine.jsonl").path)).is_absolute()
