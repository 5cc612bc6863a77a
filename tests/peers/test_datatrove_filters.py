"""Our gates against datatrove's filters: the same verdicts, values and texts where the rule is the same.

Two things are ours on purpose (docs/stages/gates.md): what a word is and which characters are signs. Most tests give
datatrove our words, so that everything else must agree exactly; the last ones leave it as it is and bound how often the
words alone make a difference. Documents are generated; POCKETLM_PEER_DOCUMENTS adds real ones: a glob of JSONL files
(plain or .gz) with a key "text", of which every POCKETLM_PEER_STEP-th document is taken (20 if unset).
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import random
import sys
from collections.abc import Iterator
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import regex
from datatrove.data import Document
from datatrove.pipeline.filters import c4_filters, fineweb_quality_filter, gopher_quality_filter
from datatrove.pipeline.filters import gopher_repetition_filter as repetition_filter
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.pipeline.formatters.pii import PIIFormatter

from pocketlm.data.characters import TERMINAL, character_classes
from pocketlm.data.gates.c4_lines import cut_c4_lines
from pocketlm.data.gates.cleaning import clean
from pocketlm.data.gates.gate_settings import GateSettings
from pocketlm.data.gates.gates import GATES, judge, measure
from pocketlm.data.gates.masking import ADDRESS, EMAIL, mask
from tests import gate_oracle

BY_NAME = {gate.name: gate for gate in GATES}

REASONS = {
    "gopher_short_doc": "gopher_few_words",
    "gopher_long_doc": "gopher_many_words",
    "gopher_below_avg_threshold": "short_words",
    "gopher_above_avg_threshold": "long_words",
    "gopher_too_many_hashes": "many_hash_signs",
    "gopher_too_many_ellipsis": "many_ellipses",
    "gopher_too_many_bullets": "bullet_list",
    "gopher_too_many_end_ellipsis": "cut_off_lines",
    "gopher_below_alpha_threshold": "few_words_with_letters",
    "gopher_enough_stop_words": "few_stop_words",
    "dup_para_frac": "duplicate_paragraphs",
    "dup_para_char_frac": "duplicate_paragraph_characters",
    "dup_line_frac": "duplicate_lines",
    "dup_line_char_frac": "duplicate_line_characters",
    **{f"top_{size}_gram": f"top_{size}gram" for size in (2, 3, 4)},
    **{f"duplicated_{size}_n_grams": f"duplicate_{size}grams" for size in range(5, 11)},
    "line_punct_ratio": "few_terminated_lines",
    "short_line_ratio": "short_lines",
    "char_dup_ratio": "line_character_duplicates",
    "list_ratio": "list_like",
    "lorem_ipsum": "lorem_ipsum",
    "curly_bracket": "curly_brackets",
    "too_few_sentences": "few_sentences",
}
"""Our gate for each of datatrove's reasons."""

GOPHER_OFF = dict.fromkeys(
    [
        *("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length", "max_symbol_word_ratio"),
        *("max_bullet_lines_ratio", "max_ellipsis_lines_ratio", "max_non_alpha_words_ratio", "min_stop_words"),
    ]
)
REPETITION_OFF = {
    **dict.fromkeys(["dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"]),
    "top_n_grams": (),
    "dup_n_grams": (),
}
FINEWEB_OFF = {"line_punct_thr": -1, "short_line_thr": 2, "char_duplicates_ratio": 2, "new_line_ratio": 1e9}

