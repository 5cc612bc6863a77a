"""Exact repeated spans: runs of at least `size` words (50) that occurred before, wherever they begin, are cut.

Words are those of `pocketlm.data.text`, so case, punctuation and white space do not count. A window is `size` words in
a row. It repeats if its words stand in an earlier document, or earlier in the same one *without overlapping it*; a word
is cut if a window that repeats covers it. The first occurrence stays: following every cut word to the first occurrence
of its window leads to earlier words only, so it ends at one that is kept. Text that repeats itself ("a a a ...", period
p words) keeps its first ceil(size / p) periods.

Comparing every window of a corpus would move more bytes than its text has. Winnowing (Schleimer, Wilkerson, Aiken:
Winnowing, SIGMOD 2003) chooses in each window the smallest hash of its k-grams, k = size / 2; equal windows choose the
same. So a window can only repeat if its fingerprint occurs twice, which is a question about 2 / (size - k + 2) hashes
per word. Only text under such fingerprints is compared window by window, and there exactly (two 64-bit hashes).

Per unit: `fingerprints_of`. Global: `repeated_fingerprints`. Per unit: `windows_of`, `window_keys`. Global:
`repeated_windows`. Per unit: `windows_of` again (it is quick), `spans_of`, then `cutting.cut_ranges`.
Nothing depends on how documents are divided into units.

Not covered: repeats with a word changed in every window. Scripts without spaces give one word per run, so a span of
them is `size` phrases. Compare Lee et al., Deduplicating training data makes language models better (arXiv 2107.06499),
who find spans of 50 subword tokens with a suffix array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.data.duplicates.first_occurrences import first_rows
from pocketlm.data.kernels import kernel
from pocketlm.data.shuffle import KeyRange
from pocketlm.data.text import BASE, Text, Tokens, mix, ngrams_of, punctuation_width, tokens_of, word_byte

LARGEST_UNIT = 2**31


@dataclass(frozen=True)
class Fingerprints:
    """The chosen k-grams of a unit in text order, each once.

    Attributes:
        keys: uint64 [fingerprints]. places: int64, the bytes of all windows that chose it, counted from the begin of
            the unit: start << 32 | end.
    """

    keys: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class KeyFilter:
    """A set of 64-bit keys as one bit each (a Bloom filter with one function): says yes to every member, and to about
    `members / (8 * len(bits))` of the others. Bits: uint8, a power of two of bytes."""

    bits: np.ndarray

    def may_hold(self, keys: np.ndarray) -> np.ndarray:
        """bool [keys]; False is certain."""
        place = keys & np.uint64(8 * len(self.bits) - 1)
        return (self.bits[place >> np.uint64(3)] >> (place & np.uint64(7)).astype(np.uint8)) & np.uint8(1) != 0


@dataclass(frozen=True)
class Windows:
    """Windows of a unit that may repeat, in text order.

    Attributes:
        size: words of a window. words: int64 [windows], its first word, an index into `starts` and `ends`; two windows
            of a unit overlap exactly if their indices differ by less than `size`.
        keys, second: uint64 [windows], two hashes of its words.
        starts, ends: int64 [words], byte positions in the unit, counted from its begin.
    """

    size: int
    words: np.ndarray
    keys: np.ndarray
    second: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class RepeatedWindows:
    """One bit per word of each unit's `Windows.starts`: whether the window that begins there repeats.

    Attributes:
        bits: uint8. offsets: int64 [units + 1], the bytes of unit i are `bits[offsets[i]:offsets[i + 1]]`.
    """

    bits: np.ndarray
    offsets: np.ndarray

    def of(self, unit: int) -> np.ndarray:
        """The bits of one unit, which is all that its `spans_of` needs."""
        return self.bits[self.offsets[unit] : self.offsets[unit + 1]]


@dataclass(frozen=True)
class Spans:
    """What to cut of a unit, in text order.

    Attributes:
        document: int64 [spans], in the unit. start, end: int64, byte positions in `Text.data`, whole words with the
            punctuation that belongs to them. words: int64. keys: uint64, of the first window.
    """

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray
    words: np.ndarray
    keys: np.ndarray


def fingerprints_of(text: Text, tokens: Tokens, size: int) -> Fingerprints:
    """Winnow a unit; `tokens` are those of `text`, `size` is the words of a span (at least 2).

    Raises:
        ValueError: the unit has 2 GiB or more, which its places could not tell.
    """
    if text.offsets[-1] - text.offsets[0] >= LARGEST_UNIT:
        raise ValueError("a unit of 2 GiB or more cannot be searched for repeated spans: divide it")
    room = len(tokens.hashes)  # all words of "a a a ..."; untouched pages cost nothing
    keys, places = np.empty(room, np.uint64), np.empty(room, np.int64)
    columns = tokens.hashes, tokens.starts, tokens.ends, tokens.offsets
    count = _winnow(text.data, *columns, text.offsets[0], size // 2, size, keys, places)
    return Fingerprints(keys[:count].copy(), places[:count].copy())


def repeated_fingerprints(ranges: Iterable[KeyRange], total: int) -> KeyFilter:
    """The fingerprints that occur more than once. `total` is the number of rows in all ranges; their keys are those of
    `Fingerprints`, their rows are not looked at."""
    size = 1 << max(3, (4 * total - 1).bit_length())
    bits = np.zeros(size // 8, np.uint8)
    for part in ranges:
        _mark_repeated(part.keys, bits)
    return KeyFilter(bits)


def windows_of(
    text: Text, fingerprints: Fingerprints, repeated: KeyFilter, size: int, excluded: np.ndarray | None = None
) -> Windows:
    """The windows under repeated fingerprints (and some between them). Fingerprints may come in any order.

    `excluded`, bool [documents], are documents that were rejected: they neither lose nor hold anything.
    """
    places = np.sort(fingerprints.places[repeated.may_hold(fingerprints.keys)])
    starts, ends = places >> 32, places & 0xFFFFFFFF
    base = text.offsets[0]
    if excluded is not None and len(starts):
        staying = ~excluded[np.searchsorted(text.offsets, starts + base, side="right") - 1]
        starts, ends = starts[staying], ends[staying]
    new = np.ones(len(starts), bool)
    new[1:] = starts[1:] >= ends[:-1]  # ends ascend as starts do
    first = np.flatnonzero(new)
    starts, ends = starts[first], np.append(ends[first[1:] - 1], ends[-1:])
    regions = Text(*_gather(text.data, starts + base, ends + base))
    tokens = tokens_of(regions)
    counts = np.diff(tokens.offsets)
    shift = np.repeat(starts - regions.offsets[:-1], counts)
    turned = (tokens.hashes >> np.uint64(32)) | (tokens.hashes << np.uint64(32))
    ngrams = ngrams_of(tokens, size)
    second = ngrams_of(Tokens(turned, tokens.starts, tokens.ends, tokens.offsets), size).hashes
    in_region = np.arange(len(ngrams.hashes)) - np.repeat(ngrams.offsets[:-1], np.diff(ngrams.offsets))
    words = in_region + np.repeat(tokens.offsets[:-1], np.diff(ngrams.offsets))
    return Windows(size, words, ngrams.hashes, second, tokens.starts + shift, tokens.ends + shift)


def window_keys(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Keys uint64 [windows] and rows int64 [windows, 2] (second hash, first byte << 32 | first word) for the global
    step."""
    rows = np.empty((len(windows.keys), 2), np.int64)
    rows[:, 0] = windows.second.view(np.int64)
    rows[:, 1] = windows.starts[windows.words] << 32 | windows.words
    return windows.keys, rows


