"""The contamination gate for problems: which of them hold an item of a benchmark.

The same index and thresholds that judge training documents (`data.contamination`) look at question and solution: a
twin with other names and numbers counts as held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketlm.data.contamination.benchmarks import CALCULATOR_NOTE, load_benchmark
from pocketlm.data.contamination.contamination_settings import ContaminationSettings

CONTAMINATED = "holds an item of the benchmark"
"""Reason under which a problem is left out."""
LIMITS = ContaminationSettings()
SAME_FILE = 0.05
"""Share of questions that stand in a benchmark word for word from which a file is taken for the benchmark itself."""


class BenchmarkGate:
    """Looks for the items of a benchmark's files.

    Args:
        paths: files of GSM8K's form.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        from pocketlm.data.contamination.contamination import build_index

        items = load_benchmark("gsm8k", paths)
        self._index = build_index(items)
        self._questions = {_normal(item.records[0]) for item in items}

    def is_the_benchmark(self, questions: Sequence[str]) -> bool:
        """Whether more than one in twenty of the questions stands in the benchmark word for word."""
        same = sum(_normal(question) in self._questions for question in questions)
        return same > SAME_FILE * len(questions)

    def holds(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Whether each row (`prompt`, and `solution` or `answer`) holds an item."""
        import pyarrow

        from pocketlm.data.contamination.contamination import find_contamination
        from pocketlm.data.text import Text, tokens_of

        if not rows:
            return []
        texts = [f"{row['prompt']}\n{CALCULATOR_NOTE.sub('', row.get('solution') or row['answer'])}" for row in rows]
        text = Text.from_arrow(pyarrow.array(texts, pyarrow.large_string()))
        hits = find_contamination(text, tokens_of(text), self._index, LIMITS.threshold, LIMITS.template_threshold)
        held = set(hits.document.tolist())
        return [at in held for at in range(len(rows))]


def _normal(question: str) -> str:
    return " ".join(question.casefold().split())
