"""Licence of an installed distribution as an SPDX expression, from its metadata.

In order: License-Expression (PEP 639); a classifier that names exactly one licence; the licence file, recognised by
sentences that only that licence has; else NOASSERTION. Nothing is guessed: "BSD License" alone stays open.
"""

from __future__ import annotations

from importlib.metadata import Distribution
from pathlib import Path

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
