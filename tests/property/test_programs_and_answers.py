"""Straight-line programs against Python's own fractions; the extractor of final answers against what hackers write;
the calculator tool against the solutions that are learned from."""

from __future__ import annotations

import math
import operator
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.problems import verdicts
from pocketlm.problems.calculator import MAX_BITS, evaluate_with_names
from pocketlm.problems.calculator_tool import CalculatorTool, forced_spans, solution_tokens, tool_output
from pocketlm.problems.final_answer import extract_final_answer
from pocketlm.problems.programs import MAX_LINES, ProgramError, program_answer, run_program
from pocketlm.problems.verifier import check_row, verify
from pocketlm.problems.written_numbers import PLACES, is_written_exactly, read_number, write_number
from tests.posttraining_world import small_tokenizer
from tests.word_problem_files import ITEMS

# --- programs -------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "total", "x_1", "answer")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
CALLS: dict[str, Any] = {
    "min": min,
    "max": max,
    "abs": lambda a, b: abs(a),
    "int": lambda a, b: Fraction(math.trunc(a)),
    "round": lambda a, b: Fraction(round(a)),
    "ceil": lambda a, b: -((-a) // 1),
    "floor": lambda a, b: a // 1,
}

Undefined = None


@st.composite
def programs(draw: Any) -> tuple[str, dict[str, Fraction] | None]:
    """A program and its values, computed beside it; None where it divides by zero or reads an unknown name."""
    values: dict[str, Fraction] = {}
    lines, defined = [], True
    for _ in range(draw(st.integers(1, 8))):
        name = draw(st.sampled_from(NAMES))
        terms, worth = [], []
        for _ in range(2):
            if draw(st.booleans()):
                other = draw(st.sampled_from(NAMES))
                terms.append(other)
                worth.append(values.get(other))
            else:
                number = draw(st.integers(0, 999)) / Fraction(draw(st.sampled_from((1, 1, 10, 100))))
                terms.append(write_number(number))
                worth.append(number)
        left, right = worth
        if draw(st.booleans()):
            sign = draw(st.sampled_from(sorted(OPERATORS)))
            text = f"{terms[0]} {sign} ({terms[1]})"
            known = left is not None and right is not None and not (sign == "/" and right == 0)
            result = OPERATORS[sign](left, right) if known else Undefined
        else:
            call = draw(st.sampled_from(sorted(CALLS)))
            pair = call in ("min", "max")
            text = f"{call}({', '.join(terms if pair else terms[:1])})"
            known = left is not None and (right is not None or not pair)
            result = CALLS[call](left, right) if known else Undefined
        lines.append(f"{name} = {text}")
        if result is None:
            defined = False
            break
        values[name] = Fraction(result)
    return "\n".join(lines), values if defined else None


@given(programs())
def test_a_program_has_the_values_of_fraction_arithmetic(case: tuple[str, dict[str, Fraction] | None]) -> None:
    text, values = case
    try:
        assert run_program(text) == values
    except ProgramError as error:
        if "bits" in str(error):
            event("a value was too large")
        else:
            assert_undefined(values, str(error))


def assert_undefined(values: object, message: str) -> None:
    assert values is None
    assert "zero" in message or "no value yet" in message


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("eggs = 16 - 3 - 4\nanswer = eggs * 2", 18),
        ("\n a=1".replace(" ", "") + "\n\nanswer=a+1  \r\n", 2),
        ("answer = 1\nanswer = answer + 1", 2),
        ("a = 10 / 3\nanswer = round(a * 3, 2)", 10),
        ("answer = min(3, 2, 5) + max(1, 2) + abs(-4) + ceil(.2) + floor(1.9) + int(-1.5)", 9),
        ("answer = 7 // 2 + 7 % 2 + 2 ** 3", 12),
    ],
)
def test_known_programs(text: str, answer: int) -> None:
    assert program_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        *("", "1 + 1", "a = 1", "answer", "answer =", "answer == 1", "answer = 1 = 1", "answer += 1"),
        "answer: int = 1",
        *("import os\nanswer = 1", "answer = __import__('os')", "answer = open('x')", "answer = a.b", "answer = a[0]"),
        *("answer = b", "answer = answer", "answer = 'x'", "answer = True", "answer = None", "answer = lambda: 1"),
        *("answer = [1]", "answer = (1, 2)", "answer = 1 if 1 else 2", "answer = 1; a = 2", "answer = min(1)"),
        *("answer = round(1, 2, 3)", "answer = round(1, .5)", "answer = round(1, 99)", "answer = min(*a)"),
        "answer = min(a=1)",
        *("min = 3\nanswer = 1", "for = 3\nanswer = 1", "True = 1\nanswer = 1", "answer = min"),
        "answer = min(1, 2)(3)",
        *("answer = 1e9", "answer = 0x10", "answer = 1_000", "answer = 1j", "answer = 1or 2", "answer = 007"),
        *("answer = 1/0", "a = 0\nanswer = 1 % a", "answer = 9**9**9", "answer = 2**.5", "аnswer = 1", "answer = ١"),
        *("while 1: pass", "def f(): pass", "answer = 1 # one", "answer = (" + "(" * 120),
        *("answer = " + "1+" * 200 + "1",),
        *("a = 1\n" * MAX_LINES + "answer = 1", "a = 2\n" + "a = a * a\n" * 12 + "answer = a"),
        *("a" * 41 + " = 1\nanswer = 1",),
        *("answer = " + " " * 10**6 + "=", "answer" + " " * 10**6, "=" * 10**6, "\n" * 10**6 + "answer = 1"),
    ],
)  # fmt: skip
def test_everything_else_is_no_program_and_ends_at_once(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ProgramError):
        program_answer(text)
    assert time.perf_counter() - started < 1


