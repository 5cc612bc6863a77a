"""Long-horizon execution in the manner of arXiv 2509.09677: how many steps before the first error.

Words have values; a list of words is gone through, and a line with the running sum is written for each. Plan and
knowledge are given, so that only carrying it out is measured. Unlike in the paper, all steps are asked in one answer
(its single-turn form), the words are few and the values small. Two solved examples stand before each question, as
earlier turns, so that a model that cannot add is told from one that did not understand the form.

A step is right when its line has the word and the right sum. An *update* is right when the line has the word and adds
its value to the sum that the model itself wrote on the line before (the paper's turn accuracy): it tells mistakes from
their consequences. Lines are read strictly, one "word: number" each; reading ends at the first line that is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

from pocketlm.evaluation.behaviour.task import Row, Verdict, asked, drawn, in_hash_order, verdict

LENGTHS = (2, 4, 8, 16, 32)
ITEMS_PER_LENGTH = 36
WORDS_PER_ITEM = 5
TOKENS_PER_STEP, MORE_TOKENS = 10, 28
"""What an answer may have: a line takes 5 to 9 tokens of a subword tokenizer."""
WORDS = (
    *("ball", "bell", "bird", "boat", "book", "cake", "coat", "door", "duck", "fish", "frog", "goat"),
    *("hand", "king", "lamp", "milk", "moon", "rain", "ring", "road", "rock", "salt", "ship", "star", "tree", "wolf"),
)
LINE = re.compile(r"([a-z]{1,20}) ?: ?(\d{1,9})")

INSTRUCTION = """\
Start with the sum 0. For each word of the list, add the value of the word to the sum, and write one line: the word, \
a colon and the new sum. Write only these lines."""

EXAMPLES: Sequence[tuple[Mapping[str, int], Sequence[str]]] = (
    ({"cat": 2, "hat": 5}, ("hat", "cat", "hat")),
    ({"leaf": 3, "nut": 1, "bee": 6}, ("nut", "nut", "bee", "leaf", "nut")),
)
"""Values and words of the solved examples."""


def items() -> list[Row]:
    """`ITEMS_PER_LENGTH` items of every length."""
    return in_hash_order(_item(length, number) for length in LENGTHS for number in range(ITEMS_PER_LENGTH))


def check(row: Row, output: str, finish: str) -> Verdict:
    """Count right steps; measures: steps, steps_before_first_error, right_updates, lines (read)."""
    steps, updates, read = read_steps(row, output)
    first_error = (*steps, False).index(False)
    measures = {
        "steps": float(len(steps)),
        "steps_before_first_error": float(first_error),
        "right_updates": float(sum(updates)),
        "lines": float(read),
    }
    if first_error < len(steps):
        return verdict(f"step {first_error + 1} of {len(steps)} is wrong or missing", measures)
    lines = [line for line in output.splitlines() if line.strip()]
    if finish != "stop" or len(lines) > len(steps):
        return verdict("it does not end after the last step", measures)
    return verdict("", measures)


def read_steps(row: Row, output: str) -> tuple[list[bool], list[bool], int]:
    """Whether each step and each update of an item is right, and how many lines could be read."""
    read = _lines(output)
    sums = accumulate(row["values"][word] for word in row["words"])
    steps, updates, before = [], [], 0
    for place, (word, total) in enumerate(zip(row["words"], sums, strict=True)):
        written = read[place] if place < len(read) else ("", -1)
        steps.append(written == (word, total))
        updates.append(written == (word, before + row["values"][word]))
        before = written[1]
    return steps, updates, len(read)


def _lines(output: str) -> Sequence[tuple[str, int]]:
    found = []
    for line in filter(None, map(str.strip, output.splitlines())):
        match = LINE.fullmatch(line)
        if match is None:
            break
        found.append((match[1], int(match[2])))
    return found


def _item(length: int, number: int) -> Row:
    name = f"execution/{length}/{number}"
    by_draw = sorted(WORDS, key=lambda word: drawn(1 << 60, name, word))
    values = {word: 1 + drawn(9, name, "value", word) for word in by_draw[:WORDS_PER_ITEM]}
    words = [by_draw[drawn(WORDS_PER_ITEM, name, "step", step)] for step in range(length)]
    messages = []
    for example, listed in EXAMPLES:
        messages += [*asked(_question(example, listed)), {"role": "assistant", "content": _solution(example, listed)}]
    messages[0] = asked(f"{INSTRUCTION}\n\n{messages[0]['content']}")[0]
    return {
        "id": name,
        "level": f"{length} steps",
        "messages": [*messages, *asked(_question(values, words))],
        "answer": _solution(values, words),
        "values": values,
        "words": words,
        "max_tokens": TOKENS_PER_STEP * length + MORE_TOKENS,
    }


def _question(values: Mapping[str, int], words: Sequence[str]) -> str:
    return f"Values: {', '.join(f'{word} {value}' for word, value in values.items())}\nList: {', '.join(words)}"


def _solution(values: Mapping[str, int], words: Sequence[str]) -> str:
    sums = accumulate(values[word] for word in words)
    return "\n".join(f"{word}: {total}" for word, total in zip(words, sums, strict=True))