PROBES = {
    "gopher_few_words": lambda limit: GopherQualityFilter(**{**GOPHER_OFF, "min_doc_words": limit}),
    "gopher_many_words": lambda limit: GopherQualityFilter(**{**GOPHER_OFF, "max_doc_words": limit}),
    "short_words": lambda limit: GopherQualityFilter(**{**GOPHER_OFF, "min_avg_word_length": limit}),
    "long_words": lambda limit: GopherQualityFilter(**{**GOPHER_OFF, "max_avg_word_length": limit}),
    "bullet_list": lambda limit: GopherQualityFilter(**{**GOPHER_OFF, "max_bullet_lines_ratio": limit}),
    "cut_off_lines": lambda limit: GopherQualityFilter(**{**GOPHER_OFF, "max_ellipsis_lines_ratio": limit}),
    "few_words_with_letters": lambda limit: GopherQualityFilter(**{**GOPHER_OFF, "max_non_alpha_words_ratio": limit}),
    "few_stop_words": lambda limit: GopherQualityFilter(**{**GOPHER_OFF, "min_stop_words": limit}),
    "duplicate_paragraphs": lambda limit: GopherRepetitionFilter(**{**REPETITION_OFF, "dup_para_frac": limit}),
    "duplicate_paragraph_characters": lambda limit: GopherRepetitionFilter(
        **{**REPETITION_OFF, "dup_para_char_frac": limit}
    ),
    "duplicate_lines": lambda limit: GopherRepetitionFilter(**{**REPETITION_OFF, "dup_line_frac": limit}),
    "duplicate_line_characters": lambda limit: GopherRepetitionFilter(
        **{**REPETITION_OFF, "dup_line_char_frac": limit}
    ),
    "few_terminated_lines": lambda limit: FineWebQualityFilter(**{**FINEWEB_OFF, "line_punct_thr": limit}),
    "short_lines": lambda limit: FineWebQualityFilter(**{**FINEWEB_OFF, "short_line_thr": limit}),
    "line_character_duplicates": lambda limit: FineWebQualityFilter(**{**FINEWEB_OFF, "char_duplicates_ratio": limit}),
    "list_like": lambda limit: FineWebQualityFilter(**{**FINEWEB_OFF, "new_line_ratio": limit}),
    **{
        f"top_{size}gram": lambda limit, size=size: GopherRepetitionFilter(
            **{**REPETITION_OFF, "top_n_grams": ((size, limit),)}
        )
        for size in (2, 3, 4)
    },
    **{
        f"duplicate_{size}grams": lambda limit, size=size: GopherRepetitionFilter(
            **{**REPETITION_OFF, "dup_n_grams": ((size, limit),)}
        )
        for size in range(5, 11)
    },
}
"""datatrove's filter with one rule at a threshold and all others off. The # and ellipsis ratios share one threshold and
are compared by verdict only."""


@cache
def documents() -> list[str]:
    """Documents on both sides of every rule, cleaned as documents are before the gates."""
    stream = random.Random(11)
    vocabulary = ["".join(stream.choices("abcdefgh", k=4)) for _ in range(300)]
    common = ["the", "and", "of", "that", "with", "The"]
    made = []
    for _ in range(600):
        signs = stream.choice([[], ["#"], ["..."], ["\u2026"], ["3.14", "42"], ["(", ")"], ["don't", "well-known"]])
        words = (
            vocabulary[: stream.choice([5, 20, 300])]
            + common * stream.choice([0, 1, 5])
            + signs * stream.choice([1, 40])
        )
        ends = stream.choice([["."], ["", ""], [".", ""], ["...", "\u2026", ""], ['."', "?", "!"]])
        heads = stream.choice([[""], [""], ["- "], ["\u2022 ", ""], ["  "]])
        lines: list[str] = []
        for _ in range(stream.choice([3, 8, 20])):
            if lines and stream.random() < stream.choice([0, 0.1, 0.6]):
                lines.append(stream.choice(lines))
            else:
                text = " ".join(stream.choices(words, k=stream.randint(1, stream.choice([3, 12, 40]))))
                lines.append(stream.choice(heads) + text + stream.choice(ends))
        for _ in range(stream.choice([0, 0, 1])):
            furniture = [
                "lorem ipsum dolor sit amet.",
                "if x { y } then z.",
                "Enable JavaScript to go on.",
                "We use cookies here.",
            ]
            lines.insert(stream.randrange(len(lines)), stream.choice(furniture))
        made.append("".join(line + stream.choice(["\n", "\n", "\n\n"]) for line in lines))
    made += ["\n".join("".join(stream.choices("abcdefgh", k=40)) + "." for _ in range(12)) for _ in range(5)]
    return [text for text in clean(pa.array(made + list(_real()), pa.large_string())).to_pylist() if text]


