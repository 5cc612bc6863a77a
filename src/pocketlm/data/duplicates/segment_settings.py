"""Settings of the rules against repeated text inside documents. No heavy import: stages name this class."""

from __future__ import annotations

from pydantic import Field

from pocketlm.data.settings import Share
from pocketlm.pipeline.settings import Settings


class SegmentSettings(Settings):
    """What counts as a repeat, and how much of a document may be one. Defaults of L20-Edu (arXiv 2606.22189), except
    for the spans, which it does not have."""

    minimum_paragraph_characters: int = Field(default=240, ge=1)
    """Shorter paragraphs are not compared."""
    minimum_sentence_characters: int = Field(default=160, ge=1)
    """Shorter sentences are not compared."""
    minimum_sentence_words: int = Field(default=16, ge=1)
    """Sentences of fewer words are not compared: long ones of few words are tables and addresses."""
    span_words: int | None = Field(default=50, ge=8)
    """Runs of so many words or more that occurred before are cut, wherever they begin; null: spans are not sought."""
    maximum_repeated_share: Share = 0.3
    """A document with a larger share of repeated segments is rejected whole."""
    minimum_characters_left: int = Field(default=200, ge=0)
    """A document that keeps fewer characters after cutting is rejected."""
    dry_run: bool = False
    """List what would be cut, and cut and reject nothing."""
