"""Each gate on a text that only it rejects, the table of gates, and thresholds by set and by source."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pocketlm.data.gates.gate_sets import SETS
from pocketlm.data.gates.gate_settings import GateSettings, thresholds_of
from pocketlm.data.gates.gates import GATES, Gate, Verdicts, boilerplate_phrases, judge, measure
from pocketlm.errors import InputError
from tests.data_pipeline import prose

GOOD = prose(1, 12)
PLAIN = (
    "The garden behind the old school is a place of its own. Every morning in spring, children walk along "
    "narrow paths and look for what came up in the night. Some have a notebook with them, others only their "
    "hands and good eyes. Nobody knows how many kinds of plants there are! Would you like to count them? Last "
    "year a teacher tried and stopped at ninety."
)
OFF = GateSettings().model_copy(update={name: None for name in GateSettings.model_fields if "imum_" in name})

BAD = {
    "too_short": "A few words.",
    "boilerplate": f"Please ENABLE JavaScript to go on. {GOOD}",
    "few_letters": GOOD + " " + "| -- (%) " * 200,
    "many_digits": GOOD[:600] + " " + " ".join(str(10**9 + 7919 * number) for number in range(30)),
    "few_words": "Thisisonesinglewordthatnevercomestoanyend" * 8,
    "few_unique_words": "tree and " * 300,
    "repeated_lines": GOOD + "\n" + "\n".join(f"{line}\n{number}" for number in range(40) for line in [GOOD[:60]]),
    "repeated_ngrams": (GOOD + " ") * 3,
}
"""By the default thresholds."""

BAD_BY_SET = {
    "gopher": {
        "gopher_few_words": PLAIN[:100],
        "gopher_many_words": "word " * 100_001,
        "short_words": "a be to of " + " ".join(f"{letter}{sign}" for letter in "abcdefgh" for sign in "ijklmnop"),
        "long_words": " ".join(f"interminabilities{number}" for number in range(60)),
        "many_hash_signs": PLAIN + " #" * 30,
        "many_ellipses": PLAIN.replace(" ", "... ", 30),
        "bullet_list": "\n".join(f"- {line}" for line in PLAIN.split(". ")),
        "cut_off_lines": "\n".join(f"{line}..." for line in PLAIN.split(". ")),
        "few_words_with_letters": PLAIN + " 17 3 99" * 10,
        "few_stop_words": prose(3, 12),
        "duplicate_paragraphs": PLAIN + "\n\nAgain." * 3,
        "duplicate_paragraph_characters": f"{PLAIN}\n\n{PLAIN}\n\nThree.\n\nFour.\n\nFive.",
        "duplicate_lines": PLAIN + "\nAgain." * 3,
        "duplicate_line_characters": f"{PLAIN}\n{PLAIN}\nThree.\nFour.\nFive.",
    },
    "fineweb": {
        "few_terminated_lines": PLAIN.replace(". ", "\n")[:-1].replace("!", "").replace("?", ""),
        "short_lines": PLAIN + "\n" + "\n".join(f"Item {number}." for number in range(20)),
        "line_character_duplicates": PLAIN.replace(". ", ".\n") + "\n" + PLAIN.split(". ")[0] + ".",
        "list_like": "\n".join(f"{'interminable' * 3}{number}." for number in range(9)),
    },
    "c4": {
        "lorem_ipsum": PLAIN + " Lorem Ipsum dolor.",
        "curly_brackets": PLAIN + " if (x) { y }",
        "few_sentences": PLAIN.split("! ")[0],
    },
}


def names(verdicts: Verdicts) -> list[str]:
    """The gate that each document fails, "" where it is kept."""
    return [GATES[gate].name if gate >= 0 else "" for gate in verdicts.gate]


def verdict(text: str, settings: GateSettings | None = None) -> str:
    return names(judge(measure(pa.array([text], pa.large_string())), settings or GateSettings()))[0]


def threshold_name(gate: Gate) -> str:
    return gate.threshold.__code__.co_names[0]


def test_good_text_passes() -> None:
    assert verdict(GOOD) == ""
    assert [verdict(PLAIN, GateSettings(sets=[name])) for name in ("gopher", "fineweb", "c4")] == ["", "", ""]


@pytest.mark.parametrize("gate", list(BAD))
def test_each_gate_rejects_what_it_is_for(gate: str) -> None:
    assert verdict(BAD[gate]) == gate


@pytest.mark.parametrize(("name", "gate"), [(name, gate) for name, texts in BAD_BY_SET.items() for gate in texts])
def test_each_gate_of_a_set_rejects_what_it_is_for(name: str, gate: str) -> None:
    assert verdict(BAD_BY_SET[name][gate], GateSettings(sets=[name])) == gate


@pytest.mark.parametrize(
    "gate", [gate for gate in GATES if gate.name.startswith(("top_", "duplicate_")) and "gram" in gate.name]
)
def test_each_ngram_gate_alone(gate: Gate) -> None:
    name = threshold_name(gate)
    settings = OFF.model_copy(update={name: SETS["gopher"][name]})
    assert verdict(PLAIN, settings) == ""
    assert verdict(PLAIN + " old order" * 80, settings) == gate.name


def test_the_value_that_is_reported_is_the_one_that_decided() -> None:
    verdicts = judge(measure(pa.array([GOOD, "short", BAD["repeated_ngrams"]], pa.large_string())), GateSettings())
    assert names(verdicts) == ["", "too_short", "repeated_ngrams"]
    assert (verdicts.value[1], verdicts.threshold[1]) == (5, 200)
    assert 0.5 < verdicts.value[2] < 1
    assert verdicts.threshold[2] == 0.5


@pytest.mark.parametrize("gate", [gate for gate in GATES if gate.name != "no_score"], ids=lambda gate: gate.name)
def test_thresholds_are_inclusive_and_none_is_off(gate: Gate) -> None:
    measured = measure(
        pa.array([PLAIN], pa.large_string()), scores=np.array([2.6]), language_confidence=np.array([0.7])
    )
    limit = float(gate.value(measured)[0])
    worse = np.nextafter(limit, np.inf if gate.at_least else -np.inf)
    name = threshold_name(gate)
    for value, passes in ((limit, True), (worse, False), (None, True)):
        found = judge(measured, OFF.model_copy(update={name: value}))
        assert (found.gate[0] < 0) == passes


def test_scores_are_asked_for_and_fail_closed() -> None:
    texts = pa.array([PLAIN] * 5, pa.large_string())
    scores = np.array([2.4, 2.5, 3.0, 7.0, np.nan])
    for settings, expected in {
        GateSettings(sets=["l20-edu/phase-1"], minimum_integer_score=None): [
            "low_score",
            "low_score",
            "",
            "",
            "no_score",
        ],
        OFF.model_copy(update={"minimum_integer_score": 3}): [
            "low_integer_score",
            "low_integer_score",
            "",
            "",
            "no_score",
        ],
        GateSettings(): [""] * 5,
    }.items():
        verdicts = judge(measure(texts, scores=scores), settings)
        assert names(verdicts) == expected
        assert np.isfinite(verdicts.value).all()


def test_an_unknown_language_fails_where_one_is_asked_for() -> None:
    asked = OFF.model_copy(update={"minimum_language_confidence": 0.65})
    texts = pa.array([PLAIN] * 3, pa.large_string())
    verdicts = judge(measure(texts, language_confidence=np.array([0.65, 0.6, np.nan])), asked)
    assert names(verdicts) == ["", "other_language", "other_language"]


def test_every_source_has_its_own_thresholds() -> None:
    thresholds = [GateSettings(), OFF, GateSettings(minimum_words=10_000)]
    texts = pa.array([GOOD, "short", GOOD, "short"], pa.large_string())
    verdicts = judge(measure(texts), thresholds, np.array([0, 1, 2, 0]))
    assert names(verdicts) == ["", "", "few_words", "too_short"]
    assert verdicts.threshold.tolist() == [0, 0, 10_000, 200]


def test_boilerplate_is_looked_for_in_the_beginning_only() -> None:
    late = "x" * 5_000 + " cookie policy"
    measured = measure(pa.array(["Cookie Policy and PRIVACY POLICY", late], pa.large_string()))
    assert boilerplate_phrases(measured).tolist() == [2, 0]


def test_every_gate_names_its_source_and_has_its_own_threshold() -> None:
    assert all(gate.source and gate.reason for gate in GATES)
    assert len({gate.name for gate in GATES}) == len(GATES)
    fields = {threshold_name(gate) for gate in GATES if gate.name != "no_score"}
    assert fields == {name for name in GateSettings.model_fields if name.startswith(("minimum_", "maximum_"))}
    for gate in GATES:
        assert gate.at_least == (gate.name == "no_score" or threshold_name(gate).startswith("minimum_"))


@pytest.mark.parametrize("name", list(SETS))
def test_a_set_turns_on_its_gates_and_no_others(name: str) -> None:
    settings = GateSettings(sets=[name])
    chosen = {
        field: value for field, value in settings.model_dump().items() if value is not None and value is not False
    }
    assert {field: value for field, value in chosen.items() if field not in ("sets", "languages")} == SETS[name]


def test_of_two_sets_the_stricter_holds_and_a_written_value_wins() -> None:
    both = GateSettings(sets=["l20-edu/pes2o", "l20-edu/finemath", "gopher"], maximum_digit_share=0.5)
    assert (both.minimum_characters, both.minimum_letter_share, both.maximum_repeated_ngram_share) == (800, 0.45, 0.16)
    assert both.maximum_digit_share == 0.5
    assert GateSettings(sets=["gopher"], minimum_stop_words=None).minimum_stop_words is None
    assert GateSettings.model_validate(both.model_dump(mode="json")) == both


def test_the_identity_says_what_the_sets_did() -> None:
    assert GateSettings(sets=["gopher"]).identity() != GateSettings(sets=["gopher"], minimum_words=40).identity()


@pytest.mark.parametrize("sets", [["gofer"], "gopher", [3]])
def test_an_unknown_set_is_refused(sets: object) -> None:
    with pytest.raises(ValidationError):
        GateSettings(sets=sets)


def test_thresholds_of_a_source() -> None:
    default = GateSettings(minimum_words=7)
    overrides = {"wiki": {"minimum_characters": 50}, "papers": {"sets": ["l20-edu/pes2o"], "minimum_words": None}}
    assert thresholds_of(default, overrides, "other/part") is default
    wiki = thresholds_of(default, overrides, "wiki/en")
    assert (wiki.minimum_characters, wiki.minimum_words) == (50, 7)
    papers = thresholds_of(default, overrides, "papers")
    assert (papers.minimum_characters, papers.minimum_words) == (800, None)
    for wrong in ({"minimum_word": 3}, {"minimum_letter_share": 7}, {"sets": ["gofer"]}):
        with pytest.raises(InputError, match="source wiki"):
            thresholds_of(default, {"wiki": wrong}, "wiki")