def _real() -> Iterator[str]:
    pattern, step = os.environ.get("POCKETLM_PEER_DOCUMENTS"), int(os.environ.get("POCKETLM_PEER_STEP", "20"))
    for path in sorted(glob.glob(pattern)) if pattern else []:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream):
                if number % step == 0:
                    yield json.loads(line)["text"]


@pytest.fixture
def our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """datatrove with our words, signs and sentences (as the plain-Python oracle has them)."""
    signs = {chr(point) for point in range(sys.maxunicode + 1) if gate_oracle.is_sign(chr(point))}
    words = cache(gate_oracle.pieces)
    for module in (gopher_quality_filter, repetition_filter, fineweb_quality_filter):
        monkeypatch.setattr(module, "split_into_words", lambda text, language: words(text))
    monkeypatch.setattr(gopher_quality_filter, "PUNCTUATION_SET", signs)
    monkeypatch.setattr(c4_filters, "split_into_sentences", lambda line, language: [""] * gate_oracle.sentences(line))


def _runs_together(text: str, size: int) -> bool:
    """The peer sets the words of an n-gram end to end, so that "a bc" equals "ab c"; ours are equal word by word."""
    words = gate_oracle.pieces(text)
    grams = {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}
    return len({"".join(gram) for gram in grams}) < len(grams)


def texts_of(documents: list[str]) -> pa.Array:
    return pa.array(documents, pa.large_string())


def verdicts_of(documents: list[str], name: str) -> list[str]:
    verdicts = judge(measure(texts_of(documents)), GateSettings(sets=[name]))
    return ["" if gate < 0 else GATES[gate].name for gate in verdicts.gate.tolist()]


def peer_verdicts(documents: list[str], *filters: object) -> list[str]:
    found = []
    for text in documents:
        outcomes = (one.filter(Document(text=text, id="")) for one in filters)
        failed = next((outcome for outcome in outcomes if outcome is not True), None)
        found.append("" if failed is None else REASONS[failed[1]])
    return found


@pytest.mark.usefixtures("our_words")
@pytest.mark.parametrize(
    ("name", "filters"),
    [("gopher", (GopherQualityFilter(), GopherRepetitionFilter())), ("fineweb", (FineWebQualityFilter(),))],
)
def test_verdicts_are_equal(name: str, filters: tuple[object, ...]) -> None:
    ours = verdicts_of(documents(), name)
    assert ours == peer_verdicts(documents(), *filters)
    assert len(set(ours)) > 4  # whatever else the documents are, several rules decided
    assert "" in ours


@pytest.mark.usefixtures("our_words")
@pytest.mark.parametrize("name", list(PROBES))
def test_values_are_equal(name: str) -> None:
    """At our value as its threshold the peer's rule passes, a hair stricter it fails: so the values are the same."""
    gate = BY_NAME[name]
    values = np.asarray(gate.value(measure(texts_of(documents()))), np.float64)
    hair = -1e-9 if not gate.at_least else 1e-9
    if name in ("gopher_few_words", "gopher_many_words", "few_stop_words"):
        hair *= 1e8
    assert len(set(values.tolist())) > 3
    for text, value in zip(documents(), values.tolist(), strict=True):
        if not gate_oracle.word_counts(text)["word_pieces"] or (name.startswith("top_") and value == 0):
            continue  # the peer divides by zero words, or takes the document for too short for the rule
        if name.startswith("duplicate_") and name.endswith("grams") and _runs_together(text, int(name[10:-5])):
            continue
        document = Document(text=text, id="")
        passes, fails = PROBES[name](value).filter(document), PROBES[name](value + hair).filter(document)
        assert passes is True, (text, value, passes)
        assert fails is not True, (text, value)


