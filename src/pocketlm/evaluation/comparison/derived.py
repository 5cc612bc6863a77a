"""What a task's items give, and whether a file states just that: neither a score nor its interval is taken on trust."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.errors import InputError
from pocketlm.evaluation.comparison.records import is_rate
from pocketlm.evaluation.scores import summarise
from pocketlm.pipeline.seeds import generator
from pocketlm.statistics.rates import Estimate

DRAWN_APART = 0.25
"""How far two draws of a resampled bound may lie apart, in widths of the interval. Of some documents as unequal as they
come, bounds by 12 seeds lay 0.07 apart at most."""
ROUNDING = 1e-9


def checked_scores(
    task: str,
    primary: str,
    stated: Mapping[str, Estimate],
    rows: Sequence[Mapping[str, Any]],
    where: str,
    hashed: bool,
) -> dict[str, Estimate]:
    """Metric -> estimate of a task from its items; what the items decide one by one must be as the source states it.

    Stated values and intervals that agree are kept, so that resampled bounds read as in the source; every other score
    is derived.

    Args:
        hashed: whether the source was re-hashed. Another interval is then that of another version of pocketlm, and the
            derived one is taken.

    Raises:
        InputError: the items give another value, interval or count, are not those of such a task, or contradict
            themselves.
    """
    derived = _derived(task, rows, where)
    main, rates = next(iter(derived)), list(rows[0].get("metrics", ()))
    if primary not in (main, *rates):
        raise InputError(f"{where}: its items do not say {primary}, only {', '.join(dict.fromkeys((main, *rates)))}")
    for number, row in enumerate(rows, start=1):
        found = row.get("metrics", {})
        if not all(isinstance(found[metric], bool) for metric in rates):
            raise InputError(f"{where}, item {number} ({row['id']}): {found} is not right or wrong by each metric")
        if is_rate(primary) and found.get(primary, row["correct"]) != row["correct"]:
            raise InputError(f"{where}, item {number} ({row['id']}) contradicts itself: `correct` is not its {primary}")
    scores = dict(derived)
    for metric in (metric for metric in (main, *rates) if metric in stated):
        estimate = stated[metric]
        if _agree(estimate, derived[metric], drawn=not is_rate(metric)):
            scores[metric] = estimate
        elif not (hashed and _close(estimate.value, derived[metric].value)):
            raise InputError(
                f"{where} states {_shown(metric, estimate)}, but its items give {_shown(metric, derived[metric])}: it "
                "was altered or damaged, or written by another version; score the model again"
            )
    return scores


def _derived(task: str, rows: Sequence[Mapping[str, Any]], where: str) -> dict[str, Estimate]:
    try:
        return summarise({task: [dict(row) for row in rows]}, generator(0, "intervals"), whole=False)[task]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{where}: its items are none of such a task ({error!r}); score the model again") from None


def _agree(stated: Estimate, derived: Estimate, drawn: bool) -> bool:
    apart = DRAWN_APART * (derived.high - derived.low) if drawn else 0.0
    bounds = ((stated.low, derived.low), (stated.high, derived.high))
    return (
        stated.n == derived.n
        and _close(stated.value, derived.value)
        and all(_close(one, other, apart) for one, other in bounds)
    )


def _close(one: float, other: float, apart: float = 0.0) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING + apart)


def _shown(metric: str, estimate: Estimate) -> str:
    return f"{metric} {estimate.value:.6g} [{estimate.low:.6g}, {estimate.high:.6g}] of {estimate.n} items"
