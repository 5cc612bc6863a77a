"""The counts of the gates in plain Python, written from the documentation and not from the kernels."""

from __future__ import annotations

import unicodedata
from collections import Counter

from pocketlm.data.characters import TERMINAL, character_classes

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character == "_"


def is_sign(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS" or unicodedata.category(character) == "Cc"


def is_terminal(character: str) -> bool:
    return bool(character_classes()[ord(character)] & TERMINAL)


def pieces(text: str) -> list[str]:
    """Words and signs as docs/stages/gates.md defines them."""
    found: list[str] = []
    at = 0

    def word_at(place: int) -> bool:
        return place < len(text) and is_word(text[place])

    while at < len(text):
        start = at
        if text[at].isspace():
            at += 1
            continue
        if is_word(text[at]):
            while word_at(at) or (at < len(text) and text[at] in ".," and word_at(at + 1)):
                at += 1
        elif text[at] in "'\u2019" and at > 0 and is_word(text[at - 1]) and word_at(at + 1):
            at += 1
            while word_at(at):
                at += 1
        else:
            while at < len(text) and text[at] == text[start]:
                at += 1
        found.append(text[start:at])
    return found


def sentences(line: str) -> int:
    """Runs of text that end with a terminal and signs before white space, and what is left behind the last."""
    number = 0
    words = ended = False
    for character in line:
        if character.isspace():
            number += ended
            words, ended = words and not ended, False
        elif is_terminal(character):
            ended = words
        elif not is_sign(character):
            words, ended = True, False
    return number + (words or ended)


def layout(text: str) -> dict[str, int]:
    """What is counted of lines and paragraphs."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    filled = [line for line in lines if line.strip()]
    groups: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            groups[-1].append(line)
        else:
            groups.append([])
    paragraphs = ["\n".join(group) for group in groups if group]
    if paragraphs:
        paragraphs[0] = paragraphs[0].lstrip()

    def again(elements: list[str]) -> tuple[int, int]:
        counted = Counter(elements)
        return len(elements) - len(counted), sum(len(element) * (n - 1) for element, n in counted.items())

    duplicate_lines, line_characters = again(filled)
    duplicate_paragraphs, paragraph_characters = again(paragraphs)
    return {
        "all_lines": len(lines),
        "filled_lines": len(filled),
        "bullet_lines": sum(line.lstrip().startswith(("-", "\u2022")) for line in filled),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "\u2026")) for line in filled),
        "terminated_lines": sum(is_terminal(line[-1]) for line in filled),
        "short_lines": sum(len(line) <= 30 for line in filled),
        "duplicate_lines": duplicate_lines,
        "duplicate_line_characters": line_characters,
        "paragraphs": len(paragraphs),
        "duplicate_paragraphs": duplicate_paragraphs,
        "duplicate_paragraph_characters": paragraph_characters,
        "ellipses": text.count("...") + text.count("\u2026"),
        "sentences": sum(map(sentences, filled)),
        "line_feeds": text.count("\n"),
        "hash_signs": text.count("#"),
        "curly_brackets": text.count("{"),
    }


def word_counts(text: str) -> dict[str, int]:
    """What is counted of words and signs."""
    every = pieces(text)
    words = [piece for piece in every if not all(is_sign(character) for character in piece)]
    return {
        "pieces": len(every),
        "word_pieces": len(words),
        "word_piece_characters": sum(map(len, words)),
        "letter_pieces": sum(any(character.isalpha() for character in piece) for piece in every),
        "stop_words": len(STOP_WORDS & set(every)),
    }


def top_ngram_characters(text: str, size: int) -> int:
    every = pieces(text)
    grams = Counter(tuple(every[at : at + size]) for at in range(len(every) - size + 1))
    if not grams:
        return 0
    gram, number = grams.most_common(1)[0]
    return len(" ".join(gram)) * number


def duplicate_ngram_characters(text: str, size: int) -> int:
    every = pieces(text)
    seen, at, characters = set(), 0, 0
    while at + size <= len(every):
        gram = tuple(every[at : at + size])
        if gram in seen:
            characters += sum(map(len, gram))
            at += size
        else:
            seen.add(gram)
            at += 1
    return characters
