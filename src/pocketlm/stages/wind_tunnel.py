"""Stage `wind_tunnel`: small models at several learning rates, to find the rate of a large one before it is trained.

In: tokens. Out: the sweep (`sweep.json`), its fitted curve, the sensitivity of every model to its rate, and the rate
recommended for the width asked for. Every run is short: what it recommends holds for the optimizer, the schedule and
the tokens per parameter that it was found with.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from pocketlm.errors import GateFailed
from pocketlm.model.config import SHAPES, ModelSettings
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import line_chart, table
from pocketlm.pipeline.stage import Inputs, stage
from pocketlm.training.settings import HIGHEST_RATE, OptimizationSettings, TrainingSettings


class WindTunnelSettings(OptimizationSettings):
    """Which models at which rates, for how long; the rest is how each is trained."""

    batch_rows: int = Field(default=16, gt=0)
    proxies: tuple[str, ...] = ("0.3m", "1m", "5m")
    """Presets; the vocabulary is that of the tokens."""
    learning_rates: tuple[Annotated[float, Field(gt=0, le=HIGHEST_RATE)], ...] = Field(
        default=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), min_length=3
    )
    tokens_per_parameter: float = Field(default=10.0, gt=0)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    target_width: int = Field(default=576, gt=0)
    """Width of the model that a rate is asked for."""
    seeds: int = Field(default=1, gt=0)
    """Runs of each model and rate; their mean counts."""

    @field_validator("proxies")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or any(name not in SHAPES for name in names):
            raise ValueError(f"give presets: {', '.join(SHAPES)}")
        return names

    @field_validator("proxies", "learning_rates")
    @classmethod
    def _once(cls, values: tuple[str | float, ...]) -> tuple[str | float, ...]:
        if len(set(values)) < len(values):
            raise ValueError("every one is tried as it is, so name it once (`seeds` repeats runs)")
        return values


@stage(version=1, inputs={"tokens": "tokens"}, output="sweep")
def wind_tunnel(settings: WindTunnelSettings, inputs: Inputs, context: Context) -> Artifact:
    """Sweep learning rates over small models and recommend one for a larger width."""
    from pocketlm.data.tokens.shards import TokenShard
    from pocketlm.data.tokens.training_tokens import TrainingTokens
    from pocketlm.evaluation.held_out_text import HeldOutText
    from pocketlm.evaluation.token_bytes import token_bytes
    from pocketlm.training.device import prepare
    from pocketlm.training.sweep import optimum, rate_for_width
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
            training = _training(settings, shape, rate)
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

    draft = context.draft("sweep")
    draft.write_json("sweep.json", rows)
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
        line_chart("Bits per byte by learning rate", rows, "learning_rate", "bits_per_byte", series="proxy"),
    ]
    metrics = {
        "recommended_rate": recommended,
        "width_exponent": exponent,
        "runs": len(rows) * settings.seeds,
        **{f"best_rate.{proxy}": found.rate for proxy, found in optima.items()},
        **{f"sensitivity.{proxy}": found.sensitivity for proxy, found in optima.items()},
    }
    return draft.commit(metrics, blocks)


def _training(settings: WindTunnelSettings, shape: ModelSettings, rate: float) -> TrainingSettings:
    """How a proxy is trained at a rate: as long as its size asks for."""
    tokens = settings.tokens_per_parameter * shape.parameter_count()
    steps = max(2, round(tokens / (settings.batch_rows * shape.context)))
    return TrainingSettings(
        **{name: getattr(settings, name) for name in OptimizationSettings.model_fields},
        steps=steps,
        learning_rate=rate,
        warmup_steps=min(steps - 1, round(settings.warmup_fraction * steps)),
    )
