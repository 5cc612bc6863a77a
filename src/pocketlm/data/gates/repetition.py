"""The words of Gopher's and FineWeb's rules, and how much of a document its word sequences repeat.

A word here is, case and all, a maximal run of letters, digits, marks and `_`, in which a `.` or `,` may stand between
two of them (3.14, e.g); an apostrophe with the letters after it ('s); or a run of one and the same other character
(..., ((, -). That is close to what tokenizers such as spaCy's give, which datatrove uses. `text.py` has the lower-cased
words without signs for everything else.
"""

from __future__ import annotations

import numpy as np

from pocketlm.data.characters import ALPHA, SIGN, SPACE, WORD, point_at, width_at
from pocketlm.data.gates.counts import add, longest_document, table_size
from pocketlm.data.kernels import kernel
from pocketlm.data.text import BASE, mix

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher, appendix A1."""
PACKED_STOP_WORDS = np.array([int.from_bytes(word.encode(), "big") for word in STOP_WORDS], np.uint32)


@kernel
def count_pieces(data, documents, classes, stop_words, repetition):  # type: ignore[no-untyped-def]
    """Per document, int64 [14, documents]: 0 words, 1 words that are not all signs, 2 characters of these, 3 words with
    a letter, 4 different stop words; with `repetition` also 5-7 characters of the most frequent 2-, 3- and 4-gram times
    its number, 8-13 characters in repeated 5- to 10-grams."""
    counts = np.zeros((14, len(documents) - 1), np.int64)
    longest = longest_document(documents)
    hashes, lengths = np.empty(longest, np.uint64), np.empty(longest + 1, np.int64)
    table, rows = np.empty(table_size(longest), np.uint64), np.empty(table_size(longest), np.int64)
    tallies = np.empty(table_size(longest), np.int64)
    for document in range(len(documents) - 1):
        count = counts[:, document]
        start, end = documents[document], documents[document + 1]
        number = _split(data, start, end, classes, stop_words, hashes, lengths, count)
        if not repetition:
            continue
        for place in range(3):
            count[5 + place] = _top_ngram(hashes, lengths, number, place + 2, table, rows, tallies)
        for number_of_words in range(number):  # prefix sums, so that any n-gram has its hash and length at once
            before = hashes[number_of_words - 1] if number_of_words else np.uint64(0)
            hashes[number_of_words] += before * BASE
        for size in range(5, 11):
            count[3 + size] = _repeated_ngrams(hashes, lengths, number, size, table)
            if count[3 + size] == 0:
                break  # no repeated 5-gram: no repeated 6-gram
    return counts


@kernel
def _split(data, at, end, classes, stop_words, hashes, lengths, count):  # type: ignore[no-untyped-def]
    """Words of one document: their hashes, and in `lengths` where each begins when all are set end to end."""
    number, total, seen = 0, 0, 0
    after_word = False  # an apostrophe here begins a clitic
    while at < end:
        width = width_at(data, at)
        point = point_at(data, at, width)
        bits = classes[point]
        if bits & SPACE:
            after_word = False
            at += width
            continue
        value, characters, packed = np.uint64(14695981039346656037), 0, np.uint64(0)
        start, letter, solid = at, False, False
        clitic = after_word and (point == 39 or point == 0x2019) and at + width < end
        if clitic:
            next_width = width_at(data, at + width)
            clitic = classes[point_at(data, at + width, next_width)] & WORD != 0
        if bits & WORD or clitic:
            while True:
                for place in range(width):
                    value = (value ^ np.uint64(data[at + place])) * np.uint64(1099511628211)
                    packed = (packed << np.uint64(8)) | np.uint64(data[at + place])
                characters += 1
                letter = letter or bits & ALPHA != 0
                solid = solid or bits & SIGN == 0
                at += width
                if at >= end:
                    break
                width = width_at(data, at)
                bits = classes[point_at(data, at, width)]
                if bits & WORD == 0:
                    if clitic or (data[at] != 44 and data[at] != 46) or at + 1 >= end:
                        break
                    next_width = width_at(data, at + 1)
                    if classes[point_at(data, at + 1, next_width)] & WORD == 0:
                        break
            after_word = True
        else:
            solid = bits & SIGN == 0
            letter = bits & ALPHA != 0
            value = mix(np.uint64(point))
            while at < end and point_at(data, at, width_at(data, at)) == point:
                value = value * BASE + np.uint64(point)
                characters += 1
                at += width
            after_word = False
        if at - start <= 4:
            for row in range(len(stop_words)):
                if np.uint64(stop_words[row]) == packed:
                    seen |= 1 << row
        hashes[number], lengths[number] = mix(value), total
        number += 1
        total += characters
        if solid:
            count[1] += 1
            count[2] += characters
        count[3] += letter
    lengths[number] = total
    count[0] = number
    while seen:
        count[4] += seen & 1
        seen >>= 1
    return number


@kernel
def _top_ngram(hashes, lengths, number, size, table, rows, tallies):  # type: ignore[no-untyped-def]
    """Characters (with a space between words) of the most frequent n-gram times its number; of equally frequent ones
    the first."""
    if number < size:
        return 0
    slots = table_size(number)
    table[:slots] = 0
    most, first = 0, 0
    for row in range(number - size + 1):
        value = np.uint64(0)
        for place in range(size):
            value = value * BASE + hashes[row + place]
        key = mix(value) | np.uint64(1)
        slot = np.int64((key >> np.uint64(1)) & np.uint64(slots - 1))
        while table[slot] != np.uint64(0) and table[slot] != key:
            slot = (slot + 1) & (slots - 1)
        if table[slot] == np.uint64(0):
            table[slot], rows[slot], tallies[slot] = key, row, 0
        tallies[slot] += 1
        if tallies[slot] > most or (tallies[slot] == most and rows[slot] < first):
            most, first = tallies[slot], rows[slot]
    return (lengths[first + size] - lengths[first] + size - 1) * most


@kernel
def _repeated_ngrams(prefixes, lengths, number, size, table):  # type: ignore[no-untyped-def]
    """Characters of n-grams that stood before, read from left to right and going on behind each that is found."""
    if number < size:
        return 0
    slots = table_size(number)
    table[:slots] = 0
    leaving = np.uint64(1)
    for _ in range(size):
        leaving *= BASE
    characters, row = 0, 0
    while row + size <= number:
        before = prefixes[row - 1] if row else np.uint64(0)
        if add(table, slots, mix(prefixes[row + size - 1] - before * leaving)):
            row += 1
        else:
            characters += lengths[row + size] - lengths[row]
            row += size
    return characters
