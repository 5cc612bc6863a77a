"""Part 6 of `bench.gpu`: wall-clock to the loss of L20-Edu's recipe on real text.

Two trainings on the same rows in the same order: L20-Edu's optimizer and schedule, and ours. Curves do not depend on
the speed, so that times are reckoned with measured rates of part 3: of L20-Edu's set-up, and of ours with Muon.
Each arm is a training run with checkpoints in its work folder: a slice that ends is continued by the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.gpu_variants import BASELINE, MUON
from bench.gpu_world import World, fresh_compiler, make_context, recipe_optimizer, rounded
from pocketlm.data.tokens.shards import TokenShard
from pocketlm.errors import Interrupted
from pocketlm.model.transformer import Transformer
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.heldout import document_bits
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import TrainingSettings
from pocketlm.training.trainer import Trainer
from pocketlm.training.validation import Validation

GOAL = 0.25
ROWS = 64  # 131,072 tokens a step
SCORES = 40  # of a run
DOCUMENTS = 32
L20: dict[str, Any] = {"learning_rate": 4e-4, "schedule": "cosine", "final_fraction": 0.1}
OURS: dict[str, Any] = {"schedule": "wsd", "decay_fraction": 0.4}  # the form of the recipe's phases
WARM_UP = {"l20": 1000 / 18_928, "ours": 0.02}  # share of the steps


def race(world: World, run: Path, work: Path, tokens: int, rate: float) -> None:
    """Run both arms as far as time allows, then compare. `run` is a run folder with a `tokenize` artifact."""
    artifact = run / "artifacts" / "tokenize"
    ours = {**recipe_optimizer(), **OURS, "learning_rate": rate}
    for arm, settings in (("l20", L20), ("ours", ours)):
        if world.record.measured("race", arm) is None and (world.scale.toy or world.left() > world.compiling):
            entry = _train(world, arm, settings, artifact, work, tokens)
            print(f"  {arm}: {world.record.put('race', arm, entry).get('left_out', 'finished')}", flush=True)
    world.record.put("race", "result", compare(world))
    print(f"  {world.record.parts['race']['result']}", flush=True)


def compare(world: World) -> dict[str, Any]:
    """Time of ours to the last loss of L20-Edu's recipe, over the time that its own set-up takes."""
    l20, ours = (world.record.measured("race", arm) for arm in ("l20", "ours"))
    if l20 is None or ours is None:
        return {"left_out": "both arms must have finished"}
    target = l20["curve"][-1][1]
    reached = next((tokens for tokens, bits in ours["curve"] if bits <= target), None)
    entry: dict[str, Any] = {
        "target_bits_per_token": target,
        "tokens_l20": l20["curve"][-1][0],
        "tokens_ours": reached,
        "goal": GOAL,
    }
    if reached is None:
        return {**entry, "not_reached": f"ours ended at {ours['curve'][-1][1]}"}
    rates = [world.record.measured("throughput", name) for name in (BASELINE, MUON)]
    if rates[0] is None or rates[1] is None:
        return {**entry, "left_out": f"needs the rates of {BASELINE} and {MUON}"}
    theirs, own = (which["tokens_per_second"] for which in rates if which is not None)
    ratio = (reached / own) / (l20["curve"][-1][0] / theirs)
    return {**entry, "rates": [theirs, own], "wall_clock_ratio": rounded(ratio), "met": ratio <= GOAL}


def _train(world: World, arm: str, chosen: dict[str, Any], artifact: Path, work: Path, tokens: int) -> dict[str, Any]:
    scale = world.scale
    rows = scale.rows if scale.toy else ROWS
    shard = TokenShard.open(artifact)
    held_out = TokenShard.open(artifact, "heldout_selection")
    shape = scale.shape.model_copy(update={"vocabulary": shard.vocabulary})
    steps = max(2, tokens // (rows * shape.context))
    documents = [held_out.document(at)[:-1][: shape.context] for at in range(min(DOCUMENTS, len(held_out.offsets)))]
    scored, border = sum(map(len, documents)), int(held_out.document(0)[-1])

    def score(model: Transformer) -> dict[str, float]:
        return {"value": float(document_bits(model, documents, border).sum()) / scored}

    training = TrainingSettings(
        steps=steps, batch_rows=rows, warmup_steps=round(WARM_UP[arm] * steps), log_every=10, **chosen
    )
    model = Transformer(shape)
    model.init_weights(0)
    model.to(world.device)
    context = make_context(work / arm, max(0.0, world.left() - 30), micro_batch=scale.micro[1])
    validation = Validation(max(1, steps // SCORES), score, keep_best=False)
    batches = PretrainBatches(shard.tokens, rows, shape.context, seed=0)
    with fresh_compiler(scale.toy):
        trainer = Trainer(model, LanguageModelObjective(), batches, training, context, validation)
        try:
            result = trainer.run()
        except Interrupted:
            return {"left_out": f"stopped after {trainer.step} of {steps} steps; the same command continues"}
    curve = [[row["step"] * rows * shape.context, rounded(row["value"], 6)] for row in result.validation_rows]
    return {
        "settings": training.identity(),
        "vocabulary": shard.vocabulary,
        "tokens_of_data": len(shard.tokens),
        "held_out_tokens": scored,
        "curve": curve,
        "device": torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu",
    }
