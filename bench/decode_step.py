"""Decode steps on a CPU: our kernels against packed products, by rows of the step and length of the cache.

    python -m bench.decode_step [--threads 2] [--rounds 12]

A model of the form `135m` with random weights, float32. A step is one token of each row through all layers and the
head; both ways take turns, and the ratio is of each round. `MOST_ROWS` in the
model's `decode_step.py` rests on this.

Prints a table and writes bench/results/decode_step.json.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bench.common import alternate, paired_ratio, write_result
from pocketlm.model import decode_step
from pocketlm.model.cache import KeyValueCache
from pocketlm.model.config import preset
from pocketlm.model.packing import PackedLinear, pack
from pocketlm.model.transformer import Transformer

ROWS = (1, 2, 4, 8, 12, 16, 24, 32)
LENGTHS = (32, 512, 2000)
CONTEXT = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = Transformer(preset("135m")).requires_grad_(False).eval()
    model.init_weights(1)
    packed_head = PackedLinear(model.head_weight_VD)
    pack(model)
    border, decode_step.MOST_ROWS = decode_step.MOST_ROWS, max(ROWS)
    with torch.inference_mode():
        steps = {
            f"{rows} rows, {length} keys": _steps(model, packed_head, rows, length, given.rounds)
            for length in LENGTHS
            for rows in ROWS
        }
    payload = {"threads": given.threads, "rounds": given.rounds, "most_rows": border, "steps": steps}
    print(json.dumps(payload, indent=2))
    write_result("decode_step", payload)


def _steps(model: Transformer, packed_head: nn.Module, rows: int, length: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step by either way."""
    cache = KeyValueCache(model.settings, rows, CONTEXT)
    tokens_BT = torch.arange(rows)[:, None] + 7
    kernels, head = model.decode_step, model.packed_head

    def step(way: Any, head: nn.Module) -> Tensor:
        model.decode_step = way
        cache.position[:] = length
        logits: Tensor = head(model.hidden(tokens_BT, cache=cache.rows(slice(0, rows), extent=length + 1)))
        return logits

    ways = {"kernels": partial(step, kernels, head), "packed": partial(step, None, packed_head)}
    seconds = alternate(ways, rounds)
    model.decode_step = kernels
    milliseconds = {f"{name}_ms": round(1e3 * median(values), 1) for name, values in seconds.items()}
    return milliseconds | {"packed_to_kernels": round(paired_ratio(seconds["packed"], seconds["kernels"]), 2)}


if __name__ == "__main__":
    main()
