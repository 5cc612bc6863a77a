"""The pages of the documentation, and what is read out of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOP_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in TOP_PAGES if (ROOT / name).exists())])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
PLACEHOLDER = "NAME"
"""In a setting: a name that a recipe chooses."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, content) of every fenced block."""
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield match[1], match[2]


def spans(page: Path) -> list[str]:
    """Inline code outside of fenced blocks."""
    return INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
