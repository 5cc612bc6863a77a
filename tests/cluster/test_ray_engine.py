"""Curation on a Ray cluster: two workers, one of them killed half-way, and the result is that of one machine.

Run by `make test-cluster` (needs the extra `cluster`). The cluster is local: a head without processors and two workers,
each a process tree of its own, which is what Ray's own fault tests use.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from pocketlm.data import documents as documents_module
from pocketlm.data.engine import open_engine
from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Runtime
from tests.unit.test_curation_units import corpus, run, write_documents

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def slow_square(task: tuple[int, str]) -> tuple[int, int]:
    """Leaves a trace of where it ran; slow, so that a worker can be killed in the middle."""
    value, folder = task
    (Path(folder) / f"{value}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.2)
    return value * value, os.getpid()


def test_one_of_two_workers_is_killed_half_way(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    victim = next(iter(cluster.worker_nodes))

    def kill() -> None:
        while len(list(folder.iterdir())) < 10:
            time.sleep(0.05)
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    tasks = [(value, str(folder)) for value in range(30)]
    with open_engine(Runtime(engine="ray", address=cluster.address)) as engine:
        results = list(engine.map(slow_square, tasks))
    killer.join()
    assert [square for square, _ in results] == [value * value for value in range(30)]
    assert len({process for _, process in results}) >= 2
    assert len(list(folder.iterdir())) > 30  # what the killed worker had begun was begun again elsewhere


def test_curation_has_the_same_digest_and_outlives_a_worker(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "ROW_GROUP_BYTES", 6_000)
    documents = write_documents(tmp_path / "sources", corpus())
    embedded = run(tmp_path / "embedded", documents, threads=1)
    prepared = tmp_path / "cluster" / "work" / "prepared"
    victim = next(iter(cluster.worker_nodes))
    killed = threading.Event()

    def kill() -> None:
        while len(list(prepared.glob("0*"))) < 4:
            time.sleep(0.01)
        cluster.remove_node(victim, allow_graceful=False)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    address: dict[str, Any] = {"engine": "ray", "address": cluster.address}
    distributed = run(tmp_path / "cluster", documents, **address)
    assert killed.wait(60)
    assert distributed.digest == embedded.digest
    assert run(tmp_path / "again", documents, partitions=3, **address).digest == embedded.digest


def test_a_wrong_address_is_named() -> None:
    with (
        pytest.raises(InputError, match=r"runtime.address = 127.0.0.1:1: no Ray cluster answers there"),
        open_engine(Runtime(engine="ray", address="127.0.0.1:1")),
    ):
        pass
