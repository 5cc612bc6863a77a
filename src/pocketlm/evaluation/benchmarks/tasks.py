"""Published benchmarks as lm-evaluation-harness defines them, read from local files.

A definition is upstream's own YAML, included as it is installed, with nothing exchanged but the place of the data; so
prompts, targets, few-shot examples and metrics are upstream's. Files keep upstream's columns (`HUB_FILES` says where
the same data lies on the hub).

`NAME_letters` asks the questions of a benchmark with lettered options, by `letters.py`; no upstream knows such a task.

Not covered: benchmarks whose data is no table of items, and few-shot forms other than upstream's default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.data.contamination.benchmarks import LETTERED, READERS, SUFFIXES, Row, benchmark_rows
from pocketlm.errors import InputError
from pocketlm.pipeline.storage import canonical_json, sha256_text

SIX = ("arc_challenge", "arc_easy", "hellaswag", "lambada_openai", "piqa", "winogrande")
"""The tasks of the L20-Edu paper."""
BLIMP = "blimp"
BLIMP_PREFIX = f"{BLIMP}_"
LETTERS = "_letters"
"""Behind a benchmark's name: its questions with lettered options, in all cyclic orders."""
GIVEN = "given"
"""Their primary metric: right in the order of the file."""


@dataclass(frozen=True)
class Benchmark:
    """Where upstream defines a task, and what it needs.

    Attributes:
        upstream: YAML below the harness's `tasks`; `{part}` stands for a part's name.
        split: the split that is scored.
        primary: the metric by which an item counts as right, and that a mean over tasks takes.
        examples: the split that few-shot examples are drawn from. shots: how many of them a prompt shows.
        part: column whose values divide the file into tasks of their own.
    """

    upstream: str
    split: str
    primary: str
    examples: str | None = None
    shots: int = 0
    part: str | None = None


BENCHMARKS: Mapping[str, Benchmark] = {
    "arc_challenge": Benchmark("arc/arc_challenge.yaml", "test", "acc_norm"),
    "arc_easy": Benchmark("arc/arc_easy.yaml", "test", "acc_norm"),
    "hellaswag": Benchmark("hellaswag/hellaswag.yaml", "validation", "acc_norm"),
    "lambada_openai": Benchmark("lambada/lambada_openai.yaml", "test", "acc"),
    "piqa": Benchmark("piqa/piqa.yaml", "validation", "acc_norm"),
    "winogrande": Benchmark("winogrande/default.yaml", "validation", "acc"),
    "gsm8k": Benchmark("gsm8k/gsm8k.yaml", "test", "strict", examples="train", shots=5),
    BLIMP: Benchmark("blimp/{part}.yaml", "train", "acc", part="UID"),
}


def lettered(task: str) -> str | None:
    """The benchmark whose questions a task asks with lettered options; None of any other task."""
    name = task.removesuffix(LETTERS)
    return name if name != task and name in LETTERED else None


LABELS: Mapping[str, tuple[str, type]] = {
    "arc_challenge": ("answerKey", str),
    "arc_easy": ("answerKey", str),
    "piqa": ("label", int),
    "winogrande": ("answer", str),
}
"""Column of the right answer, and the type that upstream's definition compares."""
UNCHOSEN = ("gsm8k", "lambada_openai")
"""Benchmarks without choices."""


def benchmark_of(task: str) -> str | None:
    """The key of `BENCHMARKS` that a task belongs to, or None."""
    name = BLIMP if task.startswith(BLIMP_PREFIX) else lettered(task) or task
    return name if name in BENCHMARKS else None


def primary_metric(task: str) -> str:
    """The metric by which an item of a benchmark's task counts as right."""
    name = benchmark_of(task)
    if name is None:
        raise ValueError(f"{task} is no benchmark")
    return BENCHMARKS[name].primary if lettered(task) is None else GIVEN


@dataclass(frozen=True)
class BenchmarkItems:
    """A benchmark's items as they stand in its files: task -> rows in upstream's columns; few-shot examples."""

    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    examples: Sequence[Mapping[str, Any]] = ()


def read_benchmark(name: str, paths: Sequence[Path], examples: Sequence[Path] = ()) -> BenchmarkItems:
    """Read a benchmark's files; every row must have upstream's columns and a right answer.

    Args:
        name: a key of `BENCHMARKS`.
        paths: files of the split that is scored, in a fixed order.
        examples: files of the split that few-shot examples come from.

    Raises:
        InputError: an unreadable file, a missing column, a row without a right answer (both with the row), no rows, or
            no examples for a task that shows some.
    """
    benchmark = BENCHMARKS[name]
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for row in _rows(paths):
        _require_scorable(name, row)
        task = name if benchmark.part is None else f"{BLIMP_PREFIX}{row.text(benchmark.part)}"
        tasks.setdefault(task, []).append(row.values)
    if not tasks:
        raise InputError(f"benchmark {name}: no rows in {', '.join(map(str, paths))}; restore the file")
    for task in tasks:
        upstream_definition(task)
    shown = [row.values for row in _rows(examples)]
    if len(shown) < benchmark.shots:
        raise InputError(
            f"task {name} shows {benchmark.shots} examples of the split {benchmark.examples!r} before each question, "
            f"and {len(shown)} are there; put its file beside that of {benchmark.split!r}, as "
            f"{name}/{benchmark.examples}.jsonl"
        )
    return BenchmarkItems(tasks, shown)


