"""Benchmarks that training text must not hold: files in upstream's column names, read as evaluation items.

    items = load_benchmark("hellaswag", [Path("validation.jsonl")])

Each item gives its question alone, its question with each choice, and its question with the right answer. WinoGrande
has no question beside its choices: its records are the sentence with a gap and the two completions. LAMBADA's question
is the passage without its last word. GSM8K's rationale loses its calculator notes (`<<16-3=13>>`), HellaSwag its
WikiHow marks (`[title]`), as the published evaluation does it. A pair of BLiMP is its two sentences, of which each word
counts: they are short and made of few words.

Formats: .jsonl, .jsonl.gz, .jsonl.zst, .json (a list), .parquet. Not covered: few-shot prompts, and explanations that
a benchmark keeps in columns which are not scored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.data.contamination.contamination_index import Item
from pocketlm.errors import InputError

HUB_FILES: Mapping[str, str] = {
    "arc_challenge": "hf://datasets/allenai/ai2_arc/ARC-Challenge/test-*.parquet",
    "arc_easy": "hf://datasets/allenai/ai2_arc/ARC-Easy/test-*.parquet",
    "hellaswag": "hf://datasets/Rowan/hellaswag/data/validation-*.parquet",
    "piqa": "hf://datasets/baber/piqa/**/validation*.parquet",
    "winogrande": "hf://datasets/allenai/winogrande/winogrande_xl/validation-*.parquet",
    "lambada_openai": "hf://datasets/EleutherAI/lambada_openai/default/test-*.parquet",
    "gsm8k": "hf://datasets/openai/gsm8k/main/test-*.parquet",
    "blimp": "hf://datasets/nyu-mll/blimp/*/train-*.parquet",
}
"""Where the split that is scored lies on the hub, under the names that lm-evaluation-harness gives the tasks."""

CALCULATOR_NOTE = re.compile(r"<<[^<>\n]*>>")
WIKIHOW_MARK = re.compile(r"\[.*?\]")
SHORT_QUESTION = 8
"""A question of fewer words is told by its choices: all of them together are a record too."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")


