"""Cleaning: what is normalised in every document before anything is measured.

Unicode NFC (not NFKC as L20-Edu does: NFKC turns x² into x2 and breaks formulas and code), line ends to "\n", control
characters dropped, runs of spaces inside a line collapsed (indentation kept: it carries meaning in code and lists),
trailing spaces dropped, consecutive equal lines dropped, at most one empty line in a row, outer white space dropped.
"""

from __future__ import annotations

import re
import unicodedata

import pyarrow as pa

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u200b\u2060]")
INNER_SPACES = re.compile(r"(?<=\S)[ \t\u00a0]{2,}(?=\S)")


def clean(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Cleaned copy of an Arrow string array (large_string, same length)."""
    return pa.array([clean_document(value.as_py()) for value in texts], pa.large_string())


def clean_document(text: str) -> str:
    """One document cleaned."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = INNER_SPACES.sub(" ", CONTROL.sub("", text))
    kept: list[str] = []
    for line in text.split("\n"):
        stripped = line.rstrip()
        if not kept or stripped != kept[-1]:
            kept.append(stripped)
    return "\n".join(kept).strip("\n")