def find_benchmarks(folder: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Benchmark -> (files that are scored, files of examples), for those that a folder holds.

    Looked for: `NAME/SPLIT.SUFFIX`, `NAME/SPLIT-*.SUFFIX`, `NAME_SPLIT.SUFFIX`, and `NAME.SUFFIX`, with the suffixes
    of `SUFFIXES`.

    Raises:
        InputError: a benchmark lies there in two forms.
    """
    found = {}
    for name, benchmark in BENCHMARKS.items():
        scored = _split_files(folder, name, benchmark.split, alone=True)
        if scored:
            examples = _split_files(folder, name, benchmark.examples) if benchmark.examples else []
            found[name] = (scored, examples)
    return found


def upstream_definition(task: str) -> Path:
    """Upstream's YAML of a task. InputError when the installed harness has none (a part of BLiMP that is unknown)."""
    import lm_eval

    name = benchmark_of(task)
    if name is None:
        raise ValueError(f"{task} is no benchmark")
    relative = BENCHMARKS[name].upstream.format(part=task.removeprefix(BLIMP_PREFIX))
    path = Path(lm_eval.__file__).parent / "tasks" / relative
    if not path.is_file():
        raise InputError(f"task {task}: the installed lm-evaluation-harness has no {relative}")
    return path


def definition(task: str, file: Path, examples: Path | None, cache: Path | None) -> dict[str, Any]:
    """The task's YAML: upstream's, included, with the data read from `file` (and `examples`)."""
    name = benchmark_of(task)
    if name is None:
        raise ValueError(f"{task} is no benchmark")
    benchmark = BENCHMARKS[name]
    files = {benchmark.split: str(file)}
    # Splits that upstream also has, and that are not here, must not be looked for.
    splits: dict[str, Any] = {"training_split": None, "validation_split": None, "test_split": None}
    splits["validation_split" if benchmark.split != "test" else "test_split"] = benchmark.split
    if benchmark.examples is not None:
        files[benchmark.examples] = str(examples)
        splits["training_split"] = splits["fewshot_split"] = benchmark.examples
    dataset: dict[str, Any] = {"data_files": files}
    if cache is not None:
        dataset["cache_dir"] = str(cache.resolve())
    return {
        "include": str(upstream_definition(task)),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": dataset,
        **splits,
    }


def content_hash(task: str, row: Mapping[str, Any]) -> str:
    """sha256 of what a benchmark's row asks: its question alone where it has one (so that twins under other ids, other
    column orders and additional columns do not matter), else, of BLiMP's pairs, the whole row."""
    name = benchmark_of(task)
    return sha256_text(canonical_json(row)) if name in (None, BLIMP) else indexed_hash(task, row)


def indexed_hash(task: str, row: Mapping[str, Any]) -> str:
    """sha256 by which the contamination scan knows a benchmark's row: of its question, or BLiMP's right sentence."""
    from pocketlm.data.contamination.contamination_index import question_hash

    name = benchmark_of(task)
    if name is None:
        raise ValueError(f"{task} is no benchmark")
    return question_hash(READERS[name](Row(name, row)).item(name, ""))


def _rows(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        for _, row in benchmark_rows(path):
            yield row


def _require_scorable(name: str, row: Row) -> None:
    """InputError for a row that upstream's definition cannot score: other columns or types, choices that are none, no
    right answer (a test split's labels)."""
    require_json(row.place, row.values)
    if name == BLIMP:
        choices: tuple[str, ...] = (row.text("sentence_good"), row.text("sentence_bad"))
    else:
        item = READERS[name](row).item(name, row.place)
        choices = item.choices
        if not item.answer or (name == "gsm8k" and not re.search(r"#### \S", row.text("answer"))):
            raise InputError(
                f"{row.place}: task {name} has no right answer there, so that nothing can be scored; give the split "
                "whose labels are published, or leave the row out"
            )
    if name == "hellaswag":
        row.text("ctx_a"), row.text("ctx_b"), row.text("activity_label")
    if (label := LABELS.get(name)) is not None and type(row.values[label[0]]) is not label[1]:
        found = type(row.values[label[0]]).__name__
        raise row.error(label[0], f"holds {found}, upstream has {label[1].__name__} there, by which it scores")
    if name.startswith("arc_") and row.values["answerKey"] not in row.texts("choices", "label"):
        raise row.error("answerKey", f"holds {row.values['answerKey']!r}, which is none of the labels")
    if name not in UNCHOSEN and (len({choice.strip() for choice in choices} - {""}) < max(2, len(choices))):
        raise InputError(f"{row.place}: task {name} needs two choices or more, none empty and no two alike")


def require_json(place: str, values: Mapping[str, Any]) -> None:
    """InputError for a row that JSON in UTF-8 cannot hold, in which the harness reads it."""
    try:
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # half a surrogate pair is a ValueError too
        raise InputError(f"{place}: cannot be written as JSON in UTF-8 ({error}); mend the file") from None


def _split_files(folder: Path, name: str, split: str, alone: bool = False) -> list[Path]:
    forms = [f"{name}/{split}", f"{name}/{split}-*", f"{name}_{split}", *([name] if alone else [])]
    found = {
        form: files
        for form in forms
        if (files := sorted(path for suffix in SUFFIXES for path in folder.glob(f"{form}{suffix}")))
    }
    places = list(found.values())
    if len(places) > 1 or (places and "-*" not in next(iter(found)) and len(places[0]) > 1):
        listed = ", ".join(str(path) for files in places for path in files)
        raise InputError(f"{folder} holds the {split} split of {name} more than once ({listed}); keep one of them")
    return places[0] if places else []
