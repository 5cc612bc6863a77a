"""Rules on what the assistant says: length, repetition, boilerplate, disclaimers (L20-Edu's selection)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from pocketlm.data.conversations.conversation_settings import ConversationFilters
from pocketlm.data.conversations.messages import Turns, responses_of
from pocketlm.data.gates.measured import boilerplate_phrases, measure, share_of
from pocketlm.data.sources.row_forms import Fault
from pocketlm.data.tokens.chat import encode_chats

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

DISCLAIMERS = (
    "as an ai language model",
    "as a language model",
    "as an ai assistant",
    "as an artificial intelligence",
    "as an ai,",
    "i am an ai language model",
    "i'm an ai language model",
    "i am just an ai",
    "i'm just an ai",
    "i am only an ai",
    "my knowledge cutoff",
    "my training data only goes",
    "as of my last update",
    "developed by openai",
    "trained by openai",
    "i cannot fulfill that request",
    "i cannot fulfill this request",
)
"""A small model that says these says what it is not; lower case."""


def token_counts(tokenizer: Tokenizer, conversations: Sequence[Turns]) -> list[int]:
    """Tokens of each conversation in ChatML."""
    return [len(ids) for ids, _ in encode_chats(tokenizer, conversations)]


def filter_faults(
    conversations: Sequence[Turns], filters: ConversationFilters, tokens: Sequence[int] | None
) -> list[Fault | None]:
    """The first rule that each conversation breaks, None where it passes.

    Args:
        tokens: of each conversation; None when there is no tokenizer to count them.
    """
    responses = [responses_of(turns) for turns in conversations]
    measured = measure(pa.array(["\n\n".join(own) for own in responses], pa.large_string()))
    repeated = share_of(measured.ngrams - measured.unique_ngrams, measured.ngrams)
    phrases = boilerplate_phrases(measured)
    return [
        _fault(own, filters, float(repeated[row]), int(phrases[row]), None if tokens is None else tokens[row])
        for row, own in enumerate(responses)
    ]


def _fault(
    responses: Sequence[str], filters: ConversationFilters, repeated: float, phrases: int, tokens: int | None
) -> Fault | None:
    lengths = [len(text) for text in responses]
    least, most = filters.minimum_response_characters, filters.maximum_response_characters
    if min(lengths) < least:
        return Fault("short_response", "a response is short", float(min(lengths)), float(least))
    if max(lengths) > most:
        return Fault("long_response", "a response is long", float(max(lengths)), float(most))
    if filters.reject_disclaimers:
        for text in responses:
            lowered = text.lower().replace("\u2019", "'")
            if found := next((phrase for phrase in DISCLAIMERS if phrase in lowered), None):
                return Fault("disclaimer", f"a response says '{found}'")
    limit = filters.maximum_boilerplate_phrases
    if limit is not None and phrases > limit:
        return Fault("boilerplate", "phrases of web furniture", float(phrases), float(limit))
    share = filters.maximum_repeated_ngram_share
    if share is not None and repeated > share:
        return Fault("repetitive", "share of 5-word sequences that are repeated", repeated, share)
    if filters.maximum_tokens is not None and tokens is not None and tokens > filters.maximum_tokens:
        return Fault("too_many_tokens", "tokens of the conversation", float(tokens), float(filters.maximum_tokens))
    return None
