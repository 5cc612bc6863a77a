"""Which terms a page explains: those that stand on it, in the order of the alphabet."""

from __future__ import annotations

import pytest

from pocketlm.reporting.glossary import TERMS, terms_in


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("kl_coefficient 0.02, KL(student to teacher)", ["KL", "teacher"]),
        ("the iterated endpoint moved quickly", []),
        ("selection.exact_match and continued_sft", ["continued SFT", "exact match", "selection split", "SFT"]),
        ("avg@8 beside pass@64", ["avg@k", "pass@k"]),
        ("distilled models were merged and forgot", ["distillation", "merging"]),
        ("held_out.margin of 32 preferences by DPO", ["DPO", "held-out", "margin", "preference pair"]),
    ],
)
def test_terms_are_found_at_the_beginnings_of_words_and_abbreviations_whole(text: str, terms: list[str]) -> None:
    assert list(terms_in(text)) == terms


def test_the_alphabet_orders_them() -> None:
    assert list(TERMS) == sorted(TERMS, key=str.lower)
