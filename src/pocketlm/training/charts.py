"""What the report shows of a pretraining run, from its log. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.pipeline.figures import Block, line_chart


def training_charts(rows: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Curves over the steps: `rows` are the log, `scores` the bits per byte on the selection split (`value`)."""
    curve = [{"step": row["step"], "bits per byte": row["value"]} for row in scores]
    return [
        line_chart("Bits per byte on the selection split", curve, "step", "bits per byte"),
        line_chart("Training loss", rows, "step", "loss", y_title="nats per token"),
        line_chart("Learning rate", rows, "step", "learning_rate", y_title="learning rate"),
        line_chart("Update-to-weight ratio", rows, "step", "update_ratio", y_title="|update| / |weights|"),
    ]
