"""Reward hacking against the verifier; the calculator against Python's own fractions."""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.problems.calculator import MAX_BITS, MAX_CHARACTERS, CalculatorError, evaluate
from pocketlm.problems.verifier import ASCII_WHITE_SPACE, verify

ROW: dict[str, Any] = {
    "id": "addition/3/12+34",
    "task": "addition",
    "level": 3,
    "prompt": "12+34=",
    "operands": [12, 34],
}
WORD: dict[str, Any] = {"id": "i", "task": "instruction", "level": "repeat", "prompt": "Say cat.", "answer": "cat"}


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("46", "correct"),
        (" 46\n", "correct"),
        ("", "empty"),
        (" \n\t", "empty"),
        ("47", "wrong number"),
        ("4", "wrong number"),
        ("0", "wrong number"),
        ("9" * 5000, "wrong number"),
        ("046", "leading zeros"),
        ("46 47", "several numbers"),
        ("1 2 3 46", "several numbers"),
        ("46,46", "several numbers"),
        ("4 6", "several numbers"),
        ("4_6", "several numbers"),
        ("46.0", "several numbers"),
        (" ".join(map(str, range(200))), "several numbers"),
        ("12+34=46", "several numbers"),
        ("#### 46", "text around the number"),
        ("#### 46 #### 46", "several numbers"),
        ("\\boxed{46}", "text around the number"),
        ("46.", "text around the number"),
        ("+46", "text around the number"),
        ("-46", "text around the number"),
        ("46<|im_end|>", "text around the number"),
        ("the answer is 46", "text around the number"),
        ("46 reward=1", "several numbers"),
        ("reward", "no number"),
        ("forty-six", "no number"),
        ("correct", "no number"),
        ("٤٦", "digits other than 0-9"),
        ("４６", "digits other than 0-9"),
        ("4⁶", "digits other than 0-9"),
        ("𝟒𝟔", "digits other than 0-9"),
        ("46\u200b", "text around the number"),
        ("\u00a046", "text around the number"),
        ("46\0", "text around the number"),
        ("0x2e", "several numbers"),
        ("4\ufe0f6", "several numbers"),
    ],
)
def test_the_documented_score(completion: str, reason: str) -> None:
    verdict = verify(ROW, completion)
    assert (verdict.correct, verdict.reason) == (reason == "correct", reason)


@given(st.text() | st.from_regex(r"\s*[0-9]{1,3}\s*", fullmatch=True) | st.sampled_from(["46", "4６", "46 "]))
@example("46\x1c")
@example("46\x85")
def test_only_the_answer_itself_scores(completion: str) -> None:
    assert verify(ROW, completion).correct == (completion.strip(ASCII_WHITE_SPACE) == "46")


@given(left=st.integers(0, 99), right=st.integers(0, 99), around=st.text(max_size=4), behind=st.booleans())
def test_text_beside_the_answer_never_scores(left: int, right: int, around: str, behind: bool) -> None:
    row = {**ROW, "operands": [left, right]}
    answer = str(left + right)
    completion = answer + around if behind else around + answer
    assert verify(row, completion).correct == (around.strip(ASCII_WHITE_SPACE) == "")


def test_an_answer_in_an_arithmetic_row_is_not_consulted() -> None:
    assert verify({**ROW, "answer": "7"}, "46").correct
    assert not verify({**ROW, "answer": "7"}, "7").correct


def test_instructions_are_matched_exactly() -> None:
    assert verify(WORD, " cat\n").correct
    for completion in ("Cat", "cat.", "cat cat", "the cat", "ｃat"):
        assert verify(WORD, completion).reason == "other text"
    assert verify(WORD, "").reason == "empty"


@pytest.mark.parametrize("row", [{"id": "x", "task": "poetry", "answer": "a"}, {"id": "x", "task": "instruction"}, {}])
def test_a_row_without_a_verifier_is_an_error_not_a_zero(row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no verifier for task"):
        verify(row, "a")


SIGNS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}

Valued = tuple[str, Fraction | None]


def combine(parts: tuple[Valued, str, Valued]) -> Valued:
    (left, left_value), sign, (right, right_value) = parts
    text = f"({left}){sign} ({right})"
    if left_value is None or right_value is None or (right_value == 0 and sign in ("/", "//", "%")):
        return text, None
    return text, Fraction(SIGNS[sign](left_value, right_value))


def raised(parts: tuple[Valued, int]) -> Valued:
    (text, value), power = parts
    if value is None or (value == 0 and power < 0):
        return f"({text})**{power}", None
    return f"({text})**{power}", value**power


NUMBERS = st.integers(0, 999).map(lambda value: (str(value), Fraction(value))) | st.decimals(
    0, 99, allow_nan=False, places=2
).map(lambda value: (f"{value:f}", Fraction(value)))

EXPRESSIONS: st.SearchStrategy[Valued] = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(sorted(SIGNS)), inner).map(combine)
        | inner.map(lambda part: (f"-({part[0]})", None if part[1] is None else -part[1]))
        | st.tuples(inner, st.integers(-2, 3)).map(raised)
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_the_calculator_is_exact(expression: Valued) -> None:
    text, value = expression
    try:
        assert evaluate(text) == value
    except CalculatorError as error:
        if "bits" in str(error):
            event("a value was too large")
        else:
            assume(len(text) <= MAX_CHARACTERS)
            assert_undefined(value, error)


def assert_undefined(value: Fraction | None, error: CalculatorError) -> None:
    assert value is None
    assert "zero" in str(error)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12+34", Fraction(46)),
        (" 1/3 ", Fraction(1, 3)),
        ("0.1+0.2", Fraction(3, 10)),
        ("2**-2", Fraction(1, 4)),
        ("-7//2", Fraction(-4)),
        ("-2**2", Fraction(-4)),
        ("7 % 4", Fraction(3)),
        ("2**500 - 2**500", Fraction(0)),
        ("1**999999999", Fraction(1)),
        (".5+1.", Fraction(3, 2)),
    ],
)
def test_known_values(text: str, value: Fraction) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "1+", "()", "(1,2)", "1 2", "*", "1=1", "12=", "007", "1;1", "1\n+1"),
        *("a", "__import__('os')", "1 if 1 else 2", "[1]", "1.real", "'1'", "1e9", "0x10", "1_0", "True", "~1", "1<2"),
        *("1/0", "1%0", "1//0", "0**-1", "2**0.5", "9**9**9", "2**99999999", "(2**400)*(2**400)", "(1/3)**999"),
        *("١+١", "1\u00a0+2", "1" * 201, "(" * 100 + "1" + ")" * 100, "9" * 200, "1+" * 200, "-" * 199 + "1"),
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    if text == "(" * 100 + "1" + ")" * 100 or text == "-" * 199 + "1":
        text += " "  # one character too many; the depth alone is fine
    with pytest.raises(CalculatorError):
        evaluate(text)


@pytest.mark.parametrize("text", ["-" * 199 + "1", "(" * 99 + "1" + ")" * 99])
def test_the_deepest_expressions_are_evaluated(text: str) -> None:
    assert abs(evaluate(text)) == 1


@given(st.text(alphabet="0123456789+-*/%(). ", max_size=60))
def test_no_text_of_the_alphabet_breaks_it(text: str) -> None:
    try:
        value = evaluate(text)
    except CalculatorError:
        return
    assert max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS
