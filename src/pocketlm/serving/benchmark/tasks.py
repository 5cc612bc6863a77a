"""The built-in task set, version 1: made from templates, the same each time."""

from __future__ import annotations

from collections.abc import Sequence

from pocketlm.pipeline.storage import sha256_text
from pocketlm.serving.benchmark.calls import call_tasks
from pocketlm.serving.benchmark.extraction import extraction_tasks
from pocketlm.serving.benchmark.task import Task

VERSION = 1
"""Of the task set. Raised when any task changes: figures of two versions cannot be compared."""


def task_set(limit: int | None = None) -> list[Task]:
    """All tasks in the order of their hashes, so that the first ones are a fair sample; at most `limit` of them.

    Where two draws of a template made the same task, one stays.
    """
    made = {task.hash: task for task in [*extraction_tasks(), *call_tasks()]}
    return [made[key] for key in sorted(made)][:limit]


def digest_of(tasks: Sequence[Task]) -> str:
    """sha256 over the hashes of the tasks, in any order: which tasks were asked."""
    return sha256_text("\n".join(sorted(task.hash for task in tasks)))
