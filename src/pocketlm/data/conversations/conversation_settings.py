"""Settings of conversations. No heavy import: the stage names these classes at module level."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pocketlm.data.contamination.contamination_settings import ContaminationSettings
from pocketlm.data.settings import NearDuplicateSettings, Share
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.pipeline.settings import Settings

PositiveShare = Annotated[float, Field(gt=0, le=1)]


class ConversationSource(SourceSettings):
    """One source of conversations, read as a source of text is."""

    form: Literal["messages", "prompt_response", "instruction"] = "messages"
    """`messages`: a list of turns, {role, content} or ShareGPT's {from, value}. `prompt_response`: two columns.
    `instruction`: Alpaca's instruction, input and output."""
    system_column: str | None = None
    """Column of a system prompt, for rows that hold it beside their turns, as Orca's do; it may be empty."""


class ConversationFilters(Settings):
    """Rules that a conversation must pass (L20-Edu, arXiv 2606.22189). None turns a rule off."""

    minimum_response_characters: int = Field(default=20, ge=1)
    """Each response; lower it for data whose answers are words or numbers."""
    maximum_response_characters: int = Field(default=16_000, gt=0)
    maximum_tokens: int | None = Field(default=None, gt=0)
    """The whole conversation in ChatML; needs the input tokenizer."""
    maximum_repeated_ngram_share: Share | None = 0.3
    """Share of the 5-word sequences of all responses that occurred before in them."""
    maximum_boilerplate_phrases: int | None = Field(default=1, ge=0)
    """Phrases of web furniture ("all rights reserved") in the responses."""
    reject_disclaimers: bool = True
    """Responses in which a model speaks of being one ("As an AI language model")."""

    @model_validator(mode="after")
    def _ordered(self) -> ConversationFilters:
        if self.minimum_response_characters > self.maximum_response_characters:
            raise ValueError("minimum_response_characters is above maximum_response_characters: nothing would pass")
        return self


class ConversationSettings(Settings):
    """Sources, rules and shares."""

    sources: dict[str, ConversationSource]
    """Name -> source, in order of priority: of duplicates the earlier source keeps its copy."""
    source_shares: dict[str, PositiveShare] = Field(default={})
    """Share of each source in the training conversations, all sources named, 1 in sum; the most that all sources can
    give in these shares is taken, chosen by hash. Unset takes everything."""
    filters: ConversationFilters = ConversationFilters()
    near_duplicates: NearDuplicateSettings | None = NearDuplicateSettings(threshold=0.85)
    """Unset: exact duplicates only."""
    contamination: ContaminationSettings = ContaminationSettings()
    """Benchmarks that no conversation may hold; one that does is dropped whole."""
    selection_share: PositiveShare = 0.02
    """Share of the conversations that are kept from training to choose by. The hash of the first question decides, so
    that a question is never on both sides."""
    selection_maximum: int = Field(default=500, gt=0)
    """Conversations in the selection split at most."""
    erase_system: Share = 0.0
    """Share of the conversations with a system turn that lose it (prompt erasure, Orca 2, arXiv 2311.11045): the answer
    shows the strategy, the prompt no longer asks for it. By the hash of seed and id."""
    generic_system: str = ""
    """System turn that stands in place of an erased one; empty: none."""

    @property
    def by_name(self) -> dict[str, ConversationSource]:
        """The sources in recipe order, as in the stage `sources`."""
        return self.sources

    @field_validator("contamination")
    @classmethod
    def _dropped_whole(cls, value: ContaminationSettings) -> ContaminationSettings:
        if value.action != "drop":
            raise ValueError("action: a conversation is dropped whole, for half of one teaches something else")
        return value

    @model_validator(mode="after")
    def _sources_fit(self) -> ConversationSettings:
        if not self.sources:
            raise ValueError('sources is empty; add one, such as mine: {path: "chats/*.jsonl"}')
        for name in self.sources:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"source name '{name}': use letters, digits, _ and -")
        if self.source_shares:
            if self.source_shares.keys() != self.sources.keys():
                raise ValueError(f"source_shares must name every source: {', '.join(self.sources)}")
            if abs(sum(self.source_shares.values()) - 1) > 1e-6:
                raise ValueError(f"source_shares sum to {sum(self.source_shares.values()):g}, not to 1")
        if self.generic_system and not self.erase_system:
            raise ValueError("generic_system stands in place of erased system turns, but erase_system is 0")
        return self
