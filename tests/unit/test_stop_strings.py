"""Stop strings by hand: over token borders, inside tokens, beside characters that are split between tokens."""

from __future__ import annotations

import pytest

from pocketlm.generation.stops import StopStrings

PIECES = {1: b"Answer: ", 2: b"42", 3: b"\n", 4: b"\nQ", 5: b": why", 6: b"\xc3", 7: b"\xa9", 8: b"", 9: b" Q\n\nQ"}


def decode(tokens: list[int]) -> str:
    return b"".join(PIECES[token] for token in tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("tokens", "strings", "expected"),
    [
        ([1, 2], ("Q",), None),
        ([1, 2, 3, 4, 5], ("\n\nQ:",), (2, "Answer: 42")),  # over three tokens
        ([1, 2, 9], ("\n\nQ",), (2, "Answer: 42 Q")),  # begins inside a token, whose first letters are kept as text
        ([2, 6, 7, 3], ("\n",), (3, "42é")),  # a character of two tokens stays whole
        ([2, 6, 7], ("é",), (1, "42")),  # and so does one that stops
        ([1, 2], ("Answer",), (0, "")),
        ([1, 2, 5], ("42: why", "r: 4"), (0, "Answe")),  # the one that is complete first
        ([1, 2, 5], ("2", "42"), (1, "Answer: ")),  # complete with the same token: the one that begins first
        ([2, 8, 8, 8, 8, 3, 4], ("42\n",), (0, "")),  # tokens without text in between
    ],
)
def test_the_first_stop_string_cuts(
    tokens: list[int], strings: tuple[str, ...], expected: tuple[int, str] | None
) -> None:
    assert StopStrings(strings, decode).cut(tokens) == expected


def test_the_cheap_look_reads_the_end_only_and_misses_nothing_with_text() -> None:
    read: list[int] = []

    def counted(tokens: list[int]) -> str:
        read.append(len(tokens))
        return decode(tokens)

    stops = StopStrings(("\n\nQ",), counted)
    assert not stops.near_end([1, 2] * 100, fresh=2)
    assert read == [5]
    for before in range(1, 5):
        assert stops.near_end([*[1, 2] * 20, 3, 4, *[2] * before], fresh=before + 1)
