"""Small files of every benchmark in upstream's columns, with what makes prompts differ: marks, spaces, gaps, quotes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ANIMALS = ("cat", "dog", "bird", "horse", "fish", "cow")


def benchmark_rows() -> dict[str, list[dict[str, Any]]]:
    """File below the data folder -> rows."""
    return {
        "arc_easy/test": [_arc(number, "A") for number in range(6)],
        "arc_challenge/test": [_arc(number, "1") for number in range(3)],
        "hellaswag/validation": [_hellaswag(number) for number in range(3)],
        "lambada_openai/test": [
            {"text": f'The {animal} went to the  garden.\n\n"Stay here," she said to the {animal}'}
            for animal in ANIMALS
        ],
        "piqa/validation": [
            {
                "goal": f"How do I feed a {animal}?",
                "sol1": f"Give the {animal} some food.",
                "sol2": f"Give the {animal} some stones, and wait.",
                "label": number % 2,
            }
            for number, animal in enumerate(ANIMALS)
        ],
        "winogrande/validation": [
            {
                "sentence": f"The {animal} did not fit into the box because the _ was too  small.",
                "option1": animal,
                "option2": "box",
                "answer": str(1 + number % 2),
            }
            for number, animal in enumerate(ANIMALS)
        ],
        "gsm8k/test": [_gsm8k(number, animal) for number, animal in enumerate(ANIMALS[:3])],
        "gsm8k/train": [_gsm8k(number, f"young {animal}") for number, animal in enumerate(ANIMALS * 2)],
        "blimp": [
            {
                "UID": phenomenon,
                "pairID": str(number),
                "sentence_good": f"The {animal} sees itself.",
                "sentence_bad": f"The {animal} see itself.",
            }
            for phenomenon in ("anaphor_number_agreement", "complex_NP_island")
            for number, animal in enumerate(ANIMALS[:3])
        ],
    }


def write_benchmarks(folder: Path, names: Sequence[str] = ()) -> Path:
    """Write the files (all, or those whose path begins with one of `names`) as JSONL; returns the folder."""
    for name, rows in benchmark_rows().items():
        if names and not name.startswith(tuple(names)):
            continue
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def _arc(number: int, first_label: str) -> dict[str, Any]:
    labels = [chr(ord(first_label) + at) for at in range(4)]
    return {
        "id": f"q{number}",
        "question": f"Which of these has {number + 2} legs?",
        "choices": {"text": [f"the {animal}" for animal in ANIMALS[number % 3 :][:4]], "label": labels},
        "answerKey": labels[number % 4],
    }


def _hellaswag(number: int) -> dict[str, Any]:
    animal = ANIMALS[number]
    return {
        "ind": number,
        "activity_label": "Feeding animals",
        "ctx_a": f"A man is  feeding a {animal}. [header] How to [title] Start.",
        "ctx_b": "he" if number else "",
        "ctx": f"A man is feeding a {animal}. he",
        "endings": [f"runs away from the {animal}.", "sits [substeps] down.", f"is a {animal}.", "sings."],
        "label": str(number),
    }


def _gsm8k(number: int, animal: str) -> dict[str, Any]:
    total = number + 3
    return {
        "question": f"A {animal} has {number} stones and finds 3 more. How many stones has it?",
        "answer": f"It has {number}+3=<<{number}+3={total}>>{total} stones.\n#### {total}",
    }


def by_split(rows: Mapping[str, list[dict[str, Any]]], name: str) -> dict[str, list[dict[str, Any]]]:
    """Split -> rows of one benchmark."""
    return {path.partition("/")[2]: own for path, own in rows.items() if path.partition("/")[0] == name}
