"""What the byte kernels know of characters: one byte of class bits for every code point, and how to read one.

The classes are those of Python's own Unicode tables (`unicodedata`), so that a kernel and its oracle in Python agree;
the sentence terminals are Unicode's property Sentence_Terminal (PropList.txt), which Python does not have.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np

WORD, ALPHA, SPACE, SIGN, TERMINAL, NAME = 1, 2, 4, 8, 16, 32
r"""Class bits. WORD: letters, marks and numbers, and `_`. ALPHA: `str.isalpha`. SPACE: `str.isspace`. SIGN:
punctuation, symbols and control characters. TERMINAL: ends a sentence. NAME: what a regular expression calls `\w`."""

SENTENCE_TERMINALS = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D5 "
    "1803 1809 1944-1945 1AA8-1AAB 1B4E-1B4F 1B5A-1B5B 1B5E-1B5F 1B7D-1B7F 1C3B-1C3C 1C7E-1C7F 2024 203C-203D "
    "2047-2049 2CF9-2CFB 2E2E 2E3C 2E53-2E54 2E60-2E61 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F "
    "A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE12 FE15-FE16 FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 "
    "10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 "
    "113D4-113D5 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C "
    "11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16D6E-16D6F 16E98 1BC9F 1DA88"
)
"""Unicode 16.0, PropList.txt, Sentence_Terminal; hexadecimal code points and ranges."""

CODE_POINTS = 0x110000
ASSIGNED = (range(0x33480), range(0xE0000, 0xE0200))
"""Beyond these planes nothing is assigned but private use."""


@cache
def character_classes() -> np.ndarray:
    """Class bits of every code point, uint8 [0x110000]; built once a process."""
    import unicodedata

    table = np.zeros(CODE_POINTS, np.uint8)
    for points in ASSIGNED:
        for point in points:
            character = chr(point)
            category = unicodedata.category(character)
            bits = ALPHA if category[0] == "L" else 0
            if category[0] in "LMN" or character == "_":
                bits |= WORD
            if category[0] in "PS" or category == "Cc":
                bits |= SIGN
            if character.isspace():
                bits |= SPACE
            if character.isalnum() or character == "_":
                bits |= NAME
            table[point] = bits
    for item in SENTENCE_TERMINALS.split():
        first, _, last = item.partition("-")
        table[int(first, 16) : int(last or first, 16) + 1] |= TERMINAL
    return table


@numba.njit(inline="always")
def width_at(data: np.ndarray, at: int) -> int:
    """Bytes of the UTF-8 character that begins at `at`."""
    first = data[at]
    if first < 0x80:
        return 1
    if first < 0xE0:
        return 2
    return 3 if first < 0xF0 else 4


@numba.njit(inline="always")
def point_at(data: np.ndarray, at: int, width: int) -> np.int64:
    """Code point of the character of `width` bytes that begins at `at`."""
    if width == 1:
        return np.int64(data[at])
    if width == 2:
        return (np.int64(data[at] & 0x1F) << 6) | np.int64(data[at + 1] & 0x3F)
    if width == 3:
        return (np.int64(data[at] & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | np.int64(data[at + 2] & 0x3F)
    return (
        (np.int64(data[at] & 0x07) << 18)
        | (np.int64(data[at + 1] & 0x3F) << 12)
        | (np.int64(data[at + 2] & 0x3F) << 6)
        | np.int64(data[at + 3] & 0x3F)
    )


@numba.njit(inline="always")
def start_before(data: np.ndarray, at: int) -> int:
    """First byte of the character that ends right before `at`."""
    at -= 1
    while data[at] & 0xC0 == 0x80:
        at -= 1
    return at
