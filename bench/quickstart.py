"""The quickstart twice from scratch and once from cache: wall time, memory, headline figures, equal digests.

    python -m bench.quickstart runs/first [runs/second]

Without a second folder digests are not compared (`bench.kill_and_resume` compares them too). A folder that does not
exist is made by a run; of one that does, only the cached run is new. Times and memory are those of the ledger (first
start to seal), so a run made by `make quickstart` counts as it was. Writes bench/results/quickstart.json.
"""

from __future__ import annotations

import argparse
import json
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
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path, nargs="?")
    arguments = parser.parse_args()
    folders = [folder for folder in (arguments.first, arguments.second) if folder is not None]
    for folder in folders:
        if not folder.exists():
            _run(folder)
    began = time.monotonic()
    _run(arguments.first)
    cached = time.monotonic() - began
    digests = _digests(arguments.first)
    committed = _events(arguments.first, "stage_committed")
    payload: dict[str, Any] = {
        "machine": machine(),
        "versions": versions("lm_eval", "transformers", "tokenizers", "numba", "pyarrow"),
        "wall_seconds": {
            "from_scratch": [_first_session_seconds(folder) for folder in folders],
            "all_cached": round(cached, 1),
        },
        "peak_memory_gb": round(max(entry["body"]["peak_memory_bytes"] for entry in committed) / 1e9, 2),
        "stage_seconds": {entry["body"]["stage"]: entry["body"]["seconds"] for entry in committed},
        "figures": _figures(arguments.first),
        "digests": digests,
        "stages": len(digests),
    }
    if arguments.second is not None:
        others = _digests(arguments.second)
        payload["stages_with_equal_digests"] = sum(others.get(name) == digest for name, digest in digests.items())
    print(json.dumps({key: payload[key] for key in payload if key not in ("digests", "figures")}, indent=2))
    write_result("quickstart", payload)


def _run(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "pocketlm", "run", "quickstart", "--out", str(folder)], check=True)


def _events(folder: Path, *events: str) -> list[dict[str, Any]]:
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] in events]


def _first_session_seconds(folder: Path) -> float:
    """From the first start to the first seal; a folder whose run was interrupted in between is refused."""
    session = _events(folder, "run_started", "seal")
    if [entry["event"] for entry in session[:2]] != ["run_started", "seal"]:
        sys.exit(f"{folder} was not made in one go: its wall time means nothing")
    return float(round(session[1]["time"] - session[0]["time"], 1))


def _digests(folder: Path) -> dict[str, str]:
    manifests = sorted((folder / "artifacts").glob("*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["digest"] for path in manifests}


def _figures(folder: Path) -> dict[str, Any]:
    stages = json.loads((folder / "report.json").read_text(encoding="utf-8"))["stages"]
    return {
        stage: {name: metric for name, metric in stages[stage].items() if name.startswith(wanted)}
        for stage, wanted in FIGURES.items()
    }


if __name__ == "__main__":
    main()
