"""Forgeries: consistent rewrites of a run that claim more than it did. What finds them is counted by themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import forging
from bench.tamper_kinds import SESSION, second_session
from pocketlm.pipeline.artifact import FIGURES, Artifact
from pocketlm.pipeline.ledger import LEDGER, Ledger, read_ledger
from pocketlm.pipeline.storage import json_bytes


def raised_score(artifact: Artifact, inputs: Any) -> Mapping[str, Any]:
    """One stage says that its model answered better on the selection split, in every file that says it."""
    figures = dict(artifact.metrics)
    name = "selection.exact_match"
    figures[name] = {**figures[name], "value": min(1.0, figures[name]["value"] + 0.2)}
    rows = artifact.read_jsonl("validation.jsonl")
    for row in rows:
        if row["step"] == figures["chosen_step"]:
            row |= {"exact_match": figures[name]["value"], "value": 1 - figures[name]["value"]}
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    (artifact.path / "validation.jsonl").write_text(text)
    return figures


def halved_tokens(artifact: Artifact, inputs: Any) -> Mapping[str, Any]:
    """A figure that nothing else in the artifact says."""
    return {**artifact.metrics, "optimized_tokens": int(artifact.metrics["optimized_tokens"]) // 2}


def right_answers(artifact: Artifact, inputs: Any) -> Mapping[str, Any]:
    """All of one model's wrong answers to the hardest level become right, and every figure follows."""
    from pocketlm.evaluation.asking import Answers
    from pocketlm.evaluation.judgement import judge
    from pocketlm.model.storage import WEIGHTS
    from pocketlm.pipeline.seeds import generator

    models = inputs.many("models")
    results = artifact.read_json("results.json")
    paths = {(name, task): artifact.path / f"items/{name}.{task}.jsonl" for name in models for task in results["order"]}
    items: dict[str, dict[str, Any]] = {name: {} for name in models}
    for (name, task), path in paths.items():
        if path.exists():
            items[name][task] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    forged = list(models)[-1]
    for row in items[forged]["arithmetic_level_3"]:
        row |= {"correct": True, "output": row["answer"]}
    text = "".join(
        json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in items[forged]["arithmetic_level_3"]
    )
    paths[forged, "arithmetic_level_3"].write_text(text, encoding="utf-8")
    settings = artifact.manifest["settings"]
    seed = artifact.manifest["identity"]["seed"]
    weights = {name: model.manifest["files"][WEIGHTS]["sha256"] for name, model in models.items()}
    pairs = [tuple(pair) for pair in settings["comparisons"]]
    answers = {name: Answers(rows, results["models"][name]["shortened"]) for name, rows in items.items()}
    judged = judge(answers, weights, pairs, settings["shown_answers"], lambda *at: generator(seed, *at))
    digests = {name: model.digest for name, model in models.items()}
    version = {"lm_eval": results["lm_eval"]}
    (artifact.path / "results.json").write_bytes(json_bytes({**version, **judged.results(digests, {})}))
    (artifact.path / "comparisons.json").write_bytes(json_bytes(judged.comparison_rows()))
    stated = json.loads((artifact.path / FIGURES).read_bytes())["blocks"]
    blocks = [*judged.blocks, *stated[len(judged.blocks) :]]
    (artifact.path / FIGURES).write_bytes(json_bytes({"metrics": judged.metrics, "blocks": blocks}))
    return judged.metrics


def halved_seconds(run: Path) -> None:
    """The ledger says that the run took half as long: nothing in the folder can contradict it."""
    lines = read_ledger(run / LEDGER)
    for line in lines:
        if line["body"].get("seconds"):
            line["body"]["seconds"] = round(line["body"]["seconds"] / 2, 3)
    forging.write_chain(run, lines)
    forging.publish(run)


def made_up_session(run: Path) -> str:
    """The true seal stays in the ledger; a session after it says that every stage took a hundredth of the time."""
    lines = read_ledger(run / LEDGER)
    sealed = lines[-1]
    started = [line["body"] for line in lines if line["event"] == "run_started"][-1]
    ledger = Ledger(run)
    ledger.append("run_started", {**started, "environment": {**started["environment"], "cpu": "a small one"}})
    for line in lines:
        if line["event"] == "stage_committed" and line["body"]["seconds"]:
            ledger.append("stage_committed", {**line["body"], "seconds": round(line["body"]["seconds"] / 100, 3)})
    ledger.append("run_finished", {"stages": list(sealed["body"]["artifacts"])})
    ledger.append("seal", sealed["body"])
    forging.publish(run)
    return str(sealed["hash"])


def older_seal_published(run: Path) -> str:
    """The newest session is cut off, and the report made again: an honest run, but an older one."""
    second_session(run)
    newest = read_ledger(run / LEDGER)[-1]["hash"]
    forging.write_chain(run, read_ledger(run / LEDGER)[: -len(SESSION)])
    forging.publish(run)
    return newest


FORGERIES: dict[str, Callable[[Path], str | None]] = {
    "a stage's selection score raised": lambda run: forging.forge(run, {"sft": raised_score}),
    "a stage's token count halved": lambda run: forging.forge(run, {"sft": halved_tokens}),
    "one model's answers made right": lambda run: forging.forge(run, {"evaluate": right_answers}),
    "seconds halved": halved_seconds,
    "made-up session appended": made_up_session,
    "newest session cut off": older_seal_published,
}
"""What a forger does with everything; the seal to hold it against, or None for that of the run."""
