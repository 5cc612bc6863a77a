"""The chat page's files as they stand: nothing from elsewhere, no markup from text, nothing that the policy forbids."""

from __future__ import annotations

import re

from pocketlm.serving.page_files import FOLDER, page_files

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
MARKUP = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|ContextualFragment|srcdoc|\beval\b|new Function"
)


def test_every_file_is_served_and_every_file_that_is_named_exists() -> None:
    served = set(page_files())
    assert served == {"/"} | {f"/{name}" for name in TEXTS if name != "index.html"}
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', TEXTS["index.html"]))
    named |= {name.removeprefix("./") for text in SCRIPTS.values() for name in re.findall(r'from "([^"]+)"', text)}
    assert named == {name for name in TEXTS if name != "index.html"}


def test_nothing_comes_from_elsewhere_and_no_text_becomes_markup() -> None:
    for name, text in TEXTS.items():
        assert re.findall(r"\w+://(?!www\.w3\.org/2000/svg)", text) == [], name
    for name, text in SCRIPTS.items():
        assert re.findall(MARKUP, text) == [], name


def test_the_page_has_no_inline_script_and_no_inline_style() -> None:
    """`default-src 'self'` would refuse them, silently for a reader."""
    page = TEXTS["index.html"]
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []
    assert re.findall(r"<script[^>]*>[^<]", page) == []
    assert "default-src 'self'" in page_files()["/"].headers["content-security-policy"]
