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
import threading
import time
from pathlib import Path
from typing import Any

from bench.common import write_result
from bench.data_stages import run_data_stages

TOKENIZER_BYTES = 100_000_000


def digests_of(texts: Path, folder: Path, runtime: dict[str, Any]) -> dict[str, str]:
    """Digests of all stages of a run from scratch."""
    stages = run_data_stages(texts, folder, TOKENIZER_BYTES, runtime)
    return {name: body["digest"] for name, body in stages.items()}


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
    ways: dict[str, dict[str, Any]] = {
        "1 thread": {"threads": 1},
        "2 threads": {"threads": 2},
        **{f"{number} partitions": {"threads": 2, "partitions": number} for number in (1, 7, 64)},
    }
    digests = {}
    for name, runtime in ways.items():
        digests[name] = digests_of(arguments.corpus, arguments.work / "run", runtime)
        print(name, digests[name])

    import pyarrow.parquet as pq
    from ray.cluster_utils import Cluster

    units = pq.ParquetFile(arguments.work / "run" / "artifacts" / "sources" / "documents.parquet").num_row_groups
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    runtime = {"engine": "ray", "address": cluster.address}
    digests["Ray, two workers"] = digests_of(arguments.corpus, arguments.work / "ray", runtime)
    shutil.rmtree(arguments.work / "killed", ignore_errors=True)
    watcher = kill_half_way(cluster, arguments.work / "killed", units)
    digests["Ray, one of two workers killed half-way"] = digests_of(
        arguments.corpus, arguments.work / "killed", runtime
    )
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