@pytest.mark.usefixtures("our_words")
def test_c4_cuts_the_same_lines_and_rejects_the_same_pages() -> None:
    every = documents()
    cut = cut_c4_lines(texts_of(every)).to_pylist()
    ours = verdicts_of(cut, "c4")
    rejected = set()
    for text, left, verdict in zip(every, cut, ours, strict=True):
        document = Document(text=text, id="")
        outcome = C4QualityFilter().filter(document)
        if outcome is True:
            assert verdict == ""
            assert left.strip() == document.text
        else:
            assert verdict == REASONS[outcome[1]] or {verdict, outcome[1]} == {"lorem_ipsum", "curly_bracket"}
            rejected.add(verdict)
    assert rejected == {"lorem_ipsum", "curly_brackets", "few_sentences"}
    assert "" in ours


def test_c4_cuts_the_same_lines_of_anything() -> None:
    stream = random.Random(3)
    parts = [
        "This is fine. ",
        "word ",
        "JavaScript ",
        "[1]",
        "[edit]",
        "[citation needed]",
        "[]",
        "[12",
        "...",
        ".",
        "!",
    ]
    parts += ['"', "'", "?", "\n", "\n", "\n", "  ", "\u2003", "use Cookies ", "Privacy Policy", "x" * 1001 + " "]
    every = ["".join(stream.choices(parts, k=stream.randint(1, 25))) for _ in range(3_000)]
    lines_only = C4QualityFilter(min_num_sentences=-1)
    for text, left in zip(every, cut_c4_lines(texts_of(every)).to_pylist(), strict=True):
        document = Document(text=text, id="")
        lines_only.filter(document)
        assert left.strip() == document.text, text


def test_masking_is_equal() -> None:
    formatter = PIIFormatter(email_replacement=EMAIL, ip_replacement=ADDRESS)
    stream = random.Random(5)
    parts = ["a", "b-", "-", "bob", "@", "@", ".", "..", "1", "25", "256", "99", "8.8.8.8", "10.0.0.1", "192.168.1.1"]
    parts += ["01", "0", "\u00e9", "_", "=", "'", "[", "]", ":", "x.com", "ex-.org", " ", "\n", "1.2.3.", "@[1.2.3.4]"]
    every = ["".join(stream.choices(parts, k=stream.randint(1, 14))) for _ in range(20_000)] + documents()
    masked = mask(texts_of(every), emails=True, addresses=True).to_pylist()
    assert masked == [formatter.format(text) for text in every]
    assert sum(one != other for one, other in zip(masked, every, strict=True)) > 1_000


def test_sentence_terminals_are_those_of_unicode() -> None:
    terminal = regex.compile(r"\p{Sentence_Terminal}")
    points = [point for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    expected = [point for point in points if terminal.match(chr(point))]
    assert np.flatnonzero(character_classes() & TERMINAL).tolist() == expected


@pytest.mark.parametrize(
    ("name", "filters"),
    [("gopher", (GopherQualityFilter(), GopherRepetitionFilter())), ("fineweb", (FineWebQualityFilter(),))],
)
def test_with_its_own_words_the_peer_still_keeps_and_rejects_nearly_the_same(
    name: str, filters: tuple[object, ...]
) -> None:
    some = documents()[::4]
    ours = np.array(verdicts_of(some, name)) == ""
    theirs = np.array(peer_verdicts(some, *filters)) == ""
    _tell(name, ours, theirs)
    assert (ours == theirs).mean() >= 0.95


def test_with_its_own_sentences_the_peer_still_keeps_and_rejects_nearly_the_same() -> None:
    some = documents()[::4]
    ours = np.array(verdicts_of(cut_c4_lines(texts_of(some)).to_pylist(), "c4")) == ""
    theirs = np.array([C4QualityFilter().filter(Document(text=text, id="")) is True for text in some])
    _tell("c4", ours, theirs)
    assert (ours == theirs).mean() >= 0.95


def _tell(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    same = (ours == theirs).mean()
    print(f"{name}: {len(ours)} documents, kept {ours.mean():.4f}, by the peer {theirs.mean():.4f}, alike {same:.4f}")