@dataclass(frozen=True)
class Columns:
    """Which columns of a user's own file hold what; `choices` and `answer` may be missing."""

    question: str
    choices: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of a benchmark file, with the place that messages name."""

    place: str
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """The text in `column`. InputError when it is missing or no text."""
        value = self._value(column)
        if not isinstance(value, str):
            raise self.error(column, f"holds {type(value).__name__}, text was expected")
        return value

    def texts(self, *path: str) -> tuple[str, ...]:
        """The list of texts in a column or, with two names, in a field of a column."""
        value = self._value(*path)
        if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
            raise self.error(".".join(path), "holds no list of texts")
        return tuple(value)

    def choice(self, column: str, names: Sequence[str]) -> int | None:
        """Which of the `names` the column holds, as text or number; None for the label of an unpublished test split."""
        value = str(self._value(column)).strip()
        if value in ("", "-1"):
            return None
        if value not in names:
            raise self.error(column, f"holds '{value}', one of {', '.join(names)} was expected")
        return list(names).index(value)

    def error(self, column: str, what: str) -> InputError:
        """A message that names file, line and column."""
        return InputError(f"{self.place}, column '{column}': {what}. Mend the file, or name the right columns.")

    def _value(self, *path: str) -> Any:
        value: Any = self.values
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                known = ", ".join(value) if isinstance(value, Mapping) else type(value).__name__
                raise self.error(name, f"is missing; the row has {known}")
            value = value[name]
        return value


def load_benchmark(name: str, paths: Sequence[Path], columns: Columns | None = None) -> list[Item]:
    """Evaluation items of one benchmark.

    Args:
        name: a key of `HUB_FILES`, or any name of the user's with `columns`.
        paths: its files on this machine, in a fixed order.
        columns: where a file of the user's keeps question, choices and answer.

    Returns:
        Items of kind `name`; an item is called by the row's `id`, else by its row number (after its file's,
        if there are several).

    Raises:
        InputError: an unknown benchmark without columns, an unreadable file, a missing or wrong column (with the line).
    """
    if columns is None and name not in READERS:
        raise InputError(f"benchmark '{name}': not one of {', '.join(READERS)}. Declare its question column.")
    read = READERS[name] if columns is None else _declared(columns)
    return [read(row).item(name, row_id) for row_id, row in _named_rows(name, paths)]


@dataclass(frozen=True)
class LetteredQuestion:
    """A question that can be asked with lettered options, and which of them is right."""

    name: str
    question: str
    choices: tuple[str, ...]
    gold: int


def lettered_questions(name: str, rows: Sequence[Mapping[str, Any]]) -> list[LetteredQuestion]:
    """The questions of a benchmark of `LETTERED`, named by their `id`, else by their number.

    Args:
        rows: in upstream's columns.

    Raises:
        InputError: a missing or wrong column; a row with fewer than two options or without a right one.
    """
    questions = []
    for number, values in enumerate(rows, 1):
        row_id, row = str(values.get("id", number)), Row(f"benchmark {name}, row {number}", values)
        parts = READERS[name](row)
        if len(parts.choices) < 2 or parts.answer not in parts.choices:
            raise InputError(f"{row.place}: two options or more and the right one were expected. Mend or drop the row.")
        gold = parts.choices.index(parts.answer)
        questions.append(LetteredQuestion(row_id, parts.question, parts.choices, gold))
    return questions


def _named_rows(name: str, paths: Sequence[Path]) -> list[tuple[str, Row]]:
    named = []
    for place, path in enumerate(paths):
        for number, row in benchmark_rows(path):
            by_place = f"{place}:{number}" if len(paths) > 1 else str(number)
            row_id = row.values.get("id")
            named.append((by_place if row_id is None else str(row_id), row))
    if not named:
        raise InputError(f"benchmark '{name}': no rows in {', '.join(map(str, paths)) or 'no file'}.")
    return named


@dataclass(frozen=True)
class _Parts:
    """A question, its choices, which of them is right, or an answer that is no choice."""

    question: str
    choices: tuple[str, ...] = ()
    answer: str = ""
    whole: tuple[str, ...] = ()
    """Records with the choices filled in, where that is not question + choice."""
    literal: bool = False
    """Whether each word decides, however common it is."""

    def item(self, kind: str, name: str) -> Item:
        filled = self.whole or tuple(f"{self.question} {choice}" for choice in self.choices)
        if self.choices and not self.whole and len(self.question.split()) < SHORT_QUESTION:
            filled += (" ".join((self.question, *self.choices)),)
        if self.answer and self.answer not in self.choices:
            filled += (f"{self.question} {self.answer}",)
        return Item(kind, name, (self.question, *filled), self.choices, self.answer, self.literal)


def _arc(row: Row) -> _Parts:
    choices, labels = row.texts("choices", "text"), row.texts("choices", "label")
    if len(choices) != len(labels):
        raise row.error("choices", f"holds {len(choices)} texts and {len(labels)} labels")
    gold = row.choice("answerKey", labels)
    return _Parts(row.text("question"), choices, "" if gold is None else choices[gold])


def _hellaswag(row: Row) -> _Parts:
    choices = tuple(map(_without_marks, row.texts("endings")))
    gold = row.choice("label", [str(at) for at in range(len(choices))])
    return _Parts(_without_marks(row.text("ctx")), choices, "" if gold is None else choices[gold])


def _without_marks(text: str) -> str:
    return WIKIHOW_MARK.sub("", text.replace(" [title]", ". ")).strip()


def _piqa(row: Row) -> _Parts:
    choices = (row.text("sol1"), row.text("sol2"))
    gold = row.choice("label", ("0", "1"))
    return _Parts(row.text("goal"), choices, "" if gold is None else choices[gold])


def _winogrande(row: Row) -> _Parts:
    sentence, choices = row.text("sentence"), (row.text("option1"), row.text("option2"))
    if sentence.count("_") != 1:
        raise row.error("sentence", "holds no single gap '_'")
    gold = row.choice("answer", ("1", "2"))
    filled = tuple(sentence.replace("_", choice) for choice in choices)
    return _Parts(sentence, choices, "" if gold is None else choices[gold], filled)


def _lambada(row: Row) -> _Parts:
    context, _, last = row.text("text").rstrip().rpartition(" ")
    return _Parts(context, (), last)


def _gsm8k(row: Row) -> _Parts:
    return _Parts(row.text("question"), (), CALCULATOR_NOTE.sub("", row.text("answer")).replace("#### ", ""))


def _blimp(row: Row) -> _Parts:
    return _Parts(row.text("sentence_good"), whole=(row.text("sentence_bad"),), literal=True)


def _declared(columns: Columns) -> Callable[[Row], _Parts]:
    def read(row: Row) -> _Parts:
        choices = row.texts(columns.choices) if columns.choices else ()
        if not columns.answer:
            answer = ""
        elif choices and isinstance(row.values.get(columns.answer), int):
            gold = row.choice(columns.answer, [str(at) for at in range(len(choices))])
            answer = "" if gold is None else choices[gold]
        else:
            answer = row.text(columns.answer)
        return _Parts(row.text(columns.question), choices, answer)

    return read


READERS: Mapping[str, Callable[[Row], _Parts]] = {
    "arc_challenge": _arc,
    "arc_easy": _arc,
    "hellaswag": _hellaswag,
    "piqa": _piqa,
    "winogrande": _winogrande,
    "lambada_openai": _lambada,
    "gsm8k": _gsm8k,
    "blimp": _blimp,
}
LETTERED = ("arc_challenge", "arc_easy", "hellaswag", "piqa", "winogrande")
"""Benchmarks that are questions with options."""


def benchmark_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of one file, numbered from 1 (in line formats: the line)."""
    try:
        if path.name.endswith(".parquet"):
            import pyarrow.parquet as pq

            rows: Iterator[tuple[int, Any]] = enumerate(pq.read_table(path).to_pylist(), 1)
        elif path.name.endswith(".json"):
            rows = enumerate(_list(path), 1)
        elif path.name.endswith(SUFFIXES):
            rows = _lines(path)
        else:
            raise InputError(f"{path}: unknown format of a benchmark. Known are {' '.join(SUFFIXES)}.")
        for number, values in rows:
            place = f"{path}, row {number}"
            if not isinstance(values, dict):
                raise InputError(f"{place}: an object with columns was expected.")
            yield number, Row(place, values)
    except (OSError, ValueError, RecursionError) as error:  # pyarrow's faults are of these kinds
        raise InputError(f"{path}: unreadable benchmark file ({error}). Restore the file.") from error


def _list(path: Path) -> list[Any]:
    rows = json.loads(path.read_bytes())
    if not isinstance(rows, list):
        raise InputError(f"{path}: a list of objects was expected. Use .jsonl for one object a line.")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as stream:  # by the suffix; OSError when it ends too soon
        data = stream.read()
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, row {number}: not JSON ({error}). Mend the line.") from error
