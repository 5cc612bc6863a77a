"""What a recorded hash of something that was read from outside is a hash of: not each is that of a file's bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DISTRIBUTIONS = "python://"
"""How the place of a source begins that is read from installed distributions, not from files of its own."""
GIT = "git:"
"""Before a hash that a hub states of a small file."""


@dataclass(frozen=True)
class RecordedHash:
    """A hash as the table *Files that were read* states it.

    Attributes:
        kind: `file`: sha256 of its bytes. `git`: git's hash of it, a sha1 over its size and bytes. `texts`: sha256 over
            the names and texts of the documents that a distribution gave.
        digits: hexadecimal, in small letters.
    """

    kind: Literal["file", "git", "texts"]
    digits: str

    @property
    def words(self) -> str:
        """What it is, for a reader."""
        return {
            "file": "sha256 of that file when it was read",
            "git": "git's hash of that file when it was read (a sha1 over its size and bytes)",
            "texts": "sha256 over the names and texts of all documents that this distribution gave (no file's hash)",
        }[self.kind]


def recorded_hash(recorded: str, place: str) -> RecordedHash:
    """What was recorded of something that was read from a source at `place`."""
    if recorded.startswith(GIT):
        return RecordedHash("git", recorded.removeprefix(GIT))
    return RecordedHash("texts" if place.startswith(DISTRIBUTIONS) else "file", recorded)
