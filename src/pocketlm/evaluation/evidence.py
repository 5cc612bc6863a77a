"""Verdicts held against what is recorded beside them: no model, no data file is needed.

Not covered: whether a single continuation (LAMBADA, cloze) was the most likely one; only scoring it again tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation import letters
from pocketlm.evaluation.behaviour import run as behaviour
from pocketlm.evaluation.benchmarks.tasks import benchmark_of, lettered, primary_metric, upstream_definition
from pocketlm.evaluation.items import GSM8K, GSM8K_FILTERS
from pocketlm.evaluation.task_data import uses_chat

if TYPE_CHECKING:
    from pocketlm.evaluation.items import Item

WHITE_SPACE = " \t\n\r\v\f"


def contradictions(task: str, items: Sequence[Item]) -> list[str]:
    """One line for each item whose verdict does not follow from its own log-likelihoods or text."""
    if task.startswith("behaviour_"):
        return behaviour.differences(task, items)
    if lettered(task):
        return letters.differences(task, items)
    verdict = _verdict_of(task)
    if verdict is None:
        return []
    return [
        f"{task}, item {item.get('id')}: its verdict does not follow from what is recorded of it"
        for item in items
        if {key: item.get(key) for key in ("metrics", "correct")} != verdict(item)
    ]


def _verdict_of(task: str) -> Callable[[Item], Mapping[str, Any]] | None:
    if uses_chat(task):
        return _of_answer
    if task == GSM8K:
        return _of_number
    name = benchmark_of(task)
    return None if name in (None, "lambada_openai") else lambda item: _of_choice(task, item)


def _of_answer(item: Item) -> Mapping[str, Any]:
    return {"metrics": None, "correct": item["output"].strip(WHITE_SPACE) == item["answer"]}


def _of_choice(task: str, item: Item) -> Mapping[str, Any]:
    """Upstream's rule: the first of the highest; for acc_norm of those divided by the choices' characters."""
    found = {
        "acc": item["log_likelihoods"],
        "acc_norm": [value / length for value, length in zip(item["log_likelihoods"], item["lengths"], strict=True)],
    }
    rates = {metric: found[metric].index(max(found[metric])) == item["gold"] for metric in item["metrics"]}
    return {"metrics": rates, "correct": rates[primary_metric(task)]}


def _of_number(item: Item) -> Mapping[str, Any]:
    """Upstream's filters and comparison, applied to the recorded text."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    filters, options = _number_rules()
    rates = {}
    for name, settings in filters.items():
        (((number, *_),),) = [RegexFilter(**settings).apply([[item["output"]]], [{}])]
        right = exact_match_hf_evaluate(predictions=[number], references=[item["answer"]], **options)
        rates[GSM8K_FILTERS[name]] = bool(right["exact_match"])
    return {"metrics": rates, "correct": rates[primary_metric(GSM8K)]}


@cache
def _number_rules() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Filter -> its regular expression and choice; and how upstream compares what they find."""
    import yaml

    definition = yaml.safe_load(upstream_definition(GSM8K).read_text(encoding="utf-8"))
    filters = {
        one["name"]: {key: value for key, value in one["filter"][0].items() if key != "function"}
        for one in definition["filter_list"]
    }
    kept = ("ignore_case", "ignore_punctuation", "regexes_to_ignore")
    return filters, {key: definition["metric_list"][0][key] for key in kept}
