"""Running lm-evaluation-harness on local tasks: offline, quiet, and with its tasks loaded once for many models.

The harness's `evaluate` is called below its `simple_evaluate`, which would only add what we record ourselves (and asks
git, pip and the driver for it). Its own bootstrap is off; intervals come from `statistics`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.benchmarks.tasks import benchmark_of
from pocketlm.evaluation.items import Item, item_of
from pocketlm.evaluation.task_data import TaskData, uses_chat, write_task_folder

if TYPE_CHECKING:
    from lm_eval.api.model import LM


@dataclass(frozen=True)
class Evaluation:
    """What the harness found: task -> items in file order, and task -> its own aggregates (bits_per_byte, acc, ...)."""

    items: Mapping[str, list[Item]]
    aggregates: Mapping[str, dict[str, float]] = field(default_factory=dict)


FEW_SHOT_SEED = 1234
"""By which the harness draws few-shot examples unless told otherwise."""


class Suite:
    """Local tasks, loaded once. Use `open_suite`."""

    def __init__(self, tasks: Mapping[str, Any]) -> None:
        self._tasks = tasks

    def hashes(self, task: str) -> list[str]:
        """The harness's hash of each item of a task, in file order, as its logs have it (`doc_hash`)."""
        from lm_eval.utils import handle_non_serializable, hash_string

        def described(doc: Any) -> str:
            return json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)

        return [hash_string(described(doc)) for doc in self._tasks[task].eval_docs]

    def generation_options(self) -> dict[str, dict[str, Any]]:
        """Task -> how it wants its answers generated, of those that generate."""
        tasks = self._tasks.items()
        return {name: task.config.generation_kwargs for name, task in tasks if task.OUTPUT_TYPE == "generate_until"}

    def evaluate(
        self,
        model: LM,
        limit: int | None = None,
        chosen: Mapping[str, Sequence[int]] | None = None,
        chat: bool = False,
    ) -> Evaluation:
        """Score a model on every task.

        Args:
            model: the adapter (`PocketLM`) or any other model of the harness.
            limit: only the first items of each task.
            chosen: task -> positions of the items to score; tasks that are not named are left out.
            chat: ask benchmarks in the model's chat form, few-shot examples as turns.
        """
        from lm_eval.evaluator import evaluate

        items: dict[str, list[Item]] = {}
        aggregates: dict[str, dict[str, float]] = {}
        for asked in (False, True):
            names = [
                name
                for name in self._tasks
                if (uses_chat(name) or (chat and benchmark_of(name) is not None)) == asked
                and (chosen is None or chosen.get(name))
            ]
            if not names:
                continue
            places = None if chosen is None else {name: sorted(chosen[name]) for name in names}
            with _quiet_and_offline(), ExitStack() as examples:
                for name in names:
                    own = None if places is None else places[name]
                    examples.enter_context(_examples_by_place(self._tasks[name], own))
                results = evaluate(
                    model,
                    {"tasks": {name: self._tasks[name] for name in names}},
                    limit=limit,
                    samples=places,
                    bootstrap_iters=0,
                    log_samples=True,
                    apply_chat_template=asked,
                    fewshot_as_multiturn=asked,
                )
            for name in names:
                items[name] = _items(name, self._tasks[name], results["samples"][name])
                aggregates[name] = {
                    key.removesuffix(",none"): float(value)
                    for key, value in results["results"][name].items()
                    if key.endswith(",none") and isinstance(value, (int, float)) and "_stderr" not in key
                }
        return Evaluation(
            {name: items[name] for name in self._tasks if name in items},
            {name: aggregates[name] for name in self._tasks if name in aggregates},
        )


@contextmanager
def open_suite(data: TaskData) -> Iterator[Suite]:
    """The tasks of `data` as the harness knows them; the files live in a temporary folder, removed at the end."""
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}.items():
        os.environ.setdefault(name, value)
    from lm_eval.tasks import TaskManager

    with TemporaryDirectory(prefix="pocketlm-tasks-") as name:
        folder = write_task_folder(Path(name), data, cache=Path(name) / "cache")
        with _quiet_and_offline():
            manager = TaskManager(include_path=str(folder), include_defaults=False)
            tasks = manager.load(list(data.rows))["tasks"]
            for task in tasks.values():
                # As the harness's own entry does it: no examples where a task does not say how many.
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
            yield Suite(tasks)


@contextmanager
def _examples_by_place(task: Any, places: Sequence[int] | None) -> Iterator[None]:
    """Few-shot examples as the harness draws them for the whole task, whatever was asked before and what is now.

    It draws from one stream, document by document; so for chosen documents the draws of the others are passed over.
    """
    sampler = task.sampler
    task.set_fewshot_seed(seed=FEW_SHOT_SEED)
    if places is not None:
        task.sampler = _PassingOver(sampler, places)
    try:
        yield
    finally:
        task.sampler = sampler


class _PassingOver:
    """A sampler that gives the draws of some places of a task."""

    def __init__(self, sampler: Any, places: Sequence[int]) -> None:
        self._sampler, self._places, self._next = sampler, iter(places), 0

    def sample(self, n: int, eval_doc: Any = None) -> Any:
        place = next(self._places)
        while self._next < place:
            self._sampler.sample(n=n, eval_doc=eval_doc)
            self._next += 1
        self._next += 1
        return self._sampler.sample(n=n, eval_doc=eval_doc)


def harness_version() -> str:
    """The installed version of lm-evaluation-harness."""
    from importlib.metadata import version

    return version("lm_eval")


def _items(name: str, task: Any, samples: Sequence[Mapping[str, Any]]) -> list[Item]:
    """One item a document, in file order; the harness logs a document once for each of its filters."""
    by_document: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_document.setdefault(sample["doc_id"], []).append(sample)
    return [item_of(name, task, logged) for _, logged in sorted(by_document.items())]


@contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """No progress bars, no chatter and no network attempt of the harness and its libraries; errors still show."""
    from unittest.mock import patch

    import datasets
    import lm_eval.api.task

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.utils.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.utils.disable_progress_bars()
    try:
        with (
            # The harness draws this bar whatever its settings are.
            patch.object(lm_eval.api.task, "tqdm", lambda iterable, **_: iterable),
            # The environment is read at import; whoever imported the library earlier may have left the hub on, and
            # loading a local file then reports to its download counter.
            patch.object(datasets.config, "HF_HUB_OFFLINE", True),
        ):
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.utils.enable_progress_bars()
