"""Tests run single-threaded and offline, whatever the machine."""

import os
import sys
from collections.abc import Iterator

import pytest

for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# Threads that wait for one another sleep: two test processes with two spinning threads each starve themselves.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test that runs a whole recipe takes all cores for its process; the next one starts with one thread again."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
