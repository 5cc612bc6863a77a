"""The quickstart from scratch, again from cache, and again from scratch: wall time, memory, headline figures, digests.

    python -m bench.quickstart [--folder runs/bench] [--once]

Writes bench/results/quickstart.json. The runs' folders are kept, for reading the report and for other benches.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.common import machine, versions, write_result

FIGURES = {
    "pretrain": ("heldout.bits_per_byte.", "heldout.bits_per_byte_below.", "tokens", "parameters"),
    "sft": ("selection.exact_match", "solved_problems", "chosen_step", "converged"),
    "interpolate": ("selection.", "weight"),
    "rlvr": ("selection.exact_match", "live_groups", "optimized_tokens", "chosen_step"),
    "continued_sft": ("optimized_tokens", "selection.exact_match"),
    "rejection_sampling": ("sampled_tokens", "selection.exact_match"),
    "curate": ("planted.", "input.documents", "train.documents", "train.bytes", "rejected"),
    "evaluate": ("",),
    "export": ("logit_difference", "same_greedy_text"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--once", action="store_true", help="skip the second run from scratch")
    arguments = parser.parse_args()
    first, second = arguments.folder / "first", arguments.folder / "second"
    seconds = {"from_scratch": _run(first), "all_cached": _run(first)}
    digests = _digests(first)
    payload: dict[str, Any] = {
        "machine": machine(),
        "versions": versions("lm_eval", "transformers", "tokenizers", "numba", "pyarrow"),
        "wall_seconds": seconds,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6, 2),
        "stage_seconds": _stage_seconds(first),
        "figures": _figures(first),
        "digests": digests,
    }
    if not arguments.once:
        seconds["from_scratch_again"] = _run(second)
        payload["stages_with_equal_digests"] = sum(digests[name] == digest for name, digest in _digests(second).items())
        payload["stages"] = len(digests)
    print(json.dumps({key: payload[key] for key in payload if key not in ("digests", "figures")}, indent=2))
    write_result("quickstart", payload)


def _run(folder: Path) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "pocketlm", "run", "quickstart", "--out", str(folder)], check=True)
    return round(time.monotonic() - began, 1)


def _digests(folder: Path) -> dict[str, str]:
    manifests = sorted((folder / "artifacts").glob("*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["digest"] for path in manifests}


def _report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return content


def _stage_seconds(folder: Path) -> dict[str, float]:
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    committed = [entry["body"] for entry in map(json.loads, lines) if entry["event"] == "stage_committed"]
    return {body["stage"]: body["seconds"] for body in committed}


def _figures(folder: Path) -> dict[str, Any]:
    stages = _report(folder)["stages"]
    return {
        stage: {name: metric for name, metric in stages[stage].items() if name.startswith(wanted)}
        for stage, wanted in FIGURES.items()
    }


if __name__ == "__main__":
    main()
