"""Equal digests however the work is divided: threads, partitions, a Ray cluster, and one that loses a worker.

    python -m bench.determinism CORPUS_FOLDER WORK_FOLDER

Runs sources, curate, tokenizer and tokenize over the JSONL files of a folder once for each way, always from scratch,
and compares the digest of every artifact. The cluster is local: a head without processors and two workers; in the last
way one of them is killed when half of the units of `curate` are prepared. Needs the extra `cluster`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.common import write_result

RECIPE = """
name: determinism
seed: 1
sources:
  texts: {{path: "{folder}", licence: CC-BY-4.0}}
curate:
  inputs: {{documents: sources}}
tokenizer:
  inputs: {{documents: curate}}
  vocabulary: 8192
tokenize:
  inputs: {{documents: curate, tokenizer: tokenizer}}
"""


def run(recipe: Path, folder: Path, runtime: dict[str, Any]) -> dict[str, str]:
    """Digests of all stages of a run from scratch."""
    shutil.rmtree(folder, ignore_errors=True)
    options = [option for name, value in runtime.items() for option in ("--set", f"runtime.{name}={value}")]
    command = [sys.executable, "-m", "pocketlm", "run", str(recipe), "--out", str(folder), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "stage_committed"]
    return {event["body"]["stage"]: event["body"]["digest"] for event in events}


def kill_half_way(cluster: Any, folder: Path, units: int) -> threading.Thread:
    """Kill a worker of the cluster when half of the units are prepared."""

    def watch() -> None:
        while len(list(folder.glob("work/curate*/prepared/0*"))) < units // 2:
            time.sleep(0.02)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    recipe = arguments.work / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=arguments.corpus.absolute()), encoding="utf-8")
    ways: dict[str, dict[str, Any]] = {
        "1 thread": {"threads": 1},
        "2 threads": {"threads": 2},
        **{f"{number} partitions": {"threads": 2, "partitions": number} for number in (1, 7, 64)},
    }
    digests = {}
    for name, runtime in ways.items():
        digests[name] = run(recipe, arguments.work / "run", runtime)
        print(name, digests[name])

    import pyarrow.parquet as pq
    from ray.cluster_utils import Cluster

    units = pq.ParquetFile(arguments.work / "run" / "artifacts" / "sources" / "documents.parquet").num_row_groups
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    runtime = {"engine": "ray", "address": cluster.address}
    digests["Ray, two workers"] = run(recipe, arguments.work / "ray", runtime)
    shutil.rmtree(arguments.work / "killed", ignore_errors=True)
    watcher = kill_half_way(cluster, arguments.work / "killed", units)
    digests["Ray, one of two workers killed half-way"] = run(recipe, arguments.work / "killed", runtime)
    watcher.join(1)
    killed = not watcher.is_alive()
    cluster.shutdown()
    reference = digests["1 thread"]
    result = {
        "units": units,
        "worker_was_killed": killed,
        "digests": reference,
        "equal": {name: found == reference for name, found in digests.items()},
    }
    print(json.dumps(result, indent=2))
    print(write_result("determinism", result, ("numba", "pyarrow", "ray")))


if __name__ == "__main__":
    main()
