"""Documentation of the installed Python: what is read, in which form, under which licence; and that nothing runs."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from pocketlm.data.sources import python_documentation as documentation
from pocketlm.data.sources.licences import licence_of, recognised
from pocketlm.data.sources.source_settings import DOCUMENTATION, SourceSettings
from pocketlm.data.sources.sources import content_identity, read_source

MODULE = b'''
"""A module.

    Indented."""
import does_not_exist
raise SystemExit("a documentation reader must not run this")

def f(a, b: int = 3, *rest, key=None, **more) -> str:
    """Does f.

    More on f.
    """
    def inner():
        """Not shown."""

class C(Base, meta=True):
    """Is a C."""
    async def method(self):
        """Awaits."""
    class D:
        def undocumented(self): ...
        def g(self):
            "Single quotes."
try:
    def h():
        """Conditional."""
except ImportError:
    pass
'''

DOCUMENT = """# pkg.mod

A module.

Indented.

## f(a, b=3, *rest, key=None, **more)

Does f.

More on f.

## C(Base)

Is a C.

### C.method(self)

Awaits.

#### C.D.g(self)

Single quotes.

## h()

Conditional.
"""


def test_a_module_becomes_one_document_and_is_not_run() -> None:
    assert documentation.module_document(MODULE, "pkg.mod") == DOCUMENT


@pytest.mark.parametrize(
    "content", [b"x = 1", b"def broken(:", b"\0", b"", b'x = "\\d"', b"# -*- coding: nonsense -*-"]
)
def test_modules_without_documentation_give_no_document(content: bytes) -> None:
    assert documentation.module_document(content, "m") == ""


def test_names_of_modules_and_reading_order() -> None:
    packages, _ = documentation.installed_packages()
    files = list(documentation.source_files([package for package in packages if package.name in ("click", "torch")]))
    names = [str(file.name) for file in files]
    modules = {file.module for file in files}
    assert {"json", "json.decoder", "click.core", "torch.nn.functional", "torch.functional"} <= modules
    assert not any("test" in name.split("/") or "pydoc_data" in name or "site-packages" in name for name in names)
    assert not any(name.startswith("torch/_inductor") for name in names)
    origins = [file.origin for file in files]
    assert origins == sorted(origins, key=["standard library", "click", "torch"].index)
    assert all(names[at] < names[at + 1] for at in range(len(names) - 1) if origins[at] == origins[at + 1])
    assert "pocketlm" not in documentation.DISTRIBUTIONS


def test_the_budget_of_source_bytes_is_used_up_to_the_first_file_that_does_not_fit() -> None:
    budget, files = 300_000, list(documentation.source_files([]))
    read = list(documentation.documented_files(files, budget))
    spent = sum(len(content) for _, _, content in read)
    _, _, following = next(documentation.documented_files(files[read[-1][0] + 1 :], 10**9))
    assert spent <= budget < spent + len(following)


def test_the_three_parts_become_three_sources() -> None:
    before = set(sys.modules)
    settings = SourceSettings(path=DOCUMENTATION, maximum_bytes=300_000)
    found = list(read_source("docs", settings))
    assert list(dict.fromkeys(entry.source for entry in found)) == [
        "docs/reference",
        "docs/docstrings",
        "docs/packages",
    ]
    assert len({entry.id for entry in found}) == len(found)
    reference = next(entry for entry in found if entry.id == "docs/reference/assert")
    assert isinstance(reference.content, bytes)
    assert reference.content.startswith(b'The "assert" statement')
    assert (reference.licence, reference.origin) == ("PSF-2.0", "standard library")
    package = next(entry for entry in found if entry.id == "docs/packages/numpy")
    assert isinstance(package.content, bytes)
    assert package.content.startswith(b"# numpy\n\nFundamental package for array computing")
    assert package.licence.startswith("BSD-3-Clause")
    assert found == list(read_source("docs", settings))
    loaded = set(sys.modules) - before
    assert not loaded & {"torch", "scipy", "sklearn", "networkx", "pydoc_data.topics", "click.core"}


def test_identity_depends_on_what_is_read() -> None:
    small = SourceSettings(path=DOCUMENTATION, maximum_bytes=200_000)
    large = SourceSettings(path=DOCUMENTATION, maximum_bytes=400_000)
    assert content_identity("docs", small) == content_identity("docs", small) != content_identity("docs", large)


def distribution(folder: Path, metadata: str, licence: str = "") -> Distribution:
    info = folder / "thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: thing\nVersion: 1.0\n{metadata}\n")
    (info / "LICENSE.txt").write_text(licence)
    (info / "RECORD").write_text("thing-1.0.dist-info/LICENSE.txt,,\n")
    return PathDistribution(info)


BSD = (
    "Copyright Someone\nRedistribution and use in source and binary\nforms, with or without modification ... "
    "this list of conditions and the following disclaimer. "
)
ENDORSE = "Neither the name ... may be used to endorse or promote products derived"
MIT = "Permission is hereby granted, free of charge, ... The above copyright notice and this permission notice"
CLASSIFIER = "Classifier: License :: OSI Approved ::"


@pytest.mark.parametrize(
    ("metadata", "licence", "expected"),
    [
        (
            f"License-Expression: MIT OR Zlib\n{CLASSIFIER} Apache Software License",
            "",
            "MIT OR Zlib",
        ),
        ("Classifier: License :: OSI Approved :: MIT License", BSD, "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License", BSD + ENDORSE, "BSD-3-Clause"),
        ("", BSD, "BSD-2-Clause"),
        (
            f"{CLASSIFIER} MIT License\n{CLASSIFIER} Apache Software License",
            "ask me",
            "NOASSERTION",
        ),
        ("License: free for all", "Do what you like.", "NOASSERTION"),
        ("", f"{BSD + ENDORSE}\n\nBundled:\n{MIT}", "BSD-3-Clause"),
    ],
)
def test_licence_of_a_distribution(tmp_path: Path, metadata: str, licence: str, expected: str) -> None:
    assert licence_of(distribution(tmp_path, metadata, licence)) == expected


def test_a_licence_that_only_resembles_is_not_recognised() -> None:
    assert recognised("Permission is hereby granted, free of charge, to my friends.") == ""
