"""Settings of the data room. No heavy import: stages name these classes at module level."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from pocketlm.pipeline.settings import EXECUTION, Settings

Share = Annotated[float, Field(ge=0, le=1)]


class SourceSettings(Settings):
    """One source of text. Its place in the recipe is its priority: of duplicates, the earlier source keeps its copy."""

    path: Annotated[str, EXECUTION]
    """A folder, file, glob or archive (.txt .md .jsonl .jsonl.gz .jsonl.zst .parquet, .zip .tar.gz), `hf://` path, or
    `python://documentation`. The content is the identity, not the place, so this stays out of the fingerprint."""
    licence: str | None = None
    """SPDX expression of every document of this source; unset takes what the source knows, else NOASSERTION."""
    text_column: str = "text"
    """JSONL key or Parquet column that holds the text."""
    maximum_document_bytes: int = Field(default=16_000_000, gt=0)
    """A longer document is rejected: a data dump, not a text."""
    maximum_bytes: int | None = Field(default=None, gt=0)
    """Stop after so many bytes of text (`python://documentation`: of source code, 40 MB if unset)."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        """A written recipe must run again from another folder."""
        return path if "://" in path else str(Path(path).expanduser().absolute())


class GateSettings(Settings):
    """Thresholds of the quality gates. The defaults suit technical documentation, which L20-Edu's web thresholds would
    empty: reference pages hold more signs and digits, and long ones reuse their terms."""

    minimum_characters: int = Field(default=200, ge=0)
    maximum_boilerplate_phrases: int = Field(default=0, ge=0)
    minimum_letter_share: Share = 0.4
    maximum_digit_share: Share = 0.25
    minimum_words: int = Field(default=40, ge=0)
    minimum_unique_word_share: Share = 0.04
    maximum_repeated_line_share: Share = 0.5
    maximum_repeated_ngram_share: Share = 0.5


class NearDuplicateSettings(Settings):
    """MinHash LSH: `bands` x `rows` choose the candidates, exact Jaccard >= `threshold` decides."""

    threshold: Share = 0.75
    bands: int = Field(default=25, ge=1)
    rows: int = Field(default=5, ge=1)


class HeldOutSettings(Settings):
    """Documents kept from training, chosen by the hash of their text: same text, same split, whatever is around it."""

    report_share: Share = 0.02
    selection_share: Share = 0.01
    minimum_documents: int = Field(default=16, ge=1)
    """Each split gets at least so many documents."""
