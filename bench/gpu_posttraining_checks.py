"""Part 1 of `bench.gpu_posttraining`: is what will be timed right?

The reference is a whole forward pass over finished sequences, in fp32, without a cache and for greedy texts on the CPU:
it shares no code with the engine but the transformer.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from bench.gpu_checks import _verdict, run_checks
from bench.gpu_posttraining_world import Uncaptured, World
from pocketlm.generation.engine import Completion, Engine, Request
from pocketlm.generation.shadow import Shadow
from pocketlm.model.loss import IGNORE
from pocketlm.posttraining.log_probabilities import target_log_probabilities
from pocketlm.posttraining.packing import Branch, group_tree, pack
from pocketlm.training.batches import Batch

# Nats. Sums of another order differ by some 1e-6; a greedy choice between tokens that are nearer than this is a tie.
NATS = 1e-4
DIFFERENT = 0.02
"""Share of the sampled texts that may differ: a draw can fall on a rounding error."""
SAMPLES = 2
MATES = 8
"""Prompts that are also sampled alone."""


def check(world: World) -> None:
    """All checks that this code has not passed yet on this device; products in fp32 are fp32 (TF32 is off)."""
    run_checks(
        world.record,
        {
            "greedy": lambda: greedy(world),
            "log_probabilities.fp32": lambda: log_probabilities(world, torch.float32),
            "log_probabilities.bf16": lambda: log_probabilities(world, torch.bfloat16),
            "graphs": lambda: graphs(world),
            "mates": lambda: mates(world),
        },
    )


def greedy(world: World) -> dict[str, Any]:
    """Is every token that the engine takes the likeliest after those before it?"""
    subject, scale = world.subject, world.scale
    requests = [Request(prompt, scale.check_tokens) for prompt in subject.prompts]
    taken = Engine(subject.model, slots=scale.slots[0]).generate(requests)
    reference = deepcopy(subject.model).cpu()
    different, largest, count = 0, 0.0, 0
    for prompt, [completion] in zip(subject.prompts, taken, strict=True):
        tokens_T = torch.tensor(completion.tokens)
        with torch.no_grad():
            hidden_TD = reference.hidden(torch.tensor([[*prompt, *completion.tokens[:-1]]]))[0, len(prompt) - 1 :]
            logits_TV = hidden_TD @ reference.head_weight_VD.T
        gap_T = logits_TV.amax(-1) - logits_TV.gather(1, tokens_T.unsqueeze(1)).squeeze(1)
        different += int((logits_TV.argmax(-1) != tokens_T).sum())
        largest, count = max(largest, float(gap_T.max())), count + len(tokens_T)
    if count != len(subject.prompts) * scale.check_tokens:
        raise RuntimeError(f"{count} tokens of {len(subject.prompts)} x {scale.check_tokens}")
    return _verdict({"gap": largest}, {"gap": NATS}, tokens=count, different_tokens=different)


def log_probabilities(world: World, dtype: torch.dtype) -> dict[str, Any]:
    """What the engine says of the tokens that it drew, against what the trainer says of them. bf16 is stated only."""
    subject = world.subject
    shadow = Shadow(subject.model, dtype)
    with shadow.products():
        groups = Engine(shadow.model, slots=world.scale.slots[0]).generate(_requests(world))
    batch, behaviour_BT = _packed(world, groups)
    given_BT = target_log_probabilities(subject.model, batch, rows=1, compute=dtype)
    distance_N = (given_BT - behaviour_BT)[batch.targets_BT != IGNORE].abs()
    errors = {"largest": float(distance_N.max()), "mean": float(distance_N.mean())}
    exact = dtype == torch.float32
    entry = _verdict(errors, {"largest": NATS} if exact else {}, tokens=len(distance_N))
    return entry if exact else {**entry, "passed": None}


def graphs(world: World) -> dict[str, Any]:
    """Graph replays against the same steps one kernel after the other; on a CPU bucketed against plain steps."""
    model, slots = world.subject.model, world.scale.slots[0]
    first, second = (kind(model, slots=slots).generate(_requests(world)) for kind in (Engine, Uncaptured))
    return compared(first, second)


def mates(world: World) -> dict[str, Any]:
    """The same requests alone, and among all the others in another order."""
    requests = _requests(world)
    engine = Engine(world.subject.model, slots=world.scale.slots[0])
    alone = [engine.generate([request])[0] for request in requests[:MATES]]
    among = engine.generate(requests[::-1])[::-1][:MATES]
    return compared(alone, among)


def compared(first: Sequence[Sequence[Completion]], second: Sequence[Sequence[Completion]]) -> dict[str, Any]:
    """Share of texts that differ, and the largest distance of log-probabilities up to the first difference."""
    pairs = [pair for one, other in zip(first, second, strict=True) for pair in zip(one, other, strict=True)]
    distance = 0.0
    for one, other in pairs:
        for at, (left, right) in enumerate(zip(one.log_probabilities, other.log_probabilities, strict=False)):
            distance = max(distance, abs(left - right))
            if one.tokens[at : at + 1] != other.tokens[at : at + 1]:
                break
    different = sum(one.tokens != other.tokens for one, other in pairs)
    errors = {"different_texts": different / len(pairs), "log_probability": distance}
    return _verdict(errors, {"different_texts": DIFFERENT, "log_probability": NATS}, texts=len(pairs))


def _requests(world: World) -> list[Request]:
    return [
        Request(prompt, world.scale.check_tokens, 1.0, seed=number, samples=SAMPLES)
        for number, prompt in enumerate(world.subject.prompts)
    ]


def _packed(world: World, groups: Sequence[Sequence[Completion]]) -> tuple[Batch, Tensor]:
    trees = [
        group_tree(prompt, [Branch(one.tokens, one.log_probabilities, 0.0) for one in completions])
        for prompt, completions in zip(world.subject.prompts, groups, strict=True)
    ]
    rows = pack(trees, max(map(len, trees)))
    return Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS), rows.behaviour_BT
