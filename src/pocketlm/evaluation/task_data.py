"""Task data: which local files the tasks read, and the folder that lm-evaluation-harness reads them from.

The shipped YAML (`tasks/`) names no path. `write_task_folder` writes each task's items as JSONL and a YAML that names
that file, so that the same folder serves our adapter and the stock command:

    lm_eval --model hf --model_args pretrained=DIR,dtype=float32 --include_path FOLDER --tasks last_word_cloze
    lm_eval ... --tasks arithmetic_level_1,short_instructions --apply_chat_template
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import InputError

BITS_PER_BYTE = "heldout_bits_per_byte"
CLOZE = "last_word_cloze"
INSTRUCTIONS = "short_instructions"
ARITHMETIC = "arithmetic_level"

FILES = {BITS_PER_BYTE: "heldout.parquet", CLOZE: "cloze.jsonl", ARITHMETIC: "report.jsonl"}
FILES |= {INSTRUCTIONS: "instructions_report.jsonl"}
"""Task or task family -> the file that holds its items."""

FIELDS = {
    BITS_PER_BYTE: ("id", "text"),
    CLOZE: ("id", "context", "target"),
    ARITHMETIC: ("id", "level", "prompt", "answer", "operands"),
    INSTRUCTIONS: ("id", "level", "prompt", "answer"),
}
"""What of each item the harness reads; more columns in a file do not change its items' hashes."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TaskData:
    """Task name -> items, in the order of the tasks' files."""

    rows: Mapping[str, Sequence[Row]]

    def select(self, names: Iterable[str]) -> TaskData:
        """Only the named tasks. InputError with the nearest names when one is unknown or has no data here."""
        return TaskData({name: self._rows_of(name) for name in dict.fromkeys(names)})

    def _rows_of(self, name: str) -> Sequence[Row]:
        if name in self.rows:
            return self.rows[name]
        if name in FILES and name != ARITHMETIC:
            raise InputError(f"task {name} needs {FILES[name]}, which the data folder does not have")
        if name.startswith(f"{ARITHMETIC}_") and not any(other.startswith(ARITHMETIC) for other in self.rows):
            raise InputError(f"task {name} needs {FILES[ARITHMETIC]}, which the data folder does not have")
        near = difflib.get_close_matches(name, self.rows, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"there is no task {name!r}{hint} Tasks with data here: {', '.join(self.rows)}")


def family(task: str) -> str:
    """The name of the YAML that a task is made from."""
    return ARITHMETIC if task.startswith(f"{ARITHMETIC}_") else task


def uses_chat(task: str) -> bool:
    """Whether a task is asked in the chat form."""
    return family(task) in (ARITHMETIC, INSTRUCTIONS)


def read_task_data(files: Mapping[str, Path]) -> TaskData:
    """Read the items of every given family (a key of `FILES`); arithmetic becomes one task a level.

    Raises:
        InputError: a file is no such table, lacks a field, or holds no item; names file and row.
    """
    rows: dict[str, list[Row]] = {}
    for name in FILES:
        if name not in files:
            continue
        for number, item in enumerate(_read(files[name])):
            if missing := [field for field in FIELDS[name] if field not in item]:
                raise InputError(f"{files[name]}: row {number + 1} has no {missing[0]!r}, which task {name} reads")
            task = f"{ARITHMETIC}_{item['level']}" if name == ARITHMETIC else name
            rows.setdefault(task, []).append({field: item[field] for field in FIELDS[name]})
        if not any(family(task) == name for task in rows):
            raise InputError(f"{files[name]} holds no items; task {name} needs at least one")
    return TaskData(rows)


def find_files(folder: Path) -> dict[str, Path]:
    """The task files in a folder, its subfolders, or its `artifacts/` (a run).

    Raises:
        InputError: the folder is missing, holds none, or holds one of them twice.
    """
    if not folder.is_dir():
        raise InputError(f"--data {folder} is not a folder; give one that holds {', '.join(FILES.values())}")
    found = {}
    for name, file in FILES.items():
        places = [path for pattern in (file, f"*/{file}", f"artifacts/*/{file}") for path in folder.glob(pattern)]
        if len(places) > 1:
            listed = ", ".join(str(path) for path in sorted(places))
            raise InputError(f"{folder} holds {file} more than once ({listed}); give the folder of one of them")
        if places:
            found[name] = places[0]
    if not found:
        raise InputError(f"{folder} holds no task data; expected one or more of {', '.join(FILES.values())}")
    return found


def write_task_folder(folder: Path, data: TaskData, cache: Path | None = None) -> Path:
    """Write items and YAML of every task into `folder` (made when missing); returns the folder.

    Args:
        cache: where the harness's `datasets` library keeps its copies; its own default place when left out.
    """
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    for task, rows in data.rows.items():
        source = Path(__file__).parent / "tasks" / f"{family(task)}.yaml"
        definition = yaml.safe_load(source.read_text(encoding="utf-8"))
        file = (folder / f"{task}.jsonl").resolve()
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        definition["task"] = task
        definition["dataset_kwargs"] = {"data_files": {"test": str(file)}}
        if cache is not None:
            definition["dataset_kwargs"]["cache_dir"] = str(cache.resolve())
        text = yaml.safe_dump(definition, sort_keys=False, allow_unicode=True)
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
    return folder


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            return list(parquet.read_table(path).to_pylist())
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{path} is not a readable parquet file: {error}") from None
    rows: list[dict[str, Any]] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line[:40]!r} is no object")
            rows.append(row)
    except ValueError as error:
        raise InputError(f"{path}: line {len(rows) + 1} is not a JSON object in UTF-8: {error}") from None
    return rows
