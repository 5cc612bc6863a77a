"""Whether two results may be compared, and what must be said beside a comparison.

Refused is what would compare other questions: other items, another metric, other examples, the chat form against none.
Said, but not refused, is what changes a score a little or not at all: the harness's version, the precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pocketlm.evaluation.comparison.records import Item, Record, TaskRecord, is_rate
from pocketlm.evaluation.task_data import FILES, family

SAID = {"lm_eval": "lm-evaluation-harness", "precision": "precision"}


def why_not(first: Record, second: Record, task: str) -> str:
    """Why two records cannot be compared on a task; empty when they can."""
    if lacking := [record for record in (first, second) if task not in record.tasks]:
        return " and ".join(f"{record.name} has {record.unusable.get(task, f'no {task}')}" for record in lacking)
    one, other = first.tasks[task], second.tasks[task]
    if one.primary not in other.scores or (one.primary != other.primary and not is_rate(other.primary)):
        return f"{first.name} gives {one.primary}, {second.name} gives {', '.join(other.scores)}"
    forms = [record.settings.get("chat") for record in (first, second)]
    if None not in forms and forms[0] != forms[1] and not own_task(task):
        asked, plain = (first.name, second.name) if forms[0] else (second.name, first.name)
        return f"{asked} was asked in the chat form and {plain} was not; score both in one form"
    if None not in (one.shots, other.shots) and one.shots != other.shots:
        return f"{first.name} was shown {one.shots} examples and {second.name} {other.shots}; score both alike"
    if None not in (one.examples, other.examples) and one.examples != other.examples:
        return f"{first.name} and {second.name} were shown other few-shot examples; score both with the same ones"
    if one.items is not None and other.items is not None:
        return _why_not_the_same_items(first, second, one.items, other.items)
    if one.n != other.n:
        counts = [f"{record.name} has {result.n}" for record, result in ((first, one), (second, other))]
        return f"the items differ: {', '.join(counts)}{_limits(first, second)}; score both on the same items"
    return ""


def why_no_mean(results: Mapping[str, TaskRecord], tasks: Sequence[str]) -> str:
    """Why a record has no mean over `tasks`; empty when it has."""
    if missing := [task for task in tasks if task not in results]:
        return f"it has no {', '.join(missing)}; leave that out with --tasks, or score it"
    if odd := [task for task in tasks if not is_rate(results[task].primary)]:
        return f"{', '.join(odd)} is no rate; choose rates with --tasks"
    return "" if len(tasks) > 1 else "there is one task"


def remarks(first: Record, second: Record) -> list[str]:
    """What differs between two records without making them incomparable: it is said, and the reader judges."""
    found = []
    if first.digest is not None and first.digest == second.digest:
        found.append("both have the same weights: a difference would be one of the scoring, not of the model")
    for name, word in SAID.items():
        values = [record.settings.get(name) for record in (first, second)]
        if None not in values and values[0] != values[1]:
            found.append(f"{word} differs ({values[0]} and {values[1]}); scores may differ a little by that")
    forms = [record.settings.get("chat") for record in (first, second)]
    if None in forms and True in forms:
        found.append("one was asked in the chat form; of the other the form is not stated")
    for record in (first, second):
        if limit := record.settings.get("limit"):
            found.append(
                f"{record.name} was scored on the first {limit} items of each task, which are no random sample"
            )
    if first.published or second.published:
        found.append("published scores come without items: not paired, and that the items are the same is not checked")
    return found


def own_task(task: str) -> bool:
    """Whether a task is one of ours, which are asked in one form whatever the caller wants."""
    return family(task) in FILES or task.startswith("behaviour_")


def has(names: Sequence[str]) -> str:
    """The verb that goes with so many names."""
    return "has" if len(names) == 1 else "have"


def _why_not_the_same_items(first: Record, second: Record, ours: Sequence[Item], theirs: Sequence[Item]) -> str:
    """Items are the same when they have the same hashes, in whatever order, each as often."""
    counts = [Counter(item["hash"] for item in rows) for rows in (ours, theirs)]
    if counts[0] != counts[1]:
        common = (counts[0] & counts[1]).total()
        return (
            f"the items differ: {first.name} has {len(ours)}, {second.name} has {len(theirs)}, {common} of them in "
            f"common{_limits(first, second)}; score both on the same items"
        )
    sizes = [{item["hash"]: item.get("bytes") for item in rows} for rows in (ours, theirs)]
    return "" if sizes[0] == sizes[1] else "the same documents have other byte counts; one of the results is damaged"


def _limits(first: Record, second: Record) -> str:
    limited = [(record.name, record.settings.get("limit")) for record in (first, second)]
    words = [f"{name} was limited to {limit}" for name, limit in limited if limit]
    return f" ({', '.join(words)})" if words else ""
