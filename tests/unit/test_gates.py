"""Each gate on a text that only it rejects, and the table of gates itself."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pocketlm.data.gates import GATES, boilerplate_phrases, judge, measure
from pocketlm.data.settings import GateSettings
from tests.data_pipeline import prose

GOOD = prose(1, 12)

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


def verdict(text: str) -> str:
    gate = judge(measure(pa.array([text], pa.large_string())), GateSettings()).gate[0]
    return "" if gate < 0 else GATES[gate].name


def test_good_text_passes() -> None:
    assert verdict(GOOD) == ""


@pytest.mark.parametrize("gate", [gate.name for gate in GATES])
def test_each_gate_rejects_what_it_is_for(gate: str) -> None:
    assert verdict(BAD[gate]) == gate


def test_the_value_that_is_reported_is_the_one_that_decided() -> None:
    verdicts = judge(measure(pa.array([GOOD, "short", BAD["repeated_ngrams"]], pa.large_string())), GateSettings())
    assert verdicts.gate.tolist() == [-1, 0, 7]
    assert verdicts.value[1] == 5
    assert 0.5 < verdicts.value[2] < 1


def test_thresholds_are_inclusive() -> None:
    measured = measure(pa.array([GOOD], pa.large_string()))
    for gate in GATES:
        limit = float(gate.value(measured)[0])
        name = gate.threshold.__code__.co_names[0]
        settings = GateSettings.model_construct(**{**GateSettings().model_dump(), name: limit})
        assert gate.passes(np.array([limit]), settings).all()
        worse = limit - 1e-6 if gate.at_least else limit + 1e-6
        assert not gate.passes(np.array([worse]), settings).any()


def test_boilerplate_is_looked_for_in_the_beginning_only() -> None:
    late = "x" * 5_000 + " cookie policy"
    measured = measure(pa.array(["Cookie Policy and PRIVACY POLICY", late], pa.large_string()))
    assert boilerplate_phrases(measured).tolist() == [2, 0]


def test_every_gate_names_its_source() -> None:
    assert all(gate.source and gate.reason for gate in GATES)
    assert len({gate.name for gate in GATES}) == len(GATES)