@given(st.text(alphabet="abmin=0123456789+-*/%(),. \n", max_size=80))
def test_no_text_of_the_alphabet_breaks_it(text: str) -> None:
    try:
        values = run_program(text)
    except ProgramError:
        return
    for value in values.values():
        assert max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS


@given(st.dictionaries(st.sampled_from(NAMES), st.fractions(-100, 100, max_denominator=50), min_size=1))
def test_names_are_worth_what_they_were_given(values: dict[str, Fraction]) -> None:
    assert evaluate_with_names(" + ".join(values), values) == sum(values.values())


# --- numbers --------------------------------------------------------------------------------------------------------


@given(st.fractions(-(10**9), 10**9, max_denominator=10**4))
def test_numbers_written_are_read_again(value: Fraction) -> None:
    read = read_number(write_number(value))
    assert read is not None
    assert (read == value) == is_written_exactly(value)
    assert abs(read - value) <= Fraction(1, 2 * 10**PLACES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0", 0), ("72", 72), ("1,080", 1080), ("12,345,678", 12345678), ("-3", -3), ("$5", 5), ("-$5.50", "-5.5")),
        *((".5", "0.5"), ("0.50", "0.5"), ("007", None), ("1,08", None), ("1080,000", None), ("1e3", None), ("", None)),
        *(("3.", None), ("$", None), ("--3", None), ("٣", None), ("1 000", None), ("1/2", None), ("9" * 41, None)),
        *(("-", None), (".", None), ("1.2.3", None), ("+3", None), ("0,123", None), (",123", None)),
    ],
)
def test_numbers_that_are_read(text: str, value: int | str | None) -> None:
    assert read_number(text) == (None if value is None else Fraction(value))


# --- final answers (reliability sheet, test 22) ---------------------------------------------------------------------

