"""The scorer of reasoning-gym's own tasks, in the form of a user's reward: run by `RewardWorker`, never imported.

Some of the library's scorers parse an answer with tools that evaluate Python, so they only ever run in the worker,
where the kernel refuses processes, sockets and written files (`worker_limits`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def reward(prompt: str, completion: str, row: Mapping[str, Any]) -> float:
    """1 for a right answer, less for a wrong one, as the data set that made the problem has it."""
    factory = importlib.import_module("reasoning_gym.factory")
    return float(factory.get_score_answer_fn(row["dataset"])(completion.strip(), row["entry"]))
