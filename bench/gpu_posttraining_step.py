"""Part 3 of `bench.gpu_posttraining`: one step of the policy gradient, sampling and update apart.

The stage's own sampler, batches, objective and trainer; only the reward is drawn by lot, so that every group is live
and the whole batch is learned from. With random weights every completion is as long as it may be.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from statistics import median
from time import perf_counter
from typing import Any

import torch

from bench.gpu_posttraining_world import Subject, World
from bench.gpu_world import make_context, rounded
from pocketlm.posttraining.examples import Prompt
from pocketlm.posttraining.rlvr.policy_gradient import PolicyGradientObjective
from pocketlm.posttraining.rlvr.rlvr_settings import RlvrSettings
from pocketlm.posttraining.rollouts.batches import RolloutBatches
from pocketlm.posttraining.rollouts.curriculum import Draws
from pocketlm.posttraining.rollouts.sampler import Sampler
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import Scored
from pocketlm.training.device import compute_type
from pocketlm.training.trainer import Trainer
from pocketlm.training.update import Order

RATE = 1e-6
POOL = 8
"""Times that the prompts of a step stand in the pool, which a step may take an eighth of."""


class Lot:
    """A reward of 0 or -1 that a completion's text decides: what was cut earns no more than 0."""

    def score(self, row: Any, completion: str, progress: float = 1.0) -> Scored:
        """Right or wrong by lot."""
        right = hashlib.sha256(completion.encode()).digest()[0] % 2 == 0
        return Scored(right - 1.0, right)


class Ids:
    """Stands for the tokenizer of random weights: the text of a token is its number, and no text ever ends."""

    turn_end = 0

    def decode(self, tokens: list[int]) -> str:
        """Numbers."""
        return " ".join(map(str, tokens))


def measure_step(world: World) -> None:
    """Median seconds of sampling and of the update."""
    if world.record.measured("step", "policy_gradient") is None:
        entry = world.record.put("step", "policy_gradient", _step(world))
        print(f"  {entry}", flush=True)


def _step(world: World) -> dict[str, Any]:
    scale, subject = world.scale, world.subject
    steps = 1 + scale.steps
    settings = RlvrSettings(
        steps=steps,
        batch_rows=scale.step_prompts * scale.group,
        learning_rate=RATE,
        warmup_steps=0,
        rollouts=RolloutSettings(samples=scale.group, max_tokens=scale.max_tokens, slots=1024, over_long="zero"),
    )
    model = deepcopy(subject.model).requires_grad_(True)
    compute = compute_type(world.device)
    tokenizer: Any = subject.tokenizer or Ids()
    lot: Any = Lot()
    sampler = Sampler(tokenizer, lot, settings.rollouts, compute)
    draws = Draws(_prompts(subject, scale.step_prompts), scale.step_prompts, 0)
    batches = RolloutBatches(sampler, draws, settings, 0, world.scratch, steps)
    context = make_context(world.scratch / "step", micro_batch=scale.micro_batch, compile=False)
    objective = PolicyGradientObjective(settings, settings.batch_rows, scale.max_tokens)
    trainer = Trainer(model, objective, batches, settings, context)
    sampling, update, tokens, packed, distances = [], [], [], [], []
    for step in range(steps):
        world.wait()
        start = perf_counter()
        batch = batches.batch(step, model)
        sampled = perf_counter()
        figures = trainer.update.step(batch, Order(step, RATE))
        world.wait()
        ended = perf_counter()
        if step:  # the first captures graphs and chooses kernels
            sampling.append(sampled - start)
            update.append(ended - sampled)
            tokens.append(int(batch.extra["sampled_tokens"]))
            packed.append(batch.tokens_BT.numel())
            distances.append(float(figures["engine_distance"]))
    entry = {
        "model": subject.name,
        "prompts_x_samples": [scale.step_prompts, scale.group],
        "sampling_seconds": rounded(median(sampling)),
        "update_seconds": rounded(median(update)),
        "sequence_tokens": round(median(tokens)),
        "packed_tokens": round(median(packed)),
        "packed_tokens_per_second_of_update": rounded(median(packed) / median(update)),
        "engine_distance": rounded(median(distances)),
        "micro_batch": scale.micro_batch,
        "type": str(compute).removeprefix("torch."),
    }
    if world.device.type == "cuda":
        entry["peak_allocated_gb"] = rounded(torch.cuda.max_memory_allocated() / 1e9, 3)
    return entry


def _prompts(subject: Subject, count: int) -> list[Prompt]:
    """A pool that a step may draw from: prompts of one level, as often as it takes."""
    prompts = (subject.prompts * (-(-count // len(subject.prompts))))[:count]
    return [
        Prompt({"id": f"{turn}/{number}", "level": 1}, prompt)
        for turn in range(POOL)
        for number, prompt in enumerate(prompts)
    ]
