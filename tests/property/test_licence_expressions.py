"""Allowed licences against Python's own Boolean grammar, and the cases that must fail closed."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.data.sources.licences import allowed_mask, is_expression, licence_allowed

NAMES = ["MIT", "Apache-2.0", "GPL-3.0-only", "LicenseRef-own.1", "CC-BY-4.0"]
leaves = st.sampled_from(NAMES)
trees = st.recursive(leaves, lambda inner: st.tuples(st.sampled_from(["AND", "OR"]), inner, inner), max_leaves=12)


def written(tree: object, outer: str = "") -> str:
    """A tree with only the parentheses that it needs: AND binds stronger than OR."""
    if isinstance(tree, str):
        return tree
    operator, left, right = tree  # type: ignore[misc]
    text = f"{written(left, operator)} {operator} {written(right, operator)}"
    return f"({text})" if outer == "AND" and operator == "OR" else text


@given(trees, st.sets(leaves))
def test_expressions_have_the_value_that_python_gives_them(tree: object, allowed: set[str]) -> None:
    expression = written(tree)
    python = expression.replace("AND", "and").replace("OR", "or")
    for number, name in enumerate(NAMES):
        python = python.replace(name, f"v{number}")
    values = {f"v{number}": name in allowed for number, name in enumerate(NAMES)}
    assert licence_allowed(expression, sorted(allowed)) == eval(python, {}, values)
    assert licence_allowed(f"  {expression.lower().replace(' ', '  ')}", sorted(allowed)) == eval(python, {}, values)


@given(st.text(alphabet="MIT() +ANDORWITH-.:licensereflr09 ", max_size=30))
def test_whatever_the_text_there_is_an_answer(text: str) -> None:
    if not is_expression(text):
        assert not licence_allowed(text, NAMES)


CLOSED = ["", " ", "NOASSERTION", "NONE", "public domain", "MIT (GPT-4 outputs)", "MIT OR", "OR MIT", "MIT,Apache-2.0"]


@pytest.mark.parametrize("text", [*CLOSED, "MIT) OR (MIT", "()", "MIT MIT", "(" * 5_000, "MIT AND NOASSERTION"])
def test_what_is_not_known_is_not_allowed_unless_listed_literally(text: str) -> None:
    assert not licence_allowed(text, ["MIT", "Apache-2.0"])
    assert licence_allowed(text, ["MIT", text.upper()])
    assert not licence_allowed(text, [])


def test_exceptions_and_later_versions() -> None:
    assert not licence_allowed("Apache-2.0 WITH LLVM-exception", ["Apache-2.0"])
    assert licence_allowed("MIT OR Apache-2.0 WITH LLVM-exception", ["apache-2.0 with llvm-exception"])
    assert licence_allowed("EUPL-1.1+", ["EUPL-1.1"])
    assert not licence_allowed("EUPL-1.1", ["EUPL-1.1+"])


def test_a_column_at_once() -> None:
    column = pa.array(["MIT", None, "MIT AND X", "X OR MIT", "NOASSERTION"] * 3)
    assert allowed_mask(column, ["MIT"]).tolist() == [True, False, False, True, False] * 3
    assert allowed_mask(pa.array([], pa.string()), ["MIT"]).tolist() == []
    assert allowed_mask(pa.array([None, "x"]), [""]).tolist() == [True, False]
