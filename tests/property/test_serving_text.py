"""Streamed text: whatever tokens and stop strings, what is given out piece by piece is the text of the whole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.generation.live import Progress
from pocketlm.generation.requests import Completion, Odds
from pocketlm.generation.stops import StopStrings
from pocketlm.serving.choices import Choice, Piece
from pocketlm.serving.text_stream import LONGEST_WINDOW, TextStream
from tests.generation_reference import PIECES, toy_decode
from tests.serving_world import tokenizer

TOKENS = st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=120)
STOPS = st.lists(st.text("abé \ufffd", min_size=1, max_size=5), max_size=3, unique=True)


def finished(tokens: list[int], stops: tuple[str, ...]) -> tuple[int, Completion]:
    """What the engine's promise makes of these tokens, and after how many of them."""
    odds = [Odds(-float(place), ()) for place in range(len(tokens))]
    strings = StopStrings(stops, toy_decode) if stops else None
    for count in range(1, len(tokens) + 1) if strings else ():
        cut = strings.cut(tokens[:count])
        if cut is not None:
            kept, text = cut
            return count, Completion(tokens[:kept], [0.0] * kept, "stop", text=text, odds=odds[:kept])
    text = toy_decode(tokens) if stops else None
    return len(tokens), Completion(tokens, [0.0] * len(tokens), "length", text=text, odds=odds)


def pieces(tokens: list[int], stops: tuple[str, ...], sizes: list[int]) -> tuple[list[Piece], Completion]:
    """Pieces of a sample whose tokens come in groups of these sizes."""
    count, completion = finished(tokens, stops)
    choice = Choice(toy_decode, stops, odds=True)
    made, place = [], 0
    while place < count:
        size = max(1, sizes[len(made) % len(sizes)])
        own = tokens[place : min(place + size, count)]
        odds = [Odds(-float(number), ()) for number in range(place, place + len(own))]
        place += len(own)
        done = completion if place == count else None
        made.append(choice.feed(Progress(1, 0, own, [0.0] * len(own), odds, done)))
    return made, completion


@settings(max_examples=400, deadline=None)
@given(TOKENS, STOPS, st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_pieces_are_the_whole(tokens: list[int], stops: list[str], sizes: list[int]) -> None:
    made, completion = pieces(tokens, tuple(stops), sizes)
    whole = Choice(toy_decode, stops, odds=True).whole(completion)
    expected = toy_decode(completion.tokens) if completion.text is None else completion.text
    assert "".join(piece.text for piece in made) == expected == whole.text
    shown = [item for piece in made for item in piece.shown]
    assert shown == whole.shown
    assert [item.token for item in shown] == completion.tokens
    assert [item.odds for item in shown] == completion.odds


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 274), max_size=200))
def test_any_bytes_of_a_tokenizer(tokens: list[int]) -> None:
    """Nearly all of these texts are broken UTF-8, and windows end inside of characters."""
    stream = TextStream(tokenizer().decode)
    text = "".join(stream.feed([token]) for token in tokens)
    assert text + stream.finish(tokens) == tokenizer().decode(tokens)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=80))
def test_text_waits_for_no_more_than_its_character(text: str) -> None:
    text = text.encode(errors="replace").decode()
    tokens = tokenizer().encode(text)
    stream = TextStream(tokenizer().decode)
    for count in range(1, len(tokens) + 1):
        stream.feed(tokens[count - 1 : count])
        known = tokenizer().decode(tokens[:count])
        assert stream.given >= len(known) - 1


def test_a_window_stays_small_whatever_comes() -> None:
    longest = 0

    def decode(tokens: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return toy_decode(tokens)

    stream = TextStream(decode)
    for token in [5] * 300 + [6] * 300 + [5, 6] * 300 + [4] * 300:  # half characters alone, whole ones, no text at all
        stream.feed([token])
    assert longest <= 2 * LONGEST_WINDOW