def repeated_windows(ranges: Iterable[KeyRange], words: Sequence[int], size: int) -> RepeatedWindows:
    """Which windows repeat, over the rows of `window_keys`. `words[i]` is `len(Windows.starts)` of unit i."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([(count + 7) // 8 for count in words], dtype=np.int64)])
    bits = np.zeros(offsets[-1], np.uint8)
    for part in ranges:
        first = first_rows(part.keys, part.rows[:, 0])
        _mark_windows(first, part.unit, part.rows[:, 1], size, bits, offsets)
    return RepeatedWindows(bits, offsets)


def spans_of(text: Text, windows: Windows, bits: np.ndarray) -> Spans:
    """The words under repeated windows as maximal spans. `bits` come from `RepeatedWindows.of`."""
    repeat = ((bits[windows.words >> 3] >> (windows.words & 7).astype(np.uint8)) & np.uint8(1)).astype(bool)
    row = np.flatnonzero(repeat)
    word = windows.words[row]
    new = np.ones(len(row), bool)
    # Words are numbered on over the gaps between compared stretches of text, windows are not: there the two part.
    new[1:] = (np.diff(word) > windows.size) | (np.diff(word) != np.diff(row))
    first = np.flatnonzero(new)
    last = np.append(word[first[1:] - 1], word[-1:]) + windows.size - 1
    begin = word[first]
    start = windows.starts[begin] + text.offsets[0]
    end = windows.ends[last] + text.offsets[0]
    document = np.searchsorted(text.offsets, start, side="right") - 1
    _with_punctuation(text.data, text.offsets, document, start, end)
    return Spans(document, start, end, last - begin + 1, windows.keys[row[first]])


@kernel
def _winnow(data, tokens, starts, ends, documents, base, gram, size, keys, places):  # type: ignore[no-untyped-def]
    """Rightmost smallest hash of the `size - gram + 1` grams of every window; returns the number of fingerprints."""
    grams = size - gram + 1
    ring = np.empty(grams, np.uint64)
    leaving = np.uint64(1)
    for _ in range(gram - 1):
        leaving *= BASE
    count = 0
    for document in range(len(documents) - 1):
        begin, number = documents[document], documents[document + 1] - documents[document]
        if number < size:
            continue
        rolling = np.uint64(0)
        for place in range(gram - 1):
            rolling = rolling * BASE + tokens[begin + place]
        chosen, smallest, slot, opened = -1, np.uint64(0), 0, 0
        for place in range(number - gram + 1):  # of the gram; the window that it completes begins at `window`
            rolling = rolling * BASE + tokens[begin + place + gram - 1]
            value = mix(rolling)
            rolling -= tokens[begin + place] * leaving
            ring[slot] = value
            slot = slot + 1 if slot + 1 < grams else 0
            window = place - grams + 1
            former, former_value = chosen, smallest
            if chosen < 0 or value <= smallest:
                chosen, smallest = place, value
            elif chosen < window:
                chosen, smallest = window, ring[slot]
                at = slot
                for other in range(window + 1, place + 1):
                    at = at + 1 if at + 1 < grams else 0
                    if ring[at] <= smallest:
                        chosen, smallest = other, ring[at]
            if window <= 0:
                opened = 0
            elif chosen != former:
                last = begin + window + size - 2
                _emit(data, starts, ends, base, begin + opened, last, former_value, keys, places, count)
                count += 1
                opened = window
        _emit(data, starts, ends, base, begin + opened, begin + number - 1, smallest, keys, places, count)
        count += 1
    return count


@kernel
def _emit(data, starts, ends, base, first, last, value, keys, places, count):  # type: ignore[no-untyped-def]
    # The smallest of many hashes is small: mixed again, keys are even over their range.
    keys[count] = mix(value ^ BASE)
    # A sign of arithmetic is a word only after a number: without it `windows_of` would not see the same words.
    if word_byte(data[starts[first]]) == 0:
        first -= 1
    places[count] = (starts[first] - base) << 32 | (ends[last] - base)


@kernel
def _mark_repeated(keys, bits):  # type: ignore[no-untyped-def]
    mask = np.uint64(8 * len(bits) - 1)
    for row in range(1, len(keys)):
        if keys[row] == keys[row - 1]:
            place = keys[row] & mask
            bits[place >> np.uint64(3)] |= np.uint8(1) << np.uint8(place & np.uint64(7))


@kernel
def _mark_windows(first, unit, places, size, bits, offsets):  # type: ignore[no-untyped-def]
    for row in range(len(first)):
        word = places[row] & 0xFFFFFFFF
        head = first[row]
        if head == row or (unit[head] == unit[row] and word - (places[head] & 0xFFFFFFFF) < size):
            continue
        bits[offsets[unit[row]] + (word >> 3)] |= np.uint8(1) << np.uint8(word & 7)


@kernel
def _gather(data, starts, ends):  # type: ignore[no-untyped-def]
    """The bytes of some ranges, one after the other, and their offsets."""
    offsets = np.zeros(len(starts) + 1, np.int64)
    for row in range(len(starts)):
        offsets[row + 1] = offsets[row] + ends[row] - starts[row]
    out = np.empty(offsets[-1], np.uint8)
    for row in range(len(starts)):
        shift = starts[row] - offsets[row]
        for at in range(offsets[row], offsets[row + 1]):
            out[at] = data[at + shift]
    return out, offsets


@kernel
def _with_punctuation(data, documents, document, start, end):  # type: ignore[no-untyped-def]
    """Widen every span, in place, by what stands before it at the begin of its first visible run and after it at the
    end of its last one. A full stop stays where other words of its sentence stay in front of the span."""
    for row in range(len(start)):
        begin, limit = documents[document[row]], documents[document[row] + 1]
        left = start[row]
        while left > begin and data[left - 1] > 32:
            lead = left - 1
            while lead > begin and (data[lead] & 0xC0) == 0x80:
                lead -= 1
            if word_byte(data[lead]) and punctuation_width(data, lead, limit) != left - lead:
                break
            left = lead
        if left == begin or data[left - 1] <= 32:
            start[row] = left
        right = end[row]
        while right < limit and data[right] > 32:
            width = max(punctuation_width(data, right, limit), 1)
            if width == 1 and word_byte(data[right]):
                break
            right += width
        if right < limit and data[right] > 32:
            continue
        stop = end[row] < limit and (data[end[row]] == 46 or data[end[row]] == 33 or data[end[row]] == 63)
        before = start[row] - 1
        while before >= begin and (data[before] == 32 or data[before] == 9):
            before -= 1
        if not (stop and before >= begin and (word_byte(data[before]) or data[before] == 44)):
            end[row] = right
