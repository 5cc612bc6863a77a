"""What is recorded of one scored item, from what lm-evaluation-harness logged of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.errors import InputError
from pocketlm.evaluation.benchmarks.tasks import benchmark_of, primary_metric
from pocketlm.evaluation.task_data import BITS_PER_BYTE, CLOZE

Item = dict[str, Any]
"""{"id", "hash", ...}: the hash is the harness's `doc_hash`, so that logs of the stock command match by it.
Bits per byte: "log_likelihood", "bytes". One right continuation (cloze, LAMBADA): "log_likelihood", "correct".
Multiple choice: "log_likelihoods", "lengths" (characters of each choice, for acc_norm), "gold",
"metrics" (each rate of the task), "correct" (the task's primary one).
Lettered options: "log_likelihoods_by_order" (a list an order), "gold", "metrics" ("given", "debiased"), "correct".
Generation: "prompt", "answer", "output", "correct"; for our own "level", and for arithmetic "operands"; for GSM8K
"metrics" with "strict" and "flexible", by how the number is read out of the answer."""

GSM8K = "gsm8k"
GSM8K_FILTERS = {"strict-match": "strict", "flexible-extract": "flexible"}


def item_of(name: str, task: Any, logged: Sequence[Mapping[str, Any]]) -> Item:
    """The record of one document.

    Args:
        name: of the task. task: the harness's object.
        logged: its samples of this document, one for each filter.
    """
    sample = logged[0]
    doc = sample["doc"]
    item: Item = {"id": str(doc.get("id", sample["doc_id"] + 1)), "hash": sample["doc_hash"]}
    if name == GSM8K:
        rates = {GSM8K_FILTERS[one["filter"]]: bool(one["exact_match"]) for one in logged}
        asked = {"prompt": doc["question"], "answer": doc["answer"], "output": sample["resps"][0][0]}
        return {**item, **asked, "metrics": rates, "correct": rates[primary_metric(name)]}
    if task.OUTPUT_TYPE == "multiple_choice":
        rates = {metric: bool(sample[metric]) for metric in sample["metrics"]}
        likelihoods = [response[0] for response in sample["filtered_resps"]]
        gold = int(task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc))
        if rates["acc"] != (likelihoods.index(max(likelihoods)) == gold):
            raise InputError(
                f"task {name}, item {item['id']}: the harness's verdict does not follow from the right answer {gold}; "
                "the label is of another type than upstream's"
            )
        return {
            **item,
            "log_likelihoods": likelihoods,
            "lengths": [len(choice) for choice in task.doc_to_choice(doc)],
            "gold": gold,
            "metrics": rates,
            "correct": rates[primary_metric(name)],
        }
    (response,) = sample["filtered_resps"]
    if name == BITS_PER_BYTE:
        return {**item, "log_likelihood": response, "bytes": sample["bits_per_byte"][1]}
    if name == CLOZE or benchmark_of(name) is not None:
        return {**item, "log_likelihood": response[0], "correct": bool(response[1])}
    shown = {key: doc[key] for key in ("level", "prompt", "answer", "operands") if key in doc}
    return {**item, **shown, "output": response, "correct": bool(sample["exact_match"])}
