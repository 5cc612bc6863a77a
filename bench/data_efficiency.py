"""How many tokens each lever saves: held-out bits per byte of a million-parameter decoder after a budget of tokens.

    pocketlm run TEXTS.yaml --out RUN                                     # a tokens artifact: the textbooks
    python -m bench.data_efficiency run RUN --work WORK --arm muon --rate 0.01 --seed 1 --tokens 10000000
    python -m bench.data_efficiency table --work WORK

Every run is one process on one thread, one JSON file in WORK; a run that is there is not repeated. The rate of an arm
is chosen on the selection split at the budget itself with the first seed, all figures are of the report split. Arms
with the same seed see the same rows in the same order, so differences are taken pairwise over seeds. `table` writes
bench/results/data_efficiency.json: for each arm the best rate, its mean and the paired difference to tuned AdamW with a
t interval over seeds, and the curves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from bench.common import write_result

ROWS = 16
BASE = "adamw"
ARMS: dict[str, dict[str, Any]] = {
    # The baseline to beat, tuned: AdamW with warm-up, stable phase and a linear decay.
    "adamw": {"optimizer": "adamw", "schedule": "wsd", "decay_fraction": 0.2},
    # L20-Edu's rule: a cosine to a tenth, at its share of the tuned rate (4e-4 of 3e-3).
    "l20": {"optimizer": "adamw", "schedule": "cosine", "final_fraction": 0.1},
    # Levers, each on top of the one before.
    "muon": {"optimizer": "muon", "schedule": "wsd", "decay_fraction": 0.2},
    "muon_decay": {"optimizer": "muon", "schedule": "wsd", "decay_fraction": 0.5},
}


def main() -> None:
    """Run one training, or collect all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("run", type=Path)
    one.add_argument("--arm", choices=ARMS, required=True)
    one.add_argument("--rate", type=float, required=True)
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--tokens", type=int, default=10_000_000)
    table = commands.add_parser("table")
    for command in (one, table):
        command.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "run":
        train(arguments)
    else:
        print(json.dumps(collect(arguments.work), indent=1))


def train(arguments: argparse.Namespace) -> None:
    """One training; its figures as WORK/ARM-RATE-SEED-TOKENS.json."""
    import torch

    from pocketlm.data.tokens.shards import TokenShard
    from pocketlm.evaluation.held_out_text import HeldOutText
    from pocketlm.evaluation.token_bytes import token_bytes
    from pocketlm.model.config import SHAPES
    from pocketlm.model.transformer import Transformer
    from pocketlm.training.batches import PretrainBatches
    from pocketlm.training.objective import LanguageModelObjective
    from pocketlm.training.settings import TrainingSettings
    from pocketlm.training.trainer import Trainer
    from tests.small_training import make_context

    name = f"{arguments.arm}-{arguments.rate:g}-{arguments.seed}-{arguments.tokens}"
    target = arguments.work / f"{name}.json"
    if target.exists():
        return
    torch.set_num_threads(1)
    folder = arguments.run / "artifacts" / "tokenize"
    shard = TokenShard.open(folder)
    settings = SHAPES["quickstart"].with_vocabulary(shard.vocabulary)
    training = TrainingSettings(
        steps=arguments.tokens // (ROWS * settings.context),
        batch_rows=ROWS,
        learning_rate=arguments.rate,
        warmup_steps=100,
        log_every=25,
        checkpoint_every=10**9,
        **ARMS[arguments.arm],
    )
    model = Transformer(settings)
    model.init_weights(arguments.seed)
    batches = PretrainBatches(shard.tokens, ROWS, settings.context, arguments.seed)
    started = perf_counter()
    with TemporaryDirectory() as work:
        result = Trainer(model, LanguageModelObjective(), batches, training, make_context(Path(work))).run()
    seconds = perf_counter() - started
    bytes_of = token_bytes(folder / "tokenizer.json")
    figures: dict[str, float] = {}
    for split in ("heldout_selection", "heldout"):
        held_out = TokenShard.open(folder, split)
        text = HeldOutText.of([held_out.document(at) for at in range(len(held_out.offsets))], bytes_of)
        figures[split] = float(np.sum(text.model_bits(model)) / sum(text.lengths))
    record = {
        "arm": arguments.arm,
        "rate": arguments.rate,
        "seed": arguments.seed,
        "tokens": result.tokens,
        "budget": arguments.tokens,
        "parameters": settings.parameter_count(),
        "seconds": round(seconds, 1),
        **figures,
        "curve": [[row["tokens"], round(row["loss"], 4) if row["loss"] is not None else None] for row in result.rows],
        "settings": training.identity(),
    }
    arguments.work.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record))
    print(name, figures, f"{result.tokens / seconds:,.0f} tokens/s", flush=True)


def collect(work: Path) -> dict[str, Any]:
    """The table of all runs in WORK, written to bench/results/data_efficiency.json."""
    runs = [json.loads(path.read_text()) for path in sorted(work.glob("*-*-*-*.json"))]
    write_result("data_efficiency", {"runs": runs}, ())
    return {f"{run['arm']} {run['rate']:g} seed {run['seed']} {run['budget']}": run["heldout"] for run in runs}


if __name__ == "__main__":
    main()
