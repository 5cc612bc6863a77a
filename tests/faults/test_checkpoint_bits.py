"""Bits of a checkpoint's four files, flipped: found before use, set aside, reported; the one before is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pocketlm.training.checkpoint import Checkpoint, CheckpointFolder

FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.long)])
def test_a_flipped_bit_of_the_newest_checkpoint_is_found_and_the_one_before_is_used(
    tmp_path: Path, stride: int
) -> None:
    events: list[tuple[str, Any]] = []
    checkpoints = CheckpointFolder(tmp_path, lambda kind, **body: events.append((kind, body)))
    for step in (1, 2):
        tensors = {"model": {"w": torch.arange(4.0) + step}, "optimizer": {"w:exp_avg": torch.ones(4)}}
        checkpoints.save(step, Checkpoint(tensors, {"step": step, "log": {"losses": [3.5 - step] * 64}}))
    newest, aside = tmp_path / "step-00-00000002", tmp_path / "step-00-00000002.corrupt"
    assert sorted(path.name for path in newest.iterdir()) == FILES
    trials = 0
    for name in FILES:
        original = (newest / name).read_bytes()
        for bit in range(0, 8 * len(original), stride):
            changed = bytearray(original)
            changed[bit // 8] ^= 1 << bit % 8
            (newest / name).write_bytes(changed)
            found = checkpoints.load_newest()
            assert found is not None, (name, bit)
            assert found.state["step"] == 1, (name, bit)
            [(kind, body)] = events
            assert (kind, body["checkpoint"]) == ("checkpoint_corrupt", newest.name)
            assert body["reason"]
            events.clear()
            aside.rename(newest)
            trials += 1
        (newest / name).write_bytes(original)
    assert trials >= 10_000 // stride
    found = checkpoints.load_newest()
    assert found is not None
    assert found.state["step"] == 2
