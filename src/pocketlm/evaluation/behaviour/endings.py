"""Answers must come to an end: open questions for a sentence or two, and a few prompts of every other task.

Right is an answer that ended by itself within the limit, does not end in a loop, and is not empty; to an open question
it has `LEAST_WORDS` words or more, so that one word for everything is no ending. What it says is not judged. Prompts
whose right answer could come near the limit are not taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pocketlm.evaluation.behaviour.repetition import loop_characters
from pocketlm.evaluation.behaviour.task import Row, Verdict, asked, in_hash_order, verdict
from pocketlm.evaluation.behaviour.texts import words_of

THINGS = (
    *("rain", "bread", "a bicycle", "the moon", "a horse", "music", "snow", "a library", "honey", "a bridge"),
    *("a garden", "sleep", "a clock", "the sun", "a river", "chess", "paper", "a school", "salt", "a train"),
    *("a volcano", "gold", "a window", "tea", "wood", "a birthday", "football", "glass", "an island", "the wind"),
    *("a doctor", "wool", "a market", "ice", "a map", "a lighthouse", "soap", "a castle", "an apple", "fire"),
)
QUESTIONS = (
    "Explain in one or two sentences what {} is.",
    "Write two short sentences about {}.",
    "Tell me one interesting thing about {}, in one sentence.",
)
LEAST_WORDS = 4
"""Of an answer that shall be a sentence."""
BORROWED = 16
"""Prompts taken from each other task."""
TOO_LONG = frozenset({"16 steps", "32 steps", *(f"{count} bullets" for count in range(6, 11))})
"""Levels whose right answers are long."""


def items(others: Mapping[str, Callable[[], Sequence[Row]]]) -> list[Row]:
    """Open questions, and the first short `BORROWED` prompts of the other tasks."""
    rows = [
        {
            "id": f"endings/{thing}/{number}",
            "level": "open question",
            "messages": asked(question.format(thing)),
            "answer": "a sentence that ends",
            "least_words": LEAST_WORDS,
        }
        for thing in THINGS
        for number, question in enumerate(QUESTIONS)
    ]
    for name, make in others.items():
        short = [row for row in make() if row["level"] not in TOO_LONG]
        rows += [
            {
                "id": f"endings/{row['id']}",
                "level": f"prompt of {name}",
                "messages": row["messages"],
                "answer": "an answer that ends",
                "least_words": 1,
            }
            for row in short[:BORROWED]
        ]
    return in_hash_order(rows)


def check(row: Row, output: str, finish: str) -> Verdict:
    """Judge how the answer ended."""
    if len(words_of(output)) < row["least_words"]:
        return verdict("it is no sentence" if output.strip() else "it is empty")
    if loop_characters(output):
        return verdict("it ends in a loop")
    return verdict("" if finish == "stop" else "it does not end by itself")
