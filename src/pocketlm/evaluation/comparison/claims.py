"""The claim gate: which sentences a comparison allows, why, and what the others would need.

Three kinds of sentence, each stronger than the one before:
- "no difference is shown": always allowed where nothing stronger is, and never "equal";
- "A scored higher than B": the interval of the difference is clear of zero and p < 0.05;
- "A is better than B": moreover the same items, paired; nothing about A was chosen by them; and it is known that A's
  training text did not hold them, or the difference also stands without those that it held.
"The best of the table" needs this against every other model. p is always adjusted over all comparisons of the table
(`compared`), which covers that a pair, a task or the best model was picked after the scores were seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from pocketlm.evaluation.comparison.compared import Comparisons, Pair
from pocketlm.evaluation.comparison.differences import MEAN, SIGNIFICANCE, Difference, Verdict
from pocketlm.evaluation.comparison.records import Record, is_rate
from pocketlm.evaluation.comparison.words import interval, kind, score, shown_p
from pocketlm.evaluation.task_data import FILES, family
from pocketlm.statistics.rates import Estimate, normal_quantile

POWER = 0.8
"""How often a study of the stated size would show the difference, if it is as large as this one."""

COMPARABLE = "rates that all of them have on the same items; choose such tasks with --tasks"

SEEDS = (
    "All of this is about these weights and the choice of items. A sentence about recipes needs several training seeds "
    "of each."
)


@dataclass(frozen=True)
class Claim:
    """A sentence, whether it may be said, why, and (if not) what would be needed."""

    sentence: str
    allowed: bool
    reasons: tuple[str, ...]
    needed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Doubt:
    """Why a higher score is not yet a better model, and what would settle it."""

    reason: str
    needed: str


def claims(comparisons: Comparisons) -> list[Claim]:
    """Every sentence about the compared records, pair by pair, and the one about the whole table."""
    found = [claim for pair in comparisons.pairs for claim in pair_claims(pair, comparisons)]
    if len(comparisons.records) > 2:
        found += best_of_table(comparisons)
    return found


def pair_claims(pair: Pair, table: Comparisons) -> list[Claim]:
    """The sentences about one pair of a table: on the mean over tasks, and what single tasks show; without a mean, task
    by task.
    """
    first, second = pair.first.name, pair.second.name
    found = []
    if pair.mean is not None:
        found += _row_claims(pair, pair.mean) + _by_task(pair, table.task_comparisons)
    else:
        if len(table.tasks) > 1:
            reasons = tuple(item.reason for item in pair.refused)
            sentence = f"{first} and {second} differ on the mean of {len(table.tasks)} tasks"
            found.append(Claim(sentence, False, reasons, (COMPARABLE,)))
        for row in pair.tasks:
            found += _row_claims(pair, row)
    return found


def best_of_table(comparisons: Comparisons) -> list[Claim]:
    """Whether the model with the highest mean may be called the best of the table."""
    count = len(comparisons.records)
    if comparisons.no_mean or any(pair.mean is None for pair in comparisons.pairs):
        reasons = [f"no mean of {name}: {reason}" for name, reason in comparisons.no_mean.items()]
        faults = [item.reason for pair in comparisons.pairs for item in pair.refused if item.task != MEAN]
        sentence = f"one of the {count} models is the best of the table"
        return [Claim(sentence, False, tuple(dict.fromkeys(reasons or faults)), (COMPARABLE,))]
    means = [(pair, pair.mean) for pair in comparisons.pairs if pair.mean is not None]
    best = max(comparisons.means, key=lambda name: comparisons.means[name].value)
    record = next(record for record in comparisons.records if record.name == best)
    unbeaten, doubts = [], []
    for pair, row in means:
        if record not in (pair.first, pair.second):
            continue
        wins: Verdict = "better" if pair.first is record else "worse"
        if row.verdict != wins:
            unbeaten.append((pair.second if pair.first is record else pair.first).name)
        doubts += _doubts(pair, row, record)
    highest = f"{best} scored highest of the {count} models on the mean of {len(comparisons.tasks)} tasks"
    claim = f"{best} is the best of the {count} models on the mean of {len(comparisons.tasks)} tasks"
    if unbeaten:
        why = (f"it is not shown to differ from {', '.join(unbeaten)} (p adjusted over {len(means)} pairs)",)
        needed = ("more items; see what each pair would need",)
        return [Claim(highest, False, why, needed), Claim(claim, False, why, needed)]
    why = (f"its mean is above each other's, with p < {SIGNIFICANCE} adjusted over all {len(means)} pairs",)
    return [Claim(highest, True, why), _better(claim, why, doubts, _proviso(record, comparisons.tasks))]


def _row_claims(pair: Pair, row: Difference) -> list[Claim]:
    """No difference shown, and what "better" would need; or scored higher, and whether that means better."""
    on = f"the mean of {len(pair.tasks)} tasks" if row.task == MEAN else row.task
    ahead, behind = _order(pair, row)
    seen = _from(ahead, pair, row.difference)
    shown = f"{ahead.name} minus {behind.name} is {score(row.metric, seen, signed=True)}"
    facts: tuple[str, ...] = (f"{kind(row)}, {row.n:,} items: {shown}, {shown_p(row.adjusted)}",)
    better = f"{ahead.name} is better than {behind.name} on {on}"
    if row.verdict == "no difference shown":
        said = f"no difference between {pair.first.name} and {pair.second.name} is shown on {on}"
        if not row.difference.value:
            better = f"{ahead.name} and {behind.name} differ on {on}"
        return [Claim(said, True, facts), Claim(better, False, _undecided(row, seen), (_items_needed(row),))]
    verb = "scored higher than" if is_rate(row.metric) else "scored lower, which is better, than"
    higher = Claim(f"{ahead.name} {verb} {behind.name} on {on}", True, facts)
    if row.clean is not None:
        clean = score(row.metric, _from(ahead, pair, row.clean), signed=True)
        facts = (*facts, f"without the {row.flagged:,} items that training text held: {clean}")
    proviso = _proviso(ahead, [part.task for part in pair.tasks] if row.task == MEAN else [row.task])
    return [higher, _better(better, facts, _doubts(pair, row, ahead), proviso)]


def _better(sentence: str, facts: tuple[str, ...], doubts: list[_Doubt], proviso: str) -> Claim:
    if doubts:
        reasons = tuple(dict.fromkeys(doubt.reason for doubt in doubts))
        return Claim(sentence, False, reasons, tuple(dict.fromkeys(doubt.needed for doubt in doubts)))
    return Claim(sentence, True, (*facts, proviso) if proviso else facts)


def _split(record: Record, task: str) -> str:
    """Which items a record was scored on: `report` (nothing is chosen by them), `selection`, or not said."""
    if family(task) in FILES:  # a run keeps the items of our own tasks apart from those that choose
        return "report"
    return str(record.settings.get("split") or "")


def _proviso(record: Record, tasks: Sequence[str]) -> str:
    whole = [task for task in tasks if _split(record, task) != "report"]
    return f"provided that nothing was chosen by the items of {', '.join(whole)}: not a report split" if whole else ""


def _doubts(pair: Pair, row: Difference, ahead: Record) -> list[_Doubt]:
    """Why the score of `ahead` may be higher without its model being better."""
    doubts = []
    if not row.paired:
        for record in (pair.first, pair.second):
            if record.without_items():
                reason = f"{record.name} has no items to compare one by one"
                doubts.append(_Doubt(reason, f"{record.name} scored with `pocketlm eval`"))
    if ahead.chosen_on:
        doubts.append(_Doubt(f"{ahead.name}: {ahead.chosen_on}", "items that chose nothing"))
    tasks = [part.task for part in pair.tasks] if row.task == MEAN else [row.task]
    if any(_split(ahead, task) == "selection" for task in tasks):
        reason = f"{ahead.name} was scored on the selection split, which choices are made by"
        doubts.append(_Doubt(reason, "the report split of both"))
    if not row.flags_known[0 if ahead is pair.first else 1]:
        reason = f"it is not known whether {ahead.name}'s training text held these items"
        doubts.append(_Doubt(reason, "an evaluation in the run whose curation looked for them"))
    elif row.flagged and row.clean is None:
        doubts.append(_Doubt("training text held every item of a task", "items that it did not hold"))
    elif row.clean is not None and row.side(row.clean) != row.side(row.difference):
        shown = score(row.metric, _from(ahead, pair, row.clean), signed=True)
        reason = f"without the {row.flagged:,} items that training text held it is not shown: {shown}"
        doubts.append(_Doubt(reason, "more items that training text did not hold"))
    return doubts


def _undecided(row: Difference, seen: Estimate) -> tuple[str, ...]:
    if not row.side(row.difference):
        bounds = interval(row.metric, seen, signed=True)
        return (f"the 95 % interval of the difference {bounds} includes zero",)
    return (f"{shown_p(row.adjusted)} is not below {SIGNIFICANCE}",)


def _items_needed(row: Difference) -> str:
    """How many items would show a difference of this size, by the width of its interval: n grows with its square."""
    size = abs(row.difference.value)
    if not size:
        return "a difference to be seen at all"
    facing = abs(row.difference.value - (row.difference.low if row.difference.value > 0 else row.difference.high))
    z = normal_quantile()
    factor = ((z + NormalDist().inv_cdf(POWER)) / z * facing / size) ** 2
    if factor <= 1:
        return "more items, or fewer models and tasks compared at a time"
    return f"about {_rounded(factor)} times as many items ({_rounded(factor * row.n)}), if it is as large as it seems"


def _rounded(value: float) -> str:
    """Two digits: it is an estimate."""
    return f"{round(value, 1 - int(math.log10(value))):,.0f}" if value >= 10 else f"{value:.1f}"


def _by_task(pair: Pair, comparisons: int) -> list[Claim]:
    """One sentence for the tasks that each is ahead on, and one for those that show nothing.

    Args:
        comparisons: how many p is adjusted over.
    """
    first, second = pair.first.name, pair.second.name
    why = (f"p adjusted over {comparisons} comparisons: every pair on every task",)
    words: dict[Verdict, str] = {
        "better": f"{first} scored higher than {second} on",
        "worse": f"{second} scored higher than {first} on",
        "no difference shown": f"no difference between {first} and {second} is shown on",
    }
    found = []
    for verdict, sentence in words.items():
        tasks = [row.task for row in pair.tasks if row.verdict == verdict]
        if tasks:
            found.append(Claim(f"{sentence} {', '.join(tasks)}", True, why))
    return found


def _order(pair: Pair, row: Difference) -> tuple[Record, Record]:
    """The record that is ahead by the value, and the other."""
    ahead = (row.difference.value >= 0) == is_rate(row.metric)
    return (pair.first, pair.second) if ahead else (pair.second, pair.first)


def _from(ahead: Record, pair: Pair, difference: Estimate) -> Estimate:
    """A difference as `ahead` minus the other, which is how the sentence about it reads."""
    if ahead is pair.first:
        return difference
    return replace(difference, value=-difference.value, low=-difference.high, high=-difference.low)
