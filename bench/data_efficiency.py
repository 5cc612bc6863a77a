"""How many tokens each lever saves: held-out bits per byte of a million-parameter decoder after a budget of tokens.

    pocketlm run bench/data_efficiency.yaml --out RUN       # the textbooks as tokens
    python -m bench.data_efficiency run RUN --arm muon --rate 0.01 --seed 1 --tokens 10000000
    python -m bench.data_efficiency table RUN

Every run is one process on one thread (compiled, products in bfloat16 over fp32 masters, all arms alike) and one file
in bench/results/data_efficiency/; a run that is there is not repeated. The best rate of an arm is that of its first
seed on the selection split, at the budget itself; all figures are of the report split. Arms with the same seed see the
same rows in the same order and start from the same weights, so differences are taken pairwise over seeds: to the best
AdamW, and of each lever to the one before at the same rate. `table` writes bench/results/data_efficiency.json.

The stored runs have attention in float32, but for those of `adamw` at 0.0015 and 0.003 and of `muon`, `muon_decay` and
`muon_qk` at 2.5M tokens: it was in bfloat16 before them, and is again since (its products).

The model is `quickstart`, of 1.1M parameters like the preset `1m`, for which nothing of this is measured. The text is
read less than once, so that the curves of training loss are of text not seen before.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from bench.common import RESULTS, write_result

ROWS = 16
WORK = RESULTS / "data_efficiency"
BASE = "adamw"
LADDER = ("muon", "muon_decay", "muon_qk", "muon_rows")
"""Levers, each on top of the one before."""


@dataclass(frozen=True)
class Arm:
    """What an arm changes: training settings, layout of the model, weights at the start."""

    training: dict[str, Any] = field(default_factory=dict)
    layout: str = "llama"
    zero_projections: bool = False
    """Start the projections back into the residual stream at zero: every layer begins as the identity."""


_MUON: dict[str, Any] = {"optimizer": "muon", "schedule": "wsd", "decay_fraction": 0.2}
_LONG: dict[str, Any] = {**_MUON, "decay_fraction": 0.6}
_ROWS: dict[str, Any] = {**_LONG, "normalise_rows": True}
ARMS = {
    # The baseline to beat, tuned: AdamW with warm-up, stable phase and a linear decay.
    "adamw": Arm({"optimizer": "adamw", "schedule": "wsd", "decay_fraction": 0.2}),
    # The same with the long decay of the levers below.
    "adamw_decay": Arm({"optimizer": "adamw", "schedule": "wsd", "decay_fraction": 0.6}),
    # L20-Edu's rule: a cosine to a tenth, at its share of the tuned rate (4e-4 of 3e-3).
    "l20": Arm({"optimizer": "adamw", "schedule": "cosine", "final_fraction": 0.1}),
    # Levers, each on top of the one before.
    "muon": Arm(_MUON),
    "muon_decay": Arm(_LONG),
    "muon_qk": Arm(_LONG, layout="qwen3"),
    "muon_rows": Arm(_ROWS, layout="qwen3"),
    # Tried on top of `muon_qk`.
    "muon_zero": Arm(_LONG, layout="qwen3", zero_projections=True),
}


def main() -> None:
    """Run one training, or collect all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--arm", choices=ARMS, required=True)
    one.add_argument("--rate", type=float, required=True)
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--tokens", type=int, default=10_000_000)
    table = commands.add_parser("table")
    for command in (one, table):
        command.add_argument("run", type=Path)
        command.add_argument("--work", type=Path, default=WORK)
    arguments = parser.parse_args()
    if arguments.command == "run":
        train(arguments)
    else:
        collect(arguments.run, arguments.work)


