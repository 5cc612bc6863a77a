"""The licence that a model made elsewhere states for itself, so that an export can pass it on.

Read are, of a Hugging Face folder, the metadata block of its README.md and its licence file; of a GGUF file its general
metadata. Nothing is concluded: what is not stated is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketlm.evaluation.models.loading import ModelLocation

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
_LARGEST = 1 << 20


@dataclass(frozen=True)
class StatedLicence:
    """`name` as stated ("apache-2.0", or "other" with `title`); `text` of the licence file, empty if there is none."""

    name: str = ""
    title: str = ""
    text: str = ""


def stated_licence(location: ModelLocation) -> StatedLicence:
    """What the folder or file says; empty texts where it says nothing."""
    if location.form == "gguf":
        from pocketlm.model.formats.gguf_file import GGUFFile

        metadata = GGUFFile(location.folder).metadata
        return StatedLicence(_text(metadata.get("general.license")), _text(metadata.get("general.license.name")))
    texts = (_read(location.folder / name) for name in LICENCE_FILES)
    front = _front_matter(_read(location.folder / "README.md"))
    return StatedLicence(_text(front.get("license")), _text(front.get("license_name")), next(filter(None, texts), ""))


def _front_matter(card: str) -> dict[str, Any]:
    import yaml

    parts = card.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        block = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return block if isinstance(block, dict) else {}


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _read(path: Path) -> str:
    """Text of a file of reasonable size; nothing for any other."""
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
