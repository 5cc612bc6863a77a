"""Task data: reading, selecting by name, and the messages for what is missing or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pocketlm.errors import InputError
from pocketlm.evaluation.command import Order, evaluate
from pocketlm.evaluation.task_data import find_files, read_task_data, uses_chat, write_task_folder
from tests.evaluation_world import run_folder, write_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def test_arithmetic_becomes_one_task_a_level(folder: Path) -> None:
    data = read_task_data(find_files(folder))
    sizes = {name: len(rows) for name, rows in data.rows.items()}
    assert sizes == {
        "heldout_bits_per_byte": 40,
        "last_word_cloze": 20,
        "arithmetic_level_1": 16,
        "arithmetic_level_2": 20,
        "short_instructions": 4,
    }
    assert [name for name in sizes if uses_chat(name)] == [
        "arithmetic_level_1",
        "arithmetic_level_2",
        "short_instructions",
    ]


def test_the_task_folder_holds_the_items_as_they_are(folder: Path, tmp_path: Path) -> None:
    data = read_task_data(find_files(folder))
    written = write_task_folder(tmp_path / "tasks", data)
    for task, rows in data.rows.items():
        definition = yaml.safe_load((written / f"{task}.yaml").read_text())
        assert definition["task"] == task
        file = Path(definition["dataset_kwargs"]["data_files"]["test"])
        assert [json.loads(line) for line in file.read_text().splitlines()] == list(rows)


def test_an_unknown_task_gets_the_nearest_names(folder: Path) -> None:
    data = read_task_data(find_files(folder))
    with pytest.raises(InputError, match=r"no task 'last_word_close'; did you mean last_word_cloze\?"):
        data.select(["last_word_close"])
    with pytest.raises(InputError, match=r"no task 'arithmetic_level_9'.*Tasks with data here: heldout_bits_per_byte"):
        data.select(["arithmetic_level_9"])


def test_a_task_whose_file_is_missing_names_the_file(folder: Path) -> None:
    (folder / "cloze.jsonl").unlink()
    (folder / "report.jsonl").unlink()
    data = read_task_data(find_files(folder))
    with pytest.raises(InputError, match=r"task last_word_cloze needs cloze\.jsonl"):
        data.select(["last_word_cloze"])
    with pytest.raises(InputError, match=r"task arithmetic_level_1 needs report\.jsonl"):
        data.select(["arithmetic_level_1"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cloze.jsonl", b'{"id": "a", "context": "x", "target": "y"}\n{"id": "b"}\n', "row 2 has no 'context'"),
        ("cloze.jsonl", b'{"id": "a", "context": "x", "target": "y"}\nnot json\n', "line 2 is not a JSON object"),
        ("cloze.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("cloze.jsonl", b"\xff\xfe\n", "not a JSON object in UTF-8"),
        ("cloze.jsonl", b"", "holds no items; task last_word_cloze needs at least one"),
        ("cloze.jsonl", b'{"id": "a", "context": null, "target": "y"}\n', "row 1 has no text in 'context'"),
        ("cloze.jsonl", b'{"id": "a", "context": " ", "target": "y"}\n', "row 1 has no text in 'context'"),
        ("cloze.jsonl", b'{"id": "a", "context": "\\ud800", "target": "y"}\n', "cannot be written as JSON in UTF-8"),
        ("heldout.parquet", b"PAR1 but not really", "not a readable parquet file"),
    ],
)
def test_a_damaged_file_is_named_with_the_row(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_task_data(find_files(folder))
    assert str(folder / name) in str(caught.value)


def test_a_folder_without_data_or_with_two_copies_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        find_files(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert find_files(tmp_path / "empty") == {}
    with pytest.raises(InputError, match=r"holds no task data; .*heldout\.parquet.*hellaswag/val"):
        evaluate(Order(run_folder(tmp_path), ["piqa"], str(tmp_path / "empty")), tmp_path / "o.json")
    (folder / "again").mkdir()
    (folder / "again" / "cloze.jsonl").write_bytes((folder / "cloze.jsonl").read_bytes())
    with pytest.raises(InputError, match=r"cloze\.jsonl more than once"):
        find_files(folder)


def test_line_breaks_of_unicode_do_not_end_a_row(folder: Path) -> None:
    row = {"id": "a", "context": "one\u2028two\u0085three", "target": "y"}
    (folder / "cloze.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(read_task_data(find_files(folder)).rows["last_word_cloze"]) == [row]