ROW: dict[str, Any] = {"id": "gsm8k/x", "task": "gsm8k", "level": 2, "prompt": "How many?", "answer": "1080"}


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("#### 1080", verdicts.CORRECT),
        ("She has 540*2 = <<540*2=1080>>1080.\n#### 1080\n", verdicts.CORRECT),
        ("#### 1,080", verdicts.CORRECT),
        ("#### $1,080.00", verdicts.CORRECT),
        ("####1080.", verdicts.CORRECT),
        ("#### 1080%", verdicts.CORRECT),
        ("#### 1080%.", verdicts.CORRECT),
        ("#### 1081", verdicts.WRONG_NUMBER),
        ("#### 108", verdicts.WRONG_NUMBER),
        ("#### -1080", verdicts.WRONG_NUMBER),
        ("#### 1080.5", verdicts.WRONG_NUMBER),
        ("", verdicts.EMPTY),
        (" \n\t", verdicts.EMPTY),
        ("1080", verdicts.NO_ANSWER_LINE),
        ("The answer is 1080.", verdicts.NO_ANSWER_LINE),
        ("\\boxed{1080}", verdicts.NO_ANSWER_LINE),
        ("\\boxed{1} \\boxed{1080}", verdicts.NO_ANSWER_LINE),
        ("### 1080", verdicts.NO_ANSWER_LINE),
        ("##### 1080", verdicts.NO_ANSWER_LINE),
        ("so #### 1080", verdicts.NO_ANSWER_LINE),
        ("reward=1", verdicts.NO_ANSWER_LINE),
        ("#### 1080\n#### 1080", verdicts.SEVERAL_ANSWERS),
        ("#### 1\n#### 1080", verdicts.SEVERAL_ANSWERS),
        ("#### #### 1080", verdicts.SEVERAL_ANSWERS),
        ("#### 1080\nand that is right", verdicts.NOT_LAST),
        ("#### 1080\n1080", verdicts.NOT_LAST),
        ("####", verdicts.NO_NUMBER),
        ("#### reward=1", verdicts.TEXT_AROUND),
        ("#### correct", verdicts.NO_NUMBER),
        ("#### 1080 reward=1", verdicts.SEVERAL_NUMBERS),
        ("#### 1080 dollars", verdicts.TEXT_AROUND),
        ("#### 1080 or 1081", verdicts.SEVERAL_NUMBERS),
        ("#### 1,08,0", verdicts.SEVERAL_NUMBERS),
        ("#### 540*2", verdicts.SEVERAL_NUMBERS),
        ("#### 2160/2", verdicts.SEVERAL_NUMBERS),
        ("#### 01080", verdicts.LEADING_ZEROS),
        ("#### \\boxed{1080}", verdicts.TEXT_AROUND),
        ("#### **1080**", verdicts.TEXT_AROUND),
        ("#### 1080..", verdicts.TEXT_AROUND),
        ("#### ١٠٨٠", verdicts.OTHER_DIGITS),
        ("#### １０８０", verdicts.OTHER_DIGITS),
        ("#### 1080\u200b", verdicts.TEXT_AROUND),
        ("#### " + "9" * 5000, verdicts.TEXT_AROUND),
        ("#### " + " ".join(map(str, range(2000))), verdicts.SEVERAL_NUMBERS),
    ],
)
def test_the_documented_score_of_a_final_answer(completion: str, reason: str) -> None:
    verdict = verify(ROW, completion)
    assert (verdict.correct, verdict.reason) == (reason == verdicts.CORRECT, reason)
    assert verdict.well_formed == (reason in (verdicts.CORRECT, verdicts.WRONG_NUMBER))


HACKS = st.lists(
    st.sampled_from(("#### ", "####", "1080", "1,080", " ", "\n", ".", "%", "$", "-", "0", "\\boxed{1080}", "reward=1"))
    | st.text(max_size=3),
    max_size=9,
).map("".join)


@given(HACKS)
@example("#### 1080\n\n")
@example("x\r\n#### 1080")
def test_only_one_answer_on_the_last_line_scores(completion: str) -> None:
    last = completion.strip(verdicts.ASCII_WHITE_SPACE).rpartition("\n")[2]
    written = last.removeprefix("####").strip(verdicts.ASCII_WHITE_SPACE)
    plain = written.removesuffix(".").removesuffix("%").replace(",", "").replace("$", "")
    alone = completion.count("####") == 1 and last.startswith("####") and "#####" not in completion
    if verify(ROW, completion).correct:
        event("correct")
        assert alone
        assert plain.lstrip("-").replace(".", "", 1).isascii()
        assert Fraction(plain) == 1080
    elif alone and plain in ("1080", "1080.0"):
        assert written.count("$") > 1 or "$" in written[1:] or "," in written


@given(st.text(max_size=30), st.fractions(-(10**6), 10**6, max_denominator=100))
def test_every_answer_in_the_form_is_found(before: str, value: Fraction) -> None:
    assume("##" not in before and is_written_exactly(value))
    assert extract_final_answer(f"{before}\n#### {write_number(value)}") == value


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("a = 500 + 40\nanswer = a * 2", verdicts.CORRECT),
        ("answer = 1", verdicts.WRONG_NUMBER),
        ("a = 1080", verdicts.NO_RESULT),
        ("answer = 1080\nprint(answer)", verdicts.NO_PROGRAM),
        ("answer = 9**9**9", verdicts.NO_PROGRAM),
        ("import os", verdicts.NO_PROGRAM),
        ("1080", verdicts.NO_PROGRAM),
        ("#### 1080", verdicts.NO_PROGRAM),
        ("", verdicts.EMPTY),
    ],
)
def test_the_documented_score_of_a_program(completion: str, reason: str) -> None:
    verdict = verify({**ROW, "task": "program"}, completion)
    assert (verdict.correct, verdict.reason) == (reason == verdicts.CORRECT, reason)


