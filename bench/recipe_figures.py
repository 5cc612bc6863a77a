"""The figures and tables of stages of a finished run, with what each stage took, as one result.

    python -m bench.recipe_figures RUN NAME STAGE ...      # writes bench/results/NAME.json

The run is verified by nothing here: `pocketlm verify RUN` does that. Seconds are those of the ledger, so a run that was
continued or shared its machine counts as it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.common import write_result
from pocketlm.pipeline.runner import committed_events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", help="of the file in bench/results")
    parser.add_argument("stages", nargs="+", metavar="STAGE")
    arguments = parser.parse_args()
    report = json.loads((arguments.run / "report.json").read_text(encoding="utf-8"))
    missing = [stage for stage in arguments.stages if stage not in report["stages"]]
    if missing:
        parser.error(f"{arguments.run} has no stage {', '.join(missing)}")
    committed = committed_events(arguments.run).values()
    payload = {
        "recipe": report["recipe"]["name"],
        "seal": report["seal"],
        "stage_seconds": {entry["stage"]: entry["seconds"] for entry in committed},
        "peak_memory_gb": round(max(entry["peak_memory_bytes"] for entry in committed) / 1e9, 2),
        "figures": {stage: report["stages"][stage] for stage in arguments.stages},
        "tables": {stage: tables(arguments.run / "artifacts" / stage) for stage in arguments.stages},
    }
    print(write_result(arguments.name, payload))


def tables(artifact: Path) -> dict[str, list[dict[str, Any]]]:
    """Title -> rows of the tables that a stage wrote for the report."""
    blocks = json.loads((artifact / "figures.json").read_text(encoding="utf-8"))["blocks"]
    return {block["title"]: block["rows"] for block in blocks if block["kind"] == "table"}


if __name__ == "__main__":
    main()
