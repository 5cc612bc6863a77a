"""Task data: which local files the tasks read, and the folder that lm-evaluation-harness reads them from.

The shipped YAML (`tasks/`) names no path, and upstream's (`benchmark_tasks`) one on the hub. `write_task_folder` writes
each task's items as JSONL and a YAML that names that file, so that the same folder serves our adapter and the stock
command:

    lm_eval --model hf --model_args pretrained=DIR,dtype=float32 --include_path FOLDER --tasks last_word_cloze
    lm_eval ... --tasks arithmetic_level_1,short_instructions --apply_chat_template
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pocketlm.data.contamination.benchmarks import LETTERED
from pocketlm.errors import InputError
from pocketlm.evaluation.benchmarks.tasks import (
    BENCHMARKS,
    BLIMP,
    LETTERS,
    SIX,
    benchmark_of,
    definition,
    lettered,
    read_benchmark,
    require_json,
)
from pocketlm.pipeline.storage import canonical_json, sha256_text

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

GROUPS = ("all", "six", "arithmetic", BLIMP)
"""Names of several tasks: everything with data here, the six of the L20-Edu paper, all levels, all phenomena."""

TEXTS = ("text", "context", "target", "prompt", "answer")
"""Fields that must hold some text."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TaskData:
    """What is asked.

    Attributes:
        rows: task name -> items, in the order of the tasks' files.
        examples: benchmark -> the rows that its few-shot examples are drawn from.
        more: other tasks that could be asked here, for messages.
    """

    rows: Mapping[str, Sequence[Row]]
    examples: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    more: Sequence[str] = ()

    def example_hashes(self) -> dict[str, str]:
        """Task -> sha256 of the rows that its few-shot examples are drawn from: by other ones prompts differ."""
        return {name: sha256_text(canonical_json(list(rows))) for name, rows in self.examples.items()}

    def select(self, names: Iterable[str]) -> TaskData:
        """Only the named tasks; a name of `GROUPS` stands for its tasks, `NAME_letters` has the rows of NAME.

        Raises:
            InputError: a task is unknown or has no data here; with the nearest names.
        """
        wanted = [task for name in names for task in self._tasks_of(name)]
        return replace(self, rows={task: self._rows_of(task) for task in dict.fromkeys(wanted)})

    def of_harness(self) -> TaskData:
        """What lm-evaluation-harness is to load: the tasks that it knows, lettered ones as the benchmark itself."""
        return replace(self, rows={lettered(task) or task: rows for task, rows in self.rows.items()})

    def _tasks_of(self, name: str) -> list[str]:
        if name == "six":
            return list(SIX)
        if name == "all":
            return list(self.rows)
        return [task for task in self.rows if name in GROUPS and task.startswith(f"{name}_")] or [name]

    def _rows_of(self, name: str) -> Sequence[Row]:
        source = lettered(name) or name
        if source in self.rows:
            return self.rows[source]
        if (benchmark := benchmark_of(name)) is not None:
            split = BENCHMARKS[benchmark].split
            raise InputError(
                f"task {name} has no data here; put its file into the data folder as {benchmark}/{split}.jsonl "
                "(upstream's columns), or take it from the hub with --data hub"
            )
        if name in FILES and name != ARITHMETIC:
            raise InputError(f"task {name} needs {FILES[name]}, which the data folder does not have")
        if name.startswith(f"{ARITHMETIC}_") and not any(other.startswith(ARITHMETIC) for other in self.rows):
            raise InputError(f"task {name} needs {FILES[ARITHMETIC]}, which the data folder does not have")
        known = [*self.rows, *GROUPS, *BENCHMARKS, *(f"{one}{LETTERS}" for one in LETTERED), *self.more]
        near = difflib.get_close_matches(name, dict.fromkeys(known), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        here = ", ".join(dict.fromkeys([*self.rows, *self.more]))
        raise InputError(f"there is no task {name!r}{hint} Tasks with data here: {here}")


def family(task: str) -> str:
    """The name of the YAML that a task is made from."""
    return ARITHMETIC if task.startswith(f"{ARITHMETIC}_") else task


def uses_chat(task: str) -> bool:
    """Whether a task of ours is always asked in the chat form; benchmarks are when the caller wants it."""
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
            _require_texts(files[name], number + 1, name, item)
            task = f"{ARITHMETIC}_{item['level']}" if name == ARITHMETIC else name
            rows.setdefault(task, []).append({field: item[field] for field in FIELDS[name]})
        if not any(family(task) == name for task in rows):
            raise InputError(f"{files[name]} holds no items; task {name} needs at least one")
    return TaskData(rows)


def _require_texts(file: Path, row: int, task: str, item: Row) -> None:
    require_json(f"{file}, row {row}", {field: item[field] for field in FIELDS[task]})
    for field_name in TEXTS:
        if field_name in FIELDS[task] and not (isinstance(item[field_name], str) and item[field_name].strip()):
            raise InputError(f"{file}: row {row} has no text in {field_name!r}, which task {task} reads")


def read_benchmarks(data: TaskData, files: Mapping[str, tuple[Sequence[Path], Sequence[Path]]]) -> TaskData:
    """`data` with the tasks of benchmarks added: benchmark -> (files that are scored, files of examples).

    Raises:
        InputError: see `read_benchmark`.
    """
    rows, examples = dict(data.rows), dict(data.examples)
    for name, (scored, shown) in files.items():
        items = read_benchmark(name, scored, shown)
        rows |= items.rows
        if items.examples:
            examples[name] = items.examples
    return replace(data, rows=rows, examples=examples)


def find_files(folder: Path) -> dict[str, Path]:
    """The files of our own tasks in a folder, its subfolders, or its `artifacts/` (a run).

    Raises:
        InputError: the folder is missing, or holds one of them twice.
    """
    if not folder.is_dir():
        raise InputError(f"--data {folder} is not a folder; give one that holds the tasks' files, a run, or `hub`")
    found = {}
    for name, file in FILES.items():
        places = [path for pattern in (file, f"*/{file}", f"artifacts/*/{file}") for path in folder.glob(pattern)]
        if len(places) > 1:
            listed = ", ".join(str(path) for path in sorted(places))
            raise InputError(f"{folder} holds {file} more than once ({listed}); give the folder of one of them")
        if places:
            found[name] = places[0]
    return found


def write_task_folder(folder: Path, data: TaskData, cache: Path | None = None) -> Path:
    """Write items and YAML of every task into `folder` (made when missing); returns the folder.

    Args:
        cache: where the harness's `datasets` library keeps its copies; its own default place when left out.
    """
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    examples = {name: _write_rows(folder / f"{name}.examples.jsonl", rows) for name, rows in data.examples.items()}
    for task, rows in data.rows.items():
        file = _write_rows(folder / f"{task}.jsonl", rows)
        benchmark = benchmark_of(task)
        if benchmark is not None:
            described = definition(task, file, examples.get(benchmark), cache)
        else:
            described = _own_definition(task, file, cache)
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
    return folder


def _own_definition(task: str, file: Path, cache: Path | None) -> dict[str, Any]:
    import yaml

    source = Path(__file__).parent / "tasks" / f"{family(task)}.yaml"
    described: dict[str, Any] = yaml.safe_load(source.read_text(encoding="utf-8"))
    described["task"] = task
    described["dataset_kwargs"] = {"data_files": {"test": str(file)}}
    if cache is not None:
        described["dataset_kwargs"]["cache_dir"] = str(cache.resolve())
    return described


def _write_rows(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path.resolve()


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
        # Not at every line break that Unicode knows: JSON may hold those.
        for line in path.read_text(encoding="utf-8").split("\n"):
            if not line:
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line[:40]!r} is no object")
            rows.append(row)
    except ValueError as error:
        raise InputError(f"{path}: line {len(rows) + 1} is not a JSON object in UTF-8: {error}") from None
    return rows
