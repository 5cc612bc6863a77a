"""Stage `wind_tunnel`: small models at several learning rates, to find the rate of a large one before it is trained.

In: tokens. Out: the sweep (`sweep.json`) with the curve fitted to every model, the sensitivity of every model to its
rate, and the rate recommended for the width asked for. Every run is short: what it recommends holds for the optimizer,
the schedule and the tokens per parameter that it was found with, which by default are trained with as `pretrain` does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field

from pocketlm.errors import GateFailed
from pocketlm.model.config import SHAPES
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import Block, table
from pocketlm.pipeline.stage import Inputs, Rederived, stage
from pocketlm.training.settings import SpikePolicy
from pocketlm.training.sweep_settings import SweepSettings


class WindTunnelSettings(SweepSettings):
    """Each model is trained as `pretrain` trains by default, so that the recommended rate is one for that stage."""

    batch_rows: int = Field(default=8, gt=0)
    optimizer: Literal["adamw", "muon"] = "muon"
    embedding_rate: float = Field(default=2.0, gt=0)
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    log_every: int = Field(default=10, gt=0)
    spikes: SpikePolicy | None = SpikePolicy()
    probe_every: int | None = Field(default=50, gt=0)
    target_width: int = Field(default=576, gt=0)
    """Width of the model that a rate is asked for."""


def recheck(settings: WindTunnelSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Fit the recorded runs again."""
    from pocketlm.pipeline.rederivation import compared

    sweep = _fitted(settings, artifact.read_json("sweep.json")["runs"], context)
    return compared(artifact, sweep.metrics, sweep.blocks)


@dataclass(frozen=True)
class _Fitted:
    optima: dict[str, Any]
    metrics: dict[str, Any]
    blocks: list[Block]


@stage(version=2, inputs={"tokens": "tokens"}, output="sweep", recheck=recheck)
def wind_tunnel(settings: WindTunnelSettings, inputs: Inputs, context: Context) -> Artifact:
    """Sweep learning rates over small models and recommend one for a larger width."""
    from pocketlm.data.tokens.shards import TokenShard
    from pocketlm.data.tokens.training_tokens import TrainingTokens
    from pocketlm.evaluation.held_out.text import HeldOutText
    from pocketlm.evaluation.held_out.token_bytes import token_bytes
    from pocketlm.training.device import prepare
    from pocketlm.training.sweep_run import bits_of_run

    prepare(context.runtime)
    tokens = inputs["tokens"]
    shard = TokenShard.open(tokens.path)
    held_out = TrainingTokens({"tokens": tokens.path}).held_out("heldout_selection")
    text = HeldOutText.of(held_out, token_bytes(tokens.file("tokenizer.json")))
    rows: list[dict[str, Any]] = []
    for proxy in settings.proxies:
        shape = SHAPES[proxy].with_vocabulary(shard.vocabulary)
        for rate in settings.learning_rates:
            training = settings.run_of(shape, rate)
            scores = [
                bits_of_run(
                    shape, shard.tokens, training, seed, text.bits_per_byte, context.within(f"{proxy}-{rate:g}-{seed}")
                )
                for seed in range(settings.seeds)
            ]
            finite = [score["bits_per_byte"] for score in scores if score["bits_per_byte"] is not None]
            mean = sum(finite) / len(finite) if len(finite) == len(scores) else None
            rows.append({"proxy": proxy, "learning_rate": rate, "bits_per_byte": mean, "start": scores[0]["start"]})
            context.progress(len(rows), len(settings.proxies) * len(settings.learning_rates), "run")

    sweep = _fitted(settings, rows, context)
    draft = context.draft("sweep")
    optima = {proxy: asdict(found) for proxy, found in sweep.optima.items()}
    draft.write_json("sweep.json", {"runs": rows, "optima": optima})
    return draft.commit(sweep.metrics, sweep.blocks)


def _fitted(settings: WindTunnelSettings, rows: list[dict[str, Any]], context: Context) -> _Fitted:
    """The figures that follow from the runs."""
    from pocketlm.training.sweep import optimum, rate_for_width, sweep_chart

    optima = {}
    for proxy in settings.proxies:
        own = [row for row in rows if row["proxy"] == proxy]
        losses = {row["learning_rate"]: row["bits_per_byte"] or float("inf") for row in own}
        if min(losses.values()) == float("inf"):
            raise GateFailed(f"{context.stage}: {proxy} diverged at every rate; give lower learning_rates")
        optima[proxy] = optimum(losses, own[0]["start"])
        if optima[proxy].on_edge:
            context.warn(f"{proxy}: the best rate, {optima[proxy].rate:g}, is the last of the sweep; widen it")
    by_width = {SHAPES[proxy].width: found.rate for proxy, found in optima.items()}
    recommended, exponent = rate_for_width(by_width, settings.target_width)

    columns = ["proxy", "width", "best rate", "bits per byte", "sensitivity", "inside the sweep"]
    shown = [
        [proxy, SHAPES[proxy].width, found.rate, round(found.loss, 4), round(found.sensitivity, 4), not found.on_edge]
        for proxy, found in optima.items()
    ]
    note = (
        f"Parabola in the logarithm of the rate; the best rate goes with width to the power {exponent:.2f}. "
        f"Recommended for width {settings.target_width}: {recommended:.2g}, extrapolated where no proxy is that wide."
    )
    blocks = [
        table("Best learning rates", columns, [dict(zip(columns, row, strict=True)) for row in shown], note),
        sweep_chart(rows, optima),
    ]
    metrics = {
        "recommended_rate": recommended,
        "width_exponent": exponent,
        "runs": len(rows) * settings.seeds,
        **{f"best_rate.{proxy}": found.rate for proxy, found in optima.items()},
        **{f"sensitivity.{proxy}": found.sensitivity for proxy, found in optima.items()},
    }
    return _Fitted(optima, metrics, blocks)
