"""Scoring a sample of recorded items again, from the stored models: what `pocketlm verify` asks of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketlm.evaluation.inputs import open_model, stage_data

if TYPE_CHECKING:
    from pocketlm.evaluation.harness import Item
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.pipeline.stage import Inputs

ITEMS_PER_TASK = 4
RELATIVE_TOLERANCE = 1e-4
"""Of a log-likelihood: another machine or thread count rounds differently; another weight does not hide in it."""


def differences(artifact: Artifact, inputs: Inputs, context: Context) -> list[str]:
    """One line for each sampled item whose score is not the recorded one; the sample follows from the recipe's seed."""
    from pocketlm.evaluation.adapter import PocketLM
    from pocketlm.evaluation.harness import open_suite
    from pocketlm.training.device import prepare

    device = prepare(context.runtime)
    data = stage_data(inputs["documents"], inputs.get("problems"))
    problems: list[str] = []
    with open_suite(data) as suite:
        for place, (name, model) in enumerate(inputs.many("models").items()):
            generator = context.generator("recheck", place)
            chosen = {
                task: sorted(generator.choice(len(rows), min(ITEMS_PER_TASK, len(rows)), replace=False).tolist())
                for task, rows in data.rows.items()
            }
            again = suite.evaluate(PocketLM(*open_model(model, device)), chosen=chosen).items
            for task, places in chosen.items():
                recorded = artifact.read_jsonl(f"items/{name}.{task}.jsonl")
                if len(recorded) != len(data.rows[task]):
                    counts = f"{len(recorded)} items are recorded, the data holds {len(data.rows[task])}"
                    problems.append(f"{name} on {task}: {counts}")
                    continue
                problems += [
                    f"{name} on {task}, item {item['id']}: recorded {recorded[index]}, scored again {item}"
                    for index, item in zip(places, again[task], strict=True)
                    if not _same(recorded[index], item)
                ]
    return problems


def _same(recorded: Item, again: Item) -> bool:
    if recorded.keys() != again.keys():
        return False
    for key, value in again.items():
        if key == "log_likelihood":
            if abs(recorded[key] - value) > RELATIVE_TOLERANCE * max(1.0, abs(value)):
                return False
        elif recorded[key] != value:
            return False
    return True
