"""Part 4 of `bench.gpu_posttraining`: the recipe `gsm8k-135m`, slice by slice, and what it found on GSM8K's test split.

The recipe's own study weighs levels alike; stated here is the mean over the items, which is what others call GSM8K's
accuracy, from the same answers: avg@k with a bootstrap interval over items, differences paired by item, and the p-value
of a test that flips the signs of whole items (10,000 draws: the smallest is 1/10,001).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench.gpu_posttraining_world import World
from bench.gpu_world import rounded
from pocketlm.commands import run_recipe
from pocketlm.errors import Interrupted
from pocketlm.pipeline.artifact import Artifact
from pocketlm.statistics.bootstrap import paired_difference, ratio_bootstrap
from pocketlm.statistics.paired_tests import sign_flip_test
from pocketlm.statistics.rates import wilson

RECIPE = "gsm8k-135m"
STARTS, PLAIN, OURS = ("import_model", "form"), "plain", "ours"
PAIRS = (*((PLAIN, start) for start in STARTS), *((OURS, start) for start in STARTS), (OURS, PLAIN))
ACCURACY, P = 0.10, 0.001
"""What is asked for: at least so much right, and above the start with a smaller p."""
CLOSING = 20.0
"""Seconds kept back for a stage's checkpoint and the result file."""

PAID = {"plain.reward.form": 0, "plain.reward.function": Path(__file__).with_name("reference_reward.py")}
"""The plain arm's reward beside the exact answer: the reference's own."""

Answers = Mapping[str, Sequence[Sequence[bool]]]
"""Model -> item -> verdict of every sample; the same items in the same order."""


def run_gsm8k(world: World, folder: Path) -> None:
    """Run or continue the recipe in `folder` as far as the time goes, and note what it found when it is through."""
    if world.record.measured("gsm8k", "result", fresh=False) is not None:
        return
    began = perf_counter()
    overrides = [f"{name}={value}" for name, value in {**world.given, **PAID}.items()]
    overrides += [f"runtime.device={world.device.type}", f"runtime.max_seconds={max(1.0, world.left() - CLOSING):.0f}"]
    slices = world.record.parts.setdefault("gsm8k", {}).setdefault("slices", {"seconds": []})
    try:
        run_recipe(RECIPE, folder, overrides, "rehearsal" if world.scale.toy else None, None)
    except Interrupted as stop:
        slices["seconds"].append(rounded(perf_counter() - began))
        world.record.put("gsm8k", "result", {"left_out": f"{stop}; the same command goes on"})
        print(f"  {stop}", flush=True)
        return
    slices["seconds"].append(rounded(perf_counter() - began))
    study = Artifact.open(folder / "artifacts" / "study")
    entry = {"seconds": sum(slices["seconds"]), **found(answers_of(study)), "study": study.metrics}
    world.record.put("gsm8k", "result", entry)


def answers_of(study: Artifact) -> dict[str, list[list[bool]]]:
    """The verdicts of every model on every item of the test split."""
    models = study.read_json("study.json")["models"]
    rows = {name: study.read_jsonl(f"answers/{name}.jsonl") for name in models}
    identities = {tuple(row["id"] for row in own) for own in rows.values()}
    if len(identities) != 1:
        raise ValueError("the models of the study answered different items")
    return {name: [row["right"] for row in own] for name, own in rows.items()}


def found(answers: Answers) -> dict[str, Any]:
    """avg@k of every model, and the paired differences that are asked for."""
    shares = {name: [sum(one) / len(one) for one in rows] for name, rows in answers.items()}
    items, samples = len(next(iter(answers.values()))), len(next(iter(answers.values()))[0])
    accuracy = {name: _accuracy(own, samples) for name, own in shares.items()}
    differences = {}
    for first, second in PAIRS:
        generator = np.random.default_rng(0)
        estimate = _estimate(paired_difference(shares[first], shares[second], generator))
        flat = [[one for row in answers[name] for one in row] for name in (first, second)]
        clusters = [item for item in range(items) for _ in range(samples)]
        test = sign_flip_test(flat[0], flat[1], generator, clusters)
        differences[f"{first} - {second}"] = {**estimate, "p": rounded(test.p)}
    return {"items": items, "samples": samples, "accuracy": accuracy, "differences": differences}


def _accuracy(shares: Sequence[float], samples: int) -> dict[str, float]:
    """The mean over items; its interval is at least Wilson's for one draw an item, which has a width at 0."""
    estimate = ratio_bootstrap(shares, [1.0] * len(shares), np.random.default_rng(0))
    least = wilson(round(sum(shares) * samples), len(shares) * samples, trials=len(shares))
    return _estimate(replace(estimate, low=min(estimate.low, least.low), high=max(estimate.high, least.high)))


def verdict(entry: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether what was asked for was found, and how it reads."""
    accuracy = entry["accuracy"][OURS]["value"]
    against = [entry["differences"][f"{OURS} - {start}"] for start in STARTS]
    met = accuracy >= ACCURACY and all(one["value"] > 0 and one["p"] < P for one in against)
    asked = f"asked for at least {ACCURACY:.0%}, above either start with p < {P:g}"
    return met, f"{OURS} {accuracy:.1%} ({asked}): {'met' if met else 'NOT met'}"


def summary(world: World) -> list[str]:
    """The table of models and differences; a toy run has nothing to say about GSM8K."""
    entry = world.record.measured("gsm8k", "result")
    if entry is None:
        return []
    lines = [f"{'avg@' + str(entry['samples']):16} n = {entry['items']}"]
    for name, one in entry["accuracy"].items():
        lines.append(f"{name:16} {one['value']:7.2%} [{one['low']:.2%}, {one['high']:.2%}]")
    for name, one in entry["differences"].items():
        lines.append(f"{name:24} {one['value']:+7.2%} [{one['low']:+.2%}, {one['high']:+.2%}] p = {one['p']:g}")
    return [*lines, "toy size: not GSM8K" if world.scale.toy else verdict(entry)[1]]


def _estimate(estimate: Any) -> dict[str, float]:
    return {name: rounded(value) for name, value in asdict(estimate).items() if name != "n"}
