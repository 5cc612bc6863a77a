"""From scored behaviour items to estimates.

Every figure is a mean of values between 0 and 1, or such a mean times a number of steps, with a score interval that
keeps a width where all items are alike. The turns of a session and the steps of an item are clusters: they count as the
number of independent draws that their spread amounts to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pocketlm.evaluation.behaviour.execution import LENGTHS, read_steps
from pocketlm.evaluation.behaviour.repetition import looped
from pocketlm.evaluation.behaviour.run import NOT_ASKED, Item, rows_of_task
from pocketlm.evaluation.behaviour.system_sessions import TURNS
from pocketlm.evaluation.behaviour.tasks import BULLETS, EXECUTION, JSON, SYSTEM
from pocketlm.statistics.rates import Estimate, clustered_rate, wilson

STEPS = ("steps_before_first_error", "horizon")
"""Metrics that count steps; every other one lies between 0 and 1."""
LOWER_IS_BETTER = ("looped", "repeated_4grams", NOT_ASKED)

JSON_RATES = ("valid_json", "valid_json_unfenced", "right_keys", "right_unfenced")
HORIZON_RATE = 0.5


@dataclass(frozen=True)
class Step:
    """One step of the execution task, over the items that have so many.

    Attributes:
        number: from 1.
        right_so_far: share of items with this and every step before it right.
        right_update: share of items that added the right value to the sum that they had written themselves.
    """

    number: int
    right_so_far: Estimate
    right_update: Estimate


def summarise_behaviour(items: Mapping[str, Sequence[Item]]) -> dict[str, dict[str, Estimate]]:
    """Task -> metric -> estimate, from the items of `run.score_behaviour`; no task may be empty."""
    scores = {}
    for name, rows in items.items():
        found = {
            "accuracy": _rate(rows, [row["correct"] for row in rows]),
            "ended": _measured(rows, "ended"),
            "looped": _rate(rows, [looped(row["measures"]) for row in rows]),
            "repeated_4grams": _rate(rows, [row["measures"]["repeated_4grams"] for row in rows]),
        }
        if any(NOT_ASKED in row["measures"] for row in rows):
            found[NOT_ASKED] = _rate(rows, [NOT_ASKED in row["measures"] for row in rows])
        if name == JSON:
            found |= {metric: _measured(rows, metric) for metric in JSON_RATES}
        elif name == BULLETS:
            found["right_count"] = _measured(rows, "right_count")
        elif name == SYSTEM:
            found |= _system(rows)
        elif name == EXECUTION:
            found |= _execution(rows)
        scores[name] = found
    return scores


def by_level(rows: Sequence[Item], measure: str = "") -> dict[str, Estimate]:
    """Level -> the rate of a measure that is 0 or 1, or of right answers; levels in the order of their names."""
    grouped: dict[str, list[Item]] = {}
    for row in rows:
        grouped.setdefault(row["level"], []).append(row)
    return {
        level: _measured(grouped[level], measure)
        if measure
        else _rate(grouped[level], [row["correct"] for row in grouped[level]])
        for level in sorted(grouped)
    }


def by_step(rows: Sequence[Item]) -> list[Step]:
    """Every step of the execution task, read again from the recorded answers."""
    read = _read(rows)
    steps = []
    for number in range(1, max(len(right) for right, _ in read) + 1):
        long_enough = [(right, updates) for right, updates in read if len(right) >= number]
        so_far = sum(all(right[:number]) for right, _ in long_enough)
        updated = sum(updates[number - 1] for _, updates in long_enough)
        steps.append(Step(number, wilson(so_far, len(long_enough)), wilson(updated, len(long_enough))))
    return steps


def _system(rows: Sequence[Item]) -> dict[str, Estimate]:
    """Followed and answered; by kind of rule; by turn; and over the sessions of which every turn was asked."""
    found = {metric: _measured(rows, metric) for metric in ("followed", "answered")}
    found |= {f"followed_{kind}": rate for kind, rate in by_level(rows, "followed").items()}
    for turn in range(1, TURNS + 1):
        of_turn = [row for row in rows if row["turn"] == turn]
        if of_turn:
            found["followed_last_turn" if turn == TURNS else f"followed_turn_{turn}"] = _measured(of_turn, "followed")
    sessions: dict[str, list[bool]] = {}
    for row in rows:
        sessions.setdefault(row["session"], []).append(row["measures"]["followed"] == 1)
    whole = [turns for turns in sessions.values() if len(turns) == TURNS]
    if whole:
        found["sessions_followed"] = wilson(sum(map(all, whole)), len(whole))
        kept = [(*turns, False).index(False) / TURNS for turns in whole]
        found["session_stability"] = clustered_rate(kept, range(len(kept)))
    return found


def _execution(rows: Sequence[Item]) -> dict[str, Estimate]:
    read = _read(rows)
    most = max(len(right) for right, _ in read)
    before = clustered_rate([(*right, False).index(False) / most for right, _ in read], range(len(read)))
    updates = [(place, one) for place, (_, updates) in enumerate(read) for one in updates]
    steps = by_step(rows)
    found = {
        "steps_before_first_error": _times(most, before),
        "horizon": _horizon(steps, len(rows)),
        "right_updates": clustered_rate([one for _, one in updates], [place for place, _ in updates]),
    }
    marked = {1, *LENGTHS}
    return found | {f"right_through_step_{one.number}": one.right_so_far for one in steps if one.number in marked}


def _read(rows: Sequence[Item]) -> list[tuple[list[bool], list[bool]]]:
    """Of every item which steps and which updates are right, read again from its answer."""
    asked = {row["id"]: row for row in rows_of_task(EXECUTION)}
    return [read_steps(asked[row["id"]], row["output"])[:2] for row in rows]


def _times(factor: float, rate: Estimate) -> Estimate:
    error = None if rate.error is None else factor * rate.error
    return Estimate(factor * rate.value, factor * rate.low, factor * rate.high, rate.n, error)


def _horizon(steps: Sequence[Step], n: int) -> Estimate:
    """Steps before the share of items without an error first falls below a half (arXiv 2509.09677)."""

    def reached(rates: Iterable[float]) -> float:
        count = 0
        for rate in rates:
            if rate < HORIZON_RATE:
                break
            count += 1
        return float(count)

    rates = [one.right_so_far for one in steps]
    low, high = reached(rate.low for rate in rates), reached(rate.high for rate in rates)
    return Estimate(reached(rate.value for rate in rates), low, high, n)


def _measured(rows: Sequence[Item], measure: str) -> Estimate:
    return _rate(rows, [row["measures"][measure] == 1 for row in rows])


def _rate(rows: Sequence[Item], values: Sequence[float]) -> Estimate:
    return clustered_rate(values, [row.get("session", row["id"]) for row in rows])
