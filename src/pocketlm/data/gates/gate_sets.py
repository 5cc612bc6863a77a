"""Ready sets of thresholds as published, by name. Plain data; `GateSettings(sets=...)` fills itself from it.

Sources: `gopher` Rae et al. 2021 (arXiv 2112.11446), appendix A1; `c4` Raffel et al. 2020 (arXiv 1910.10683), section
2.2; `fineweb` Penedo et al. 2024 (arXiv 2406.17557), section 3.6; `l20-edu` arXiv 2606.22189, its table of sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Thresholds = dict[str, float | int | bool]


def _l20(
    characters: int, letters: float, digits: float, unique_words: float, ngrams: float, score: float | None = None
) -> Thresholds:
    """A row of L20-Edu's table with what it holds all sources to. Its cut at 45,000 characters is left out: see
    docs/stages/gates.md."""
    row: Thresholds = {
        "minimum_characters": characters,
        "maximum_boilerplate_phrases": 0,
        "minimum_letter_share": letters,
        "maximum_digit_share": digits,
        "minimum_words": 80,
        "minimum_unique_word_share": unique_words,
        "maximum_repeated_line_share": 0.25,
        "maximum_repeated_ngram_share": ngrams,
    }
    return row if score is None else {**row, "minimum_score": score}


SETS: dict[str, Thresholds] = {
    "gopher": {
        "minimum_gopher_words": 50,
        "maximum_gopher_words": 100_000,
        "minimum_mean_word_length": 3,
        "maximum_mean_word_length": 10,
        "maximum_hash_sign_ratio": 0.1,
        "maximum_ellipsis_ratio": 0.1,
        "maximum_bullet_line_share": 0.9,
        "maximum_ellipsis_line_share": 0.3,
        "minimum_letter_word_share": 0.8,
        "minimum_stop_words": 2,
        "maximum_duplicate_paragraph_share": 0.3,
        "maximum_duplicate_paragraph_character_share": 0.2,
        "maximum_duplicate_line_share": 0.3,
        "maximum_duplicate_line_character_share": 0.2,
        "maximum_top_2gram_share": 0.2,
        "maximum_top_3gram_share": 0.18,
        "maximum_top_4gram_share": 0.16,
        "maximum_duplicate_5gram_share": 0.15,
        "maximum_duplicate_6gram_share": 0.14,
        "maximum_duplicate_7gram_share": 0.13,
        "maximum_duplicate_8gram_share": 0.12,
        "maximum_duplicate_9gram_share": 0.11,
        "maximum_duplicate_10gram_share": 0.1,
    },
    "c4": {"cut_c4_lines": True, "maximum_lorem_ipsum": 0, "maximum_curly_brackets": 0, "minimum_sentences": 5},
    "fineweb": {
        "minimum_terminated_line_share": 0.12,
        "maximum_short_line_share": 0.67,
        "maximum_line_character_duplicates": 0.01,
        "maximum_newlines_per_word": 0.3,
    },
    "l20-edu": _l20(700, 0.48, 0.28, 0.18, 0.16),
    "l20-edu/phase-1": {"minimum_score": 3.0, "minimum_integer_score": 3, "minimum_characters": 300},
    "l20-edu/fineweb-edu": _l20(700, 0.48, 0.28, 0.18, 0.16, score=3.0),
    "l20-edu/dclm-edu": _l20(700, 0.48, 0.28, 0.18, 0.16, score=3.0),
    "l20-edu/pes2o": _l20(800, 0.45, 0.32, 0.16, 0.16),
    "l20-edu/wikipedia": _l20(600, 0.48, 0.28, 0.16, 0.16),
    "l20-edu/stackexchange": _l20(400, 0.40, 0.35, 0.14, 0.18),
    "l20-edu/finemath": _l20(500, 0.25, 0.45, 0.08, 0.22),
    "l20-edu/tutorials": _l20(500, 0.40, 0.35, 0.14, 0.18),
    "l20-edu/reasoning": _l20(500, 0.35, 0.40, 0.12, 0.20),
    "l20-edu/word-problems": _l20(300, 0.30, 0.45, 0.10, 0.20),
}


def thresholds_of_sets(names: Sequence[str]) -> dict[str, Any]:
    """Thresholds of several sets together; of two values for one gate the stricter. ValueError for an unknown name."""
    together: dict[str, Any] = {}
    for name in names:
        if name not in SETS:
            raise ValueError(f"unknown set of gates {name!r}; there are {', '.join(SETS)}")
        for gate, value in SETS[name].items():
            stricter = min if gate.startswith("maximum_") else max
            together[gate] = stricter(together[gate], value) if gate in together else value
    return together
