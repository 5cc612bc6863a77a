"""Training speed of the quickstart's shape: our trainer's step, the same compiled, and a plain transformers loop.

    python -m bench.training [--compiled] [--rounds 5]

The three take turns on the same random tokens with the same AdamW, so that other load on the machine hits all alike.
Results: bench/results/training.json. Compilation time is stated apart and is not in the rates.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from bench.common import alternate, paired_ratio, write_result

ROWS = 8


def main() -> None:
    """Measure, print a table and write the result."""
    import torch

    from pocketlm.model.config import preset
    from pocketlm.model.formats.hugging_face import export_weights
    from pocketlm.model.loss import head_cross_entropy
    from pocketlm.model.transformer import Transformer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--compiled", action="store_true", help="measure torch.compile too (a minute or more to compile)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    settings = preset("1m")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(settings.vocabulary, (ROWS, settings.context + 1), generator=generator)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def own(hidden: Callable[..., Any], model: Transformer) -> Callable[[], None]:
        def loss() -> Any:
            total, count = head_cross_entropy(hidden(inputs), model.head_weight_VD, targets)
            return total / count

        return _step(loss, list(model.parameters()))

    model = Transformer(settings)
    model.init_weights(0)
    candidates = {"own eager": own(model.hidden, model)}
    with TemporaryDirectory() as folder:
        from transformers import LlamaForCausalLM

        export_weights(model, Path(folder), end_of_text=0, end_of_turn=2)
        theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    candidates["transformers eager"] = _step(
        lambda: torch.nn.functional.cross_entropy(theirs(inputs).logits.flatten(0, 1), targets.flatten()),
        list(theirs.parameters()),
    )
    compile_seconds = None
    if arguments.compiled:
        candidates["own compiled"] = own(torch.compile(model.hidden, dynamic=False), model)
        started = perf_counter()
        candidates["own compiled"]()
        compile_seconds = round(perf_counter() - started, 1)
    seconds = alternate(candidates, arguments.rounds)
    rates = {name: round(tokens[:, 1:].numel() / min(times)) for name, times in seconds.items()}
    ratios = {name: round(paired_ratio(times, seconds["own eager"]), 3) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:20} {rate:>8,} tokens/s  {ratios[name]:.2f} x the time of own eager")
    payload = {"tokens_per_second": rates, "time_relative_to_own_eager": ratios, "compile_seconds": compile_seconds}
    write_result("training", {"rows": ROWS, "shape": settings.model_dump(), **payload}, ("transformers",))


def _step(loss: Callable[[], Any], parameters: list[Any]) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
