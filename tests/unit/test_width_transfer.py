"""Coordinate check of muP (arXiv 2203.03466, appendix D.1): a step changes activations alike at every width."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.training.optimizer import Optimizer
from pocketlm.training.settings import TrainingSettings

WIDTHS = (32, 64, 128, 256)
LAYERS = ("attention.qkv", "attention.output", "mlp.gate_up", "mlp.down", "")  # of a block; "": the stream behind it
RATES = {"adamw": 1e-3, "muon": 3e-3}


def changes(width: int, seed: int, optimizer: str, width_transfer: int | None, steps: int) -> dict[str, float]:
    """Root mean square of the change of every activation of two layers after `steps` steps on one batch.

    The embeddings are held: their rate is not scaled, and what they change would hide what the matrices change.
    """
    shape = ModelSettings(
        vocabulary=64, width=width, layers=2, heads=width // 16, kv_heads=width // 16, head_dim=16,
        ffn_width=3 * width, context=16,
    )  # fmt: skip
    model = Transformer(shape)
    model.init_weights(seed)
    model.embedding.weight.requires_grad_(False)
    settings = {"learning_rate": RATES[optimizer], "optimizer": optimizer, "width_transfer": width_transfer}
    updates = Optimizer(model, TrainingSettings(steps=steps, batch_rows=8, weight_decay=0.0, **settings))
    tokens = torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(seed))
    seen: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Any:
        return lambda module, inputs, output: seen.update({name: output.detach()})

    for name, module in model.named_modules():
        if name.startswith("blocks.") and name[len("blocks.0.") :] in LAYERS:
            module.register_forward_hook(remember(name))
    model(tokens[:, :-1])
    before = dict(seen)
    for _ in range(steps):
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        updates.step(RATES[optimizer], torch.tensor(False))
        model.zero_grad()
    model(tokens[:, :-1])
    return {name: float((value - before[name]).square().mean().sqrt()) for name, value in seen.items()}


def growth(optimizer: str, width_transfer: int | None, steps: int) -> dict[str, float]:
    """Exponent p of every activation's change ~ width^p, fitted over the widths; geometric mean of two seeds."""
    widths = [math.log(width) for width in WIDTHS]
    logs = [
        {name: math.log(value) for name, value in changes(width, seed, optimizer, width_transfer, steps).items()}
        for width in WIDTHS
        for seed in range(2)
    ]
    middle = sum(widths) / len(widths)
    spread = 2 * sum((width - middle) ** 2 for width in widths)
    return {name: sum((widths[i // 2] - middle) * row[name] for i, row in enumerate(logs)) / spread for name in logs[0]}


@pytest.mark.parametrize(("optimizer", "unscaled"), [("adamw", 0.6), ("muon", 0.5)])
def test_activations_change_alike_at_every_width(optimizer: str, unscaled: float) -> None:
    """The exponents are 0 within 0.25, 0.15 on average; unscaled they are near 1 (AdamW) and 0.5 (Muon) as derived."""
    scaled, plain = growth(optimizer, WIDTHS[0], steps=2), growth(optimizer, None, steps=2)
    assert len(scaled) == 2 * len(LAYERS)
    assert max(abs(exponent) for exponent in scaled.values()) < 0.25
    assert abs(sum(scaled.values())) / len(scaled) < 0.15
    assert min(plain.values()) > 0.3
    assert sum(plain.values()) / len(plain) > unscaled
