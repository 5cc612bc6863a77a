"""Quality gates: pure functions from a unit of texts to one value per document, and the thresholds they are held to.

`GATES` is the table; each row names its source: L20-Edu (arXiv 2606.22189), Gopher (Rae et al. 2021, arXiv 2112.11446,
appendix A1), C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2), FineWeb and FineWeb-Edu (Penedo et al. 2024, arXiv
2406.17557). They are judged in the order of the table; the first that a document fails is its verdict, and value,
threshold and reason are kept. A gate whose threshold is None for every source is not even counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.data.gates.gate_settings import GateSettings
from pocketlm.data.gates.measured import Measured, boilerplate_phrases, lorem_ipsum, measure, share_of

__all__ = ["GATES", "Gate", "Measured", "Verdicts", "boilerplate_phrases", "judge", "measure"]

AT_LEAST, AT_MOST = True, False


@dataclass(frozen=True)
class Gate:
    """One rule: `value(measured)` against `threshold(settings)`; `at_least` tells on which side it must lie."""

    name: str
    source: str
    threshold: Callable[[GateSettings], float | None]
    at_least: bool
    reason: str
    value: Callable[[Measured], np.ndarray]


@dataclass(frozen=True)
class Verdicts:
    """Outcome of all gates: `gate[i]` indexes `GATES` (-1: kept), with the value and the threshold that decided."""

    gate: np.ndarray
    value: np.ndarray
    threshold: np.ndarray


def judge(
    measured: Measured, thresholds: GateSettings | Sequence[GateSettings], source_index: np.ndarray | None = None
) -> Verdicts:
    """Run the gates in order; the first that a document fails is its verdict. A value that is not known (NaN) fails.

    Args:
        thresholds: of one source or of each source.
        source_index: int [documents], row of `thresholds` of each document.
    """
    every = [thresholds] if isinstance(thresholds, GateSettings) else thresholds
    of_document = np.zeros(len(measured.text), np.int64) if source_index is None else source_index
    gate = np.full(len(of_document), -1, np.int64)
    value, threshold = np.zeros(len(gate), np.float64), np.zeros(len(gate), np.float64)
    for index, rule in enumerate(GATES):
        limits = np.array([np.nan if (limit := rule.threshold(one)) is None else limit for one in every], np.float64)
        if np.isnan(limits).all():
            continue
        limit = limits[of_document]
        values = np.asarray(rule.value(measured), np.float64)
        passes = values >= limit if rule.at_least else values <= limit
        failed = (gate < 0) & ~np.isnan(limit) & ~passes
        gate[failed], value[failed], threshold[failed] = index, values[failed], limit[failed]
    return Verdicts(gate, value, threshold)


def _score_is_needed(settings: GateSettings) -> float | None:
    return 1 if settings.minimum_score is not None or settings.minimum_integer_score is not None else None


def _ngram_gate(size: int, threshold: Callable[[GateSettings], float | None]) -> Gate:
    if size <= 4:
        name, reason = f"top_{size}gram", f"one sequence of {size} words is too much of the text"
    else:
        name, reason = f"duplicate_{size}grams", f"too much text in repeated sequences of {size} words"
    return Gate(name, "Gopher", threshold, AT_MOST, reason, lambda m: m.ngram_share(size))


GATES: tuple[Gate, ...] = (
    Gate("no_score", "FineWeb-Edu", _score_is_needed, AT_LEAST,
         "has no quality score, which a gate of its source asks for", lambda m: ~np.isnan(m.scores)),
    Gate("low_score", "FineWeb-Edu", lambda s: s.minimum_score, AT_LEAST,
         "quality score too low", lambda m: m.scores),
    Gate("low_integer_score", "FineWeb-Edu", lambda s: s.minimum_integer_score, AT_LEAST,
         "quality score of 0 to 5, rounded, too low", lambda m: np.rint(np.clip(m.scores, 0, 5))),
    Gate("other_language", "FineWeb", lambda s: s.minimum_language_confidence, AT_LEAST,
         "not surely in a language that is asked for", lambda m: m.language_confidence),
    Gate("too_short", "L20-Edu", lambda s: s.minimum_characters, AT_LEAST,
         "fewer characters than a document needs", lambda m: m.characters),
    Gate("too_long", "L20-Edu", lambda s: s.maximum_characters, AT_MOST,
         "more characters than a document may have", lambda m: m.characters),
    Gate("boilerplate", "L20-Edu, C4", lambda s: s.maximum_boilerplate_phrases, AT_MOST,
         "web boilerplate in the first 5,000 characters", boilerplate_phrases),
    Gate("few_letters", "L20-Edu, Gopher", lambda s: s.minimum_letter_share, AT_LEAST,
         "too small a share of letters", lambda m: share_of(m.letters, m.characters)),
    Gate("many_digits", "L20-Edu", lambda s: s.maximum_digit_share, AT_MOST,
         "too large a share of digits", lambda m: share_of(m.digits, m.characters)),
    Gate("few_words", "L20-Edu, Gopher", lambda s: s.minimum_words, AT_LEAST,
         "fewer words than a document needs", lambda m: m.words),
    Gate("few_unique_words", "L20-Edu", lambda s: s.minimum_unique_word_share, AT_LEAST,
         "too few different words", lambda m: share_of(m.unique_words, m.words)),
    Gate("repeated_lines", "L20-Edu, Gopher", lambda s: s.maximum_repeated_line_share, AT_MOST,
         "too many lines occur again", lambda m: share_of(m.lines - m.unique_lines, m.lines)),
    Gate("repeated_ngrams", "L20-Edu, Gopher", lambda s: s.maximum_repeated_ngram_share, AT_MOST,
         "too many 5-grams occur again", lambda m: share_of(m.ngrams - m.unique_ngrams, m.ngrams)),
    Gate("gopher_few_words", "Gopher", lambda s: s.minimum_gopher_words, AT_LEAST,
         "fewer words than a document needs", lambda m: m.word_pieces),
    Gate("gopher_many_words", "Gopher", lambda s: s.maximum_gopher_words, AT_MOST,
         "more words than a document may have", lambda m: m.word_pieces),
    Gate("short_words", "Gopher", lambda s: s.minimum_mean_word_length, AT_LEAST,
         "words too short on average", lambda m: share_of(m.word_piece_characters, m.word_pieces)),
    Gate("long_words", "Gopher", lambda s: s.maximum_mean_word_length, AT_MOST,
         "words too long on average", lambda m: share_of(m.word_piece_characters, m.word_pieces)),
    Gate("many_hash_signs", "Gopher", lambda s: s.maximum_hash_sign_ratio, AT_MOST,
         "too many # to a word", lambda m: share_of(m.hash_signs, m.pieces)),
    Gate("many_ellipses", "Gopher", lambda s: s.maximum_ellipsis_ratio, AT_MOST,
         "too many ellipses to a word", lambda m: share_of(m.ellipses, m.pieces)),
    Gate("bullet_list", "Gopher", lambda s: s.maximum_bullet_line_share, AT_MOST,
         "too many lines begin with a bullet", lambda m: share_of(m.bullet_lines, m.all_lines)),
    Gate("cut_off_lines", "Gopher", lambda s: s.maximum_ellipsis_line_share, AT_MOST,
         "too many lines end with an ellipsis", lambda m: share_of(m.ellipsis_lines, m.all_lines)),
    Gate("few_words_with_letters", "Gopher", lambda s: s.minimum_letter_word_share, AT_LEAST,
         "too few words hold a letter", lambda m: share_of(m.letter_pieces, m.pieces)),
    Gate("few_stop_words", "Gopher", lambda s: s.minimum_stop_words, AT_LEAST,
         "too few of the commonest English words", lambda m: m.stop_words),
    Gate("duplicate_paragraphs", "Gopher", lambda s: s.maximum_duplicate_paragraph_share, AT_MOST,
         "too many paragraphs occur again", lambda m: share_of(m.duplicate_paragraphs, m.paragraphs)),
    Gate("duplicate_paragraph_characters", "Gopher", lambda s: s.maximum_duplicate_paragraph_character_share, AT_MOST,
         "too much text in paragraphs that occur again",
         lambda m: share_of(m.duplicate_paragraph_characters, m.characters)),
    Gate("duplicate_lines", "Gopher", lambda s: s.maximum_duplicate_line_share, AT_MOST,
         "too many lines occur again", lambda m: share_of(m.duplicate_lines, m.filled_lines)),
    Gate("duplicate_line_characters", "Gopher", lambda s: s.maximum_duplicate_line_character_share, AT_MOST,
         "too much text in lines that occur again", lambda m: share_of(m.duplicate_line_characters, m.characters)),
    _ngram_gate(2, lambda s: s.maximum_top_2gram_share),
    _ngram_gate(3, lambda s: s.maximum_top_3gram_share),
    _ngram_gate(4, lambda s: s.maximum_top_4gram_share),
    _ngram_gate(5, lambda s: s.maximum_duplicate_5gram_share),
    _ngram_gate(6, lambda s: s.maximum_duplicate_6gram_share),
    _ngram_gate(7, lambda s: s.maximum_duplicate_7gram_share),
    _ngram_gate(8, lambda s: s.maximum_duplicate_8gram_share),
    _ngram_gate(9, lambda s: s.maximum_duplicate_9gram_share),
    _ngram_gate(10, lambda s: s.maximum_duplicate_10gram_share),
    Gate("few_terminated_lines", "FineWeb", lambda s: s.minimum_terminated_line_share, AT_LEAST,
         "too few lines end like a sentence", lambda m: share_of(m.terminated_lines, m.filled_lines)),
    Gate("short_lines", "FineWeb", lambda s: s.maximum_short_line_share, AT_MOST,
         "too many lines of at most 30 characters", lambda m: share_of(m.short_lines, m.filled_lines)),
    Gate("line_character_duplicates", "FineWeb", lambda s: s.maximum_line_character_duplicates, AT_MOST,
         "too much text in lines that occur again",
         lambda m: share_of(m.duplicate_line_characters, m.characters - m.line_feeds)),
    Gate("list_like", "FineWeb", lambda s: s.maximum_newlines_per_word, AT_MOST,
         "too many line ends to a word", lambda m: share_of(m.line_feeds, m.pieces)),
    Gate("lorem_ipsum", "C4", lambda s: s.maximum_lorem_ipsum, AT_MOST,
         "holds lorem ipsum", lorem_ipsum),
    Gate("curly_brackets", "C4", lambda s: s.maximum_curly_brackets, AT_MOST,
         "holds curly brackets", lambda m: m.curly_brackets),
    Gate("few_sentences", "C4", lambda s: s.minimum_sentences, AT_LEAST,
         "too few sentences", lambda m: m.sentences),
)  # fmt: skip
"""All gates in the order in which they are judged."""