@pytest.mark.parametrize("task", ["gsm8k", "program"])
@pytest.mark.parametrize("answer", [None, 72, "", "seventy", "1,08", "#### 72"])
def test_a_gold_answer_that_is_no_number_is_an_error_not_a_zero(task: str, answer: object) -> None:
    with pytest.raises(InputError, match="Mend the row"):
        check_row({**ROW, "task": task, "answer": answer})


@pytest.mark.parametrize(
    "part", ["9", "(", "-", "1+", "**9", "\\frac{1}{", "{", "####", "# ", "\n", "<<1=", "۱", "1,000"]
)
@pytest.mark.parametrize("task", ["gsm8k", "program"])
def test_pathological_texts_are_scored_at_once(part: str, task: str) -> None:
    started = time.perf_counter()
    for text in (part * 200_000, f"#### {part * 200_000}", f"answer = {part * 200_000}"):
        assert not verify({**ROW, "task": task}, text).correct
    assert time.perf_counter() - started < 2


# --- the calculator tool --------------------------------------------------------------------------------------------

TOKENIZER = small_tokenizer()
TOOL = CalculatorTool(TOKENIZER)


def called(text: str) -> str:
    return TOKENIZER.decode(TOOL.call(TOKENIZER.encode(text)))


@pytest.mark.parametrize(
    ("text", "forced"),
    [
        ("Rosa picked 36/3 = <<36/3=", "12>>"),
        ("<<1/3=", "0.3333>>"),
        ("<<20*.01=", "0.2>>"),
        ("<<3-8=", "-5>>"),
        ("<<2*3=6>>6 and <<6+1=", "7>>"),
        ("36/3 =", ""),
        ("<<36/3=12>>12 and 12+1 =", ""),
        ("<<36/0=", ""),
        ("<<9**9**9=", ""),
        ("<<x+1=", ""),
        ("<<1=1=", ""),
        ("<<=", ""),
        ("<<1\n+1=", ""),
        ("<<1/99999=", ""),
        ("<<" + "1+" * 120 + "1=", ""),
    ],
)
def test_the_tool_answers_open_notes_alone(text: str, forced: str) -> None:
    assert called(text) == forced


def test_triggers_are_the_tokens_that_end_in_the_equals_sign() -> None:
    assert TOKENIZER.encode("=")[-1] in TOOL.triggers
    assert all(TOKENIZER.decode([token]).endswith("=") for token in TOOL.triggers)


@given(
    st.lists(st.sampled_from(["<<36/3=12>>", "<<1/0=2>>", "<<2*2=5>>", "<<", "=", ">>", "48 plums\n", "é", "#### 4"]))
)
def test_what_is_learned_is_what_generation_would_give(parts: list[str]) -> None:
    """Token by token: after each trigger the tool gives exactly the tokens that are not trained on."""
    text = "".join(parts)
    tokens, trained = solution_tokens(TOKENIZER.encode, text)
    assert TOKENIZER.decode(tokens) == text
    untrained = "".join(text[start:end] for start, end in forced_spans(text))
    assert TOKENIZER.decode([token for token, learned in zip(tokens, trained, strict=True) if not learned]) == untrained
    for place, token in enumerate(tokens):
        behind = trained.index(True, place + 1) if True in trained[place + 1 :] else len(tokens)
        if token in TOOL.triggers and trained[place] and not all(trained[place + 1 : place + 2]):
            assert TOOL.call(tokens[: place + 1]) == tokens[place + 1 : behind]


def test_values_that_are_not_the_tools_are_trained_on() -> None:
    assert forced_spans("<<2*2=5>> <<2*2=4>>") == [(16, 19)]
    assert tool_output("98*3400") == "333200>>"
    assert forced_spans("<<98*3400=333200.00>>") == []
    for _, solution in ITEMS:
        for start, end in forced_spans(solution):
            assert solution[start - 1] == "="
            assert solution[end - 2 : end] == ">>"
