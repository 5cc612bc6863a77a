"""Licences as SPDX expressions: which are allowed, and that of an installed distribution.

A list of allowed licences fails closed: what is unknown, unstated or no expression is not allowed unless it is listed
letter for letter. Grammar: SPDX specification 2.3, annex D.

The licence of a distribution comes from its metadata. In order: License-Expression (PEP 639); a classifier that names
exactly one licence; the licence file, recognised by sentences that only that licence has; else NOASSERTION. Nothing is
guessed: "BSD License" alone stays open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

NOASSERTION = "NOASSERTION"
STANDARD_LIBRARY = "PSF-2.0"

CLASSIFIERS = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
    "License :: OSI Approved :: BSD 3-Clause License": "BSD-3-Clause",
}
"""Classifiers that stand for one SPDX licence; "BSD License" and the like are left out, for they are ambiguous."""

SENTENCES = (
    ("Apache-2.0", ("apache license", "version 2.0, january 2004")),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("MIT", ("permission is hereby granted, free of charge", "the above copyright notice and this permission notice")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "used to endorse or promote products")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms", "this list of conditions")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
)
"""First sentence of a licence's text, then others that follow it; of two that begin alike the stricter stands first."""

LICENCE_CHARACTERS = 2_500

EXPRESSION_CHARACTERS = 2_000
"""A longer expression is not read: it is no licence, and the parser's depth is bounded by it."""
TOKEN = re.compile(r"\s*([()]|[^\s()]+)")
IDENTIFIER = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+|[A-Za-z0-9][A-Za-z0-9.-]*\+?")
OPERATORS = {name: name.upper() for name in ("and", "or", "with", "AND", "OR", "WITH")}


def is_expression(text: str) -> bool:
    """Whether a text is an SPDX expression; names are not looked up, only the grammar is checked."""
    return _evaluated(text, lambda name: True) is not None


def licence_allowed(expression: str, allowed: Sequence[str]) -> bool:
    """Whether text under a licence may be used when the licences of `allowed` may.

    Of an OR one side suffices, of an AND both must be allowed. `X WITH exception` must be listed as such, `X+` is
    allowed where X is (the user may choose X). NOASSERTION, NONE, an empty text and what is no expression are allowed
    only when listed letter for letter. Case and spaces do not count.
    """
    listed = {_folded(item) for item in allowed}
    if _folded(expression) in listed:
        return True
    return _evaluated(expression, lambda name: name in listed or name.removesuffix("+") in listed) is True


def allowed_mask(column: pa.Array, allowed: Sequence[str]) -> np.ndarray:
    """`licence_allowed` for every value of a column, bool [rows]; null counts as empty. Each value is parsed once."""
    import numpy as np
    import pyarrow.compute as pc

    encoded = pc.fill_null(column, "").dictionary_encode()
    verdicts = np.array([licence_allowed(value, allowed) for value in encoded.dictionary.to_pylist()], bool)
    return np.asarray(verdicts[np.asarray(encoded.indices)])


def _folded(expression: str) -> str:
    return " ".join(expression.lower().split())


def _evaluated(expression: str, holds: Callable[[str], bool]) -> bool | None:
    """The truth of an expression when that of its lower-case names is known; None when it is no expression."""
    if len(expression) > EXPRESSION_CHARACTERS:
        return None
    tokens = TOKEN.findall(expression)
    try:
        value = _either(tokens, holds)
    except (ValueError, RecursionError):
        return None
    return value if not tokens else None


def _either(tokens: list[str], holds: Callable[[str], bool]) -> bool:
    value = _both(tokens, holds)
    while tokens and OPERATORS.get(tokens[0]) == "OR":
        tokens.pop(0)
        right = _both(tokens, holds)  # read in any case: a wrong right side makes the whole wrong
        value = value or right
    return value


def _both(tokens: list[str], holds: Callable[[str], bool]) -> bool:
    value = _licence(tokens, holds)
    while tokens and OPERATORS.get(tokens[0]) == "AND":
        tokens.pop(0)
        right = _licence(tokens, holds)
        value = value and right
    return value


def _licence(tokens: list[str], holds: Callable[[str], bool]) -> bool:
    if tokens and tokens[0] == "(":
        tokens.pop(0)
        value = _either(tokens, holds)
        if not tokens or tokens.pop(0) != ")":
            raise ValueError("an opening parenthesis is not closed")
        return value
    name = _name(tokens)
    if tokens and OPERATORS.get(tokens[0]) == "WITH":
        tokens.pop(0)
        name = f"{name} with {_name(tokens)}"
    return holds(name)


def _name(tokens: list[str]) -> str:
    if not tokens or tokens[0] in OPERATORS or not IDENTIFIER.fullmatch(tokens[0]):
        raise ValueError("a licence is missing")
    return tokens.pop(0).lower()


def licence_of(distribution: Distribution) -> str:
    """SPDX expression of a distribution, or NOASSERTION."""
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return str(metadata["License-Expression"])
    named = sorted({CLASSIFIERS[value] for value in metadata.get_all("Classifier", []) if value in CLASSIFIERS})
    if len(named) == 1:
        return named[0]
    for file in sorted(distribution.files or [], key=str):
        if ".dist-info" in str(file.parent) and file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            text = Path(str(distribution.locate_file(file))).read_text(encoding="utf-8", errors="replace")
            if found := recognised(text):
                return found
    return NOASSERTION


def recognised(text: str) -> str:
    """SPDX name of the licence that a text begins with, or "" when it is none of those known.

    Bundled third-party licences follow the project's own, so the earliest counts.
    """
    folded = " ".join(text.lower().split())
    found = []
    for name, sentences in SENTENCES:
        start = folded.find(sentences[0])
        if start >= 0 and all(part in folded[start : start + LICENCE_CHARACTERS] for part in sentences):
            found.append((start, name))
    return min(found, key=lambda item: item[0])[1] if found else ""
