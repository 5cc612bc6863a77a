"""What one update changes of a real model's weights, by learning rate: the figure that the precision guard warns on.

    python -m bench.precision_guard MODEL.gguf TOKENIZER.json TEXT.txt

AdamW's first update (L20-Edu's settings) on the weights as bf16, as L20-Edu's phases 2 to 4 were run, and on fp32
masters of the same weights, with the gradients of 512 tokens of text. Results: bench/results/precision_guard.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.common import write_result

RATES = {"phase 1": 4e-4, "phase 2": 1e-5, "phase 3": 4e-6, "phase 4": 3e-6}
TOKENS = 512


def main() -> None:
    """Measure, print and write the result."""
    import tokenizers
    import torch

    from pocketlm.model.formats.gguf import load_gguf
    from pocketlm.training.batches import Batch
    from pocketlm.training.guard import UpdateMeter
    from pocketlm.training.objective import LanguageModelObjective
    from pocketlm.training.trainer import SMALLEST_CHANGED_SHARE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("text", type=Path)
    arguments = parser.parse_args()

    tokenizer = tokenizers.Tokenizer.from_file(str(arguments.tokenizer))
    ids = tokenizer.encode(arguments.text.read_text(encoding="utf-8")[:20_000]).ids[: TOKENS + 1]
    rows: list[dict[str, Any]] = []
    for phase, rate in RATES.items():
        row: dict[str, Any] = {"phase": phase, "learning_rate": rate}
        for name, dtype in (("bf16_weights", torch.bfloat16), ("fp32_masters", torch.float32)):
            model = load_gguf(arguments.model, torch.device("cpu")).to(dtype)
            batch = Batch(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
            optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = LanguageModelObjective().loss(model, batch)
            loss.backward()
            weights = list(model.parameters())
            before = [weight.detach().clone() for weight in weights]
            meter = UpdateMeter(weights)
            meter.before()
            optimizer.step()
            changed = sum(int((old != new).sum()) for old, new in zip(before, weights, strict=True))
            row[name] = {
                "weights_that_changed": changed / sum(weight.numel() for weight in weights),
                "guard_share": float(meter.changed_share()),
            }
        row["warned"] = row["fp32_masters"]["guard_share"] < SMALLEST_CHANGED_SHARE
        rows.append(row)
        print(row, flush=True)
    write_result("precision_guard", {"model": arguments.model.name, "threshold": SMALLEST_CHANGED_SHARE, "rates": rows})


if __name__ == "__main__":
    main()