def train(arguments: argparse.Namespace) -> None:
    """One training; its figures as WORK/ARM-RATE-SEED-TOKENS.json."""
    import torch

    from pocketlm.data.tokens.shards import TokenShard
    from pocketlm.evaluation.held_out.text import HeldOutText
    from pocketlm.evaluation.held_out.token_bytes import token_bytes
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
    arm = ARMS[arguments.arm]
    folder = arguments.run / "artifacts" / "tokenize"
    shard = TokenShard.open(folder)
    settings = SHAPES["quickstart"].model_copy(update={"layout": arm.layout}).with_vocabulary(shard.vocabulary)
    training = TrainingSettings(
        steps=arguments.tokens // (ROWS * settings.context),
        batch_rows=ROWS,
        learning_rate=arguments.rate,
        warmup_steps=100,
        log_every=25,
        checkpoint_every=10**9,
        **arm.training,
    )
    model = Transformer(settings)
    model.init_weights(arguments.seed)
    if arm.zero_projections:
        for block in model.blocks:
            torch.nn.init.zeros_(block.attention.output.weight)
            torch.nn.init.zeros_(block.mlp.down.weight)
    batches = PretrainBatches(shard.tokens, ROWS, settings.context, arguments.seed)
    started = perf_counter()
    with TemporaryDirectory() as work:
        context = make_context(Path(work), compile=True, precision="bfloat16")
        result = Trainer(model, LanguageModelObjective(), batches, training, context).run()
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
        "budget": arguments.tokens,
        "tokens": result.tokens,
        "parameters": settings.parameter_count(),
        "seconds": round(seconds, 1),
        **figures,
        "settings": training.identity(),
        "shape": settings.identity(),
        "zero_projections": arm.zero_projections,
        "curve": [[row["tokens"], round(row["loss"], 4) if row["loss"] is not None else None] for row in result.rows],
    }
    arguments.work.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record))
    print(name, figures, f"{result.tokens / seconds:,.0f} tokens/s", flush=True)


def collect(run: Path, work: Path) -> None:
    """The table of all runs in WORK, over the tokens of RUN: printed, and bench/results/data_efficiency.json."""
    from pocketlm.data.tokens.shards import TokenShard
    from pocketlm.pipeline.artifact import Artifact

    runs = [json.loads(path.read_text()) for path in sorted(work.glob("*.json"))]
    largest = max(run["budget"] for run in runs)
    base = _runs(runs, BASE, largest, _best_rate(runs, BASE, largest))
    rows = []
    order = {arm: at for at, arm in enumerate(ARMS)}
    made = {(-run["budget"], order[run["arm"]], run["rate"]) for run in runs}
    for budget, arm, rate in ((-budget, list(ARMS)[at], rate) for budget, at, rate in sorted(made)):
        own = _runs(runs, arm, budget, rate)
        row = {
            "arm": arm,
            "budget": budget,
            "rate": rate,
            "best_rate_tried": rate == _best_rate(runs, arm, budget),
            "seeds": [run["seed"] for run in own],
            "heldout_bits_per_byte": round(mean(run["heldout"] for run in own), 4),
            f"minus_{BASE}_at_{largest}": _interval(own, base),
        }
        if arm in LADDER[1:]:
            before = LADDER[LADDER.index(arm) - 1]
            row[f"minus_{before}"] = _interval(own, _runs(runs, before, budget, rate))
        rows.append(row)
        print(json.dumps(row))
    tokens = Artifact.open(run / "artifacts" / "tokenize")
    data = {
        "digest": tokens.digest,
        "training_tokens": len(TokenShard.open(tokens.path).tokens),
        "held_out_tokens": len(TokenShard.open(tokens.path, "heldout").tokens),
    }
    write_result("data_efficiency", {"data": data, "base": BASE, "base_budget": largest, "rows": rows}, ())


def _runs(runs: list[dict[str, Any]], arm: str, budget: int, rate: float) -> list[dict[str, Any]]:
    """By seed."""
    own = [run for run in runs if (run["arm"], run["budget"], run["rate"]) == (arm, budget, rate)]
    return sorted(own, key=lambda run: run["seed"])


def _best_rate(runs: list[dict[str, Any]], arm: str, budget: int) -> float:
    """The rate that the first seed did best with on the selection split."""
    own = [run for run in runs if (run["arm"], run["budget"]) == (arm, budget)]
    first = min(run["seed"] for run in own)
    best = min((run for run in own if run["seed"] == first), key=lambda run: run["heldout_selection"])
    return float(best["rate"])


def _interval(runs: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of the differences of equal seeds with its 95 % t interval; no interval from fewer than three."""
    from scipy.stats import t

    theirs = {run["seed"]: run["heldout"] for run in others}
    differences = [run["heldout"] - theirs[run["seed"]] for run in runs if run["seed"] in theirs]
    if not differences:
        return {"mean": None}
    figures: dict[str, Any] = {"mean": round(mean(differences), 4), "pairs": len(differences)}
    if len(differences) >= 3:
        half = float(t.ppf(0.975, len(differences) - 1)) * stdev(differences) / len(differences) ** 0.5
        figures["interval"] = [round(mean(differences) - half, 4), round(mean(differences) + half, 4)]
    return figures


if __name__ == "__main__":
    main()
