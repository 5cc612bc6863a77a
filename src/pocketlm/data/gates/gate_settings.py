"""Thresholds of the quality gates, and how ready sets and per-source values become thresholds. No heavy import.

A threshold of None turns its gate off. Without `sets` the L20-Edu gates stand at this class's defaults. With `sets`,
exactly the gates of those sets are on, as published, and what the recipe writes beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from pocketlm.data.gates.gate_sets import thresholds_of_sets
from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class GateSettings(Settings):
    """Thresholds of the quality gates. The defaults suit technical documentation, which L20-Edu's web thresholds would
    empty: reference pages hold more signs and digits, and long ones reuse their terms."""

    sets: tuple[str, ...] = ()
    """Ready sets (`gopher`, `c4`, `fineweb`, `l20-edu`, `l20-edu/SOURCE`): see docs/stages/gates.md. Of two that both
    give a threshold the stricter holds; a value written beside them wins."""

    minimum_score: float | None = None
    """Quality score of the document; without a score it fails."""
    minimum_integer_score: int | None = None
    """The same score limited to 0..5 and rounded, FineWeb-Edu's `int_score`."""
    languages: tuple[str, ...] = ("en",)
    """Languages that `minimum_language_confidence` asks for, by the labels of the language model."""
    minimum_language_confidence: Share | None = None

    minimum_characters: Count | None = 200
    maximum_characters: Count | None = None
    maximum_boilerplate_phrases: Count | None = 0
    minimum_letter_share: Share | None = 0.4
    maximum_digit_share: Share | None = 0.25
    minimum_words: Count | None = 40
    minimum_unique_word_share: Share | None = 0.04
    maximum_repeated_line_share: Share | None = 0.5
    maximum_repeated_ngram_share: Share | None = 0.5

    minimum_gopher_words: Count | None = None
    maximum_gopher_words: Count | None = None
    minimum_mean_word_length: Ratio | None = None
    maximum_mean_word_length: Ratio | None = None
    maximum_hash_sign_ratio: Ratio | None = None
    maximum_ellipsis_ratio: Ratio | None = None
    maximum_bullet_line_share: Share | None = None
    maximum_ellipsis_line_share: Share | None = None
    minimum_letter_word_share: Share | None = None
    minimum_stop_words: Annotated[int, Field(ge=0, le=8)] | None = None

    maximum_duplicate_paragraph_share: Share | None = None
    maximum_duplicate_paragraph_character_share: Share | None = None
    maximum_duplicate_line_share: Share | None = None
    maximum_duplicate_line_character_share: Share | None = None
    maximum_top_2gram_share: Ratio | None = None
    maximum_top_3gram_share: Ratio | None = None
    maximum_top_4gram_share: Ratio | None = None
    maximum_duplicate_5gram_share: Share | None = None
    maximum_duplicate_6gram_share: Share | None = None
    maximum_duplicate_7gram_share: Share | None = None
    maximum_duplicate_8gram_share: Share | None = None
    maximum_duplicate_9gram_share: Share | None = None
    maximum_duplicate_10gram_share: Share | None = None

    minimum_terminated_line_share: Share | None = None
    maximum_short_line_share: Share | None = None
    maximum_line_character_duplicates: Share | None = None
    maximum_newlines_per_word: Ratio | None = None

    cut_c4_lines: bool = False
    """Cleaning also cuts the lines that C4 cuts (`c4_lines.py`)."""
    maximum_lorem_ipsum: Count | None = None
    maximum_curly_brackets: Count | None = None
    minimum_sentences: Count | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _fill_from_sets(cls, values: Any, validated: ModelWrapValidatorHandler[GateSettings]) -> GateSettings:
        """Turn `sets` into thresholds at once, so that a settings object always says what it does."""
        settings = validated(values)
        if not settings.sets:
            return settings
        written = {name: getattr(settings, name) for name in settings.model_fields_set}
        off = {name: None for name, field in cls.model_fields.items() if _is_threshold(name, field.default)}
        return validated({**off, **thresholds_of_sets(settings.sets), **written})


def _is_threshold(name: str, default: Any) -> bool:
    return name.startswith(("minimum_", "maximum_")) and default is not None


def thresholds_of(default: GateSettings, overrides: Mapping[str, Mapping[str, Any]], source: str) -> GateSettings:
    """The thresholds for one source: `default` with the values that `overrides` holds for the part of the source's name
    before "/". An override that names `sets` starts from those sets instead of from `default`.

    InputError for an unknown gate or a value out of range.
    """
    name = source.partition("/")[0]
    override = overrides.get(name)
    if not override:
        return default
    values = dict(override) if override.get("sets") else {**default.model_dump(exclude={"sets"}), **override}
    try:
        return GateSettings.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'sets'}: {one['msg']}" for one in error.errors())
        raise InputError(f"gates of source {name}: {wrong}. The gates are listed in docs/stages/gates.md.") from None
