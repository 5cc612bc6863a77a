"""Rewards: parts and weights, fading form, and verifiers that fail without a zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pocketlm.errors import InputError
from pocketlm.problems import rewards
from pocketlm.problems.rewards import RewardSettings, Scored, Scorer, reward_identity

ROW: dict[str, Any] = {"id": "w", "task": "gsm8k", "level": 1, "prompt": "How many?", "answer": "72"}
USER: dict[str, Any] = {"id": "u", "task": "user", "level": "own", "prompt": "Write five characters.", "wanted": 5}

OWN = """
def reward(prompt, completion, row):
    if completion == "raise": raise ValueError(prompt)
    if completion == "nan": return float("nan")
    if completion == "huge": return -1e39  # finite here, infinite in fp32
    if completion == "largest": return 1e308
    return len(completion) / row.get("wanted", 4)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "reward.py"
    path.write_text(OWN)
    return path


def test_a_right_answer_earns_its_weight_and_a_wrong_one_nothing() -> None:
    with Scorer(RewardSettings()) as scorer:
        assert scorer.score(ROW, "#### 72") == Scored(1.0, True)
        assert scorer.score(ROW, "#### 71") == Scored(0.0, False)
        assert scorer.score_many([ROW, ROW], ["#### 72", "72"]) == [Scored(1.0, True), Scored(0.0, False)]
    with Scorer(RewardSettings(exact=2.0)) as scorer:
        assert scorer.score(ROW, "#### 72").value == 2.0


@pytest.mark.parametrize(
    ("progress", "form"), [(0.0, 0.1), (0.125, 0.05), (0.2, 0.02), (0.25, 0.0), (0.5, 0.0), (1.0, 0.0)]
)
def test_the_reward_of_the_form_fades_to_nothing(progress: float, form: float) -> None:
    with Scorer(RewardSettings(form=0.1, form_share=0.25)) as scorer:
        assert scorer.score(ROW, "#### 71", progress).value == pytest.approx(form)
        assert scorer.score(ROW, "#### 72", progress).value == pytest.approx(1 + form)
        assert scorer.score(ROW, "71", progress).value == 0.0
        assert scorer.score(ROW, "#### 71").value == 0.0


def test_the_form_can_never_be_worth_much() -> None:
    with pytest.raises(ValidationError, match=r"less than or equal to 0\.1"):
        RewardSettings(form=0.2)


def test_a_users_function_is_added_with_its_weight(own: Path) -> None:
    with Scorer(RewardSettings(function=str(own), function_weight=0.5)) as scorer:
        assert scorer.score(ROW, "#### 72") == Scored(1 + 0.5 * 7 / 4, True)
        assert scorer.score(ROW, "abcd") == Scored(0.5, False)


def test_rows_of_the_task_user_are_scored_by_their_own_function(own: Path) -> None:
    with Scorer(RewardSettings(exact=2.0, form=0.1), own) as scorer:
        scorer.check([USER])
        assert scorer.score(USER, "abcde") == Scored(2.0, True)
        assert scorer.score(USER, "ab", progress=0.0) == Scored(0.8, False)  # its form is unknown: no reward for it


@pytest.mark.parametrize(("completion", "kind"), [("raise", "raised"), ("nan", "not finite")])
def test_a_failing_function_gives_no_value_and_is_counted(own: Path, completion: str, kind: str) -> None:
    with Scorer(RewardSettings(), own) as scorer:
        scored = scorer.score(USER, completion)
        assert (scored.value, scored.correct) == (None, False)
        assert scored.fault.startswith("reward.py: r")
        assert scorer.faults == {kind: 1}
        assert scorer.score(USER, "abcde") == Scored(1.0, True)
    with Scorer(RewardSettings(function=str(own))) as scorer:  # a right answer does not hide the fault of a part
        assert scorer.score({**ROW, "task": "answer", "answer": completion}, completion).value is None


def test_a_reward_that_fp32_cannot_hold_is_a_fault(own: Path) -> None:
    with Scorer(RewardSettings(function=str(own), function_weight=10.0)) as scorer:
        for completion in ("huge", "largest"):  # ten times the second is infinite
            scored = scorer.score(ROW, completion)
            assert (scored.value, scored.correct) == (None, False)
            assert scored.fault.endswith("is beyond 1e+09")
        assert scorer.faults == {"not finite": 2}


def test_a_reward_that_is_no_function_is_refused_before_training(tmp_path: Path) -> None:
    number = tmp_path / "number.py"
    number.write_text("reward = 5")
    with (
        Scorer(RewardSettings(function=str(number))) as scorer,
        pytest.raises(InputError, match=r"number\.py cannot be loaded: TypeError: reward is no function"),
    ):
        scorer.check([ROW])


def test_a_row_that_cannot_be_scored_ends_nothing_and_is_no_zero() -> None:
    with Scorer(RewardSettings()) as scorer:
        for row in ({**ROW, "answer": "many"}, {**ROW, "task": "poetry"}, USER, {}):
            scored = scorer.score(row, "#### 72")
            assert scored.value is None
            assert scored.fault.startswith("verifier raised InputError")
        assert scorer.faults == {"verifier": 4}


def test_rows_are_checked_before_training(own: Path, tmp_path: Path) -> None:
    with Scorer(RewardSettings()) as scorer:
        scorer.check([ROW])
        with pytest.raises(InputError, match="where the text of one number was expected"):
            scorer.check([ROW, {**ROW, "answer": "many"}])
        with pytest.raises(InputError, match="'u' is of task 'user', but no reward function came with it"):
            scorer.check([USER])
        with pytest.raises(InputError, match="no verifier for task 'poetry'"):
            scorer.check([{**ROW, "task": "poetry"}])
    broken = tmp_path / "broken.py"
    broken.write_text("def reward(:")
    with (
        Scorer(RewardSettings(), broken) as scorer,
        pytest.raises(InputError, match=r"broken\.py cannot be loaded: SyntaxError"),
    ):
        scorer.check([USER])
    unnamed = tmp_path / "unnamed.py"
    unnamed.write_text("def score(prompt, completion, row): return 1")
    with (
        Scorer(RewardSettings(function=str(unnamed))) as scorer,
        pytest.raises(InputError, match="cannot be loaded: KeyError: 'reward'"),
    ):
        scorer.check([ROW])


def test_reasoning_gym_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "find_spec", lambda name: None)
    with Scorer(RewardSettings()) as scorer, pytest.raises(InputError, match="Install it: pip install"):
        scorer.check([{"id": "r", "task": "reasoning_gym"}])


def test_the_function_is_part_of_the_identity_by_its_content(own: Path, tmp_path: Path) -> None:
    settings = RewardSettings(function=str(own))
    other = tmp_path / "copy.py"
    other.write_text(OWN)
    assert "function" not in settings.identity()
    assert reward_identity(settings) == reward_identity(RewardSettings(function=str(other)))
    other.write_text(OWN + "\n")
    assert reward_identity(settings) != reward_identity(RewardSettings(function=str(other)))
    assert reward_identity(RewardSettings()) == ""
    with pytest.raises(InputError, match="is no file"):
        reward_identity(RewardSettings(function=str(tmp_path / "none.py")))
