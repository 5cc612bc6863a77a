"""The questions of one evaluation, opened once and put to every model: tasks of the harness and behaviour checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pocketlm.errors import InputError
from pocketlm.evaluation.adapter import PocketLM
from pocketlm.evaluation.behaviour.run import rows_of_task, score_behaviour
from pocketlm.evaluation.benchmarks.tasks import benchmark_of, content_hash, lettered
from pocketlm.evaluation.clean import Flags, mark
from pocketlm.evaluation.harness import Suite, open_suite
from pocketlm.evaluation.items import Item
from pocketlm.evaluation.letters import lettered_tasks
from pocketlm.evaluation.task_data import TaskData
from pocketlm.pipeline.storage import canonical_json, sha256_text
from pocketlm.statistics.splits import split_of

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

Split = Literal["all", "selection", "report"]
SPLITS: tuple[Split, ...] = ("all", "selection", "report")


@dataclass(frozen=True)
class Asked:
    """What is asked, and how.

    Attributes:
        data: tasks of the harness, and lettered ones. behaviour: names of behaviour checks.
        split: which items of the benchmarks, by the hash of their question. chat: ask them in the model's chat form.
        limit: only the first items of each task (of those of the split).
    """

    data: TaskData
    behaviour: Sequence[str] = ()
    split: Split = "all"
    chat: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Answers:
    """What a model answered.

    Attributes:
        items: task -> items, in the order of the questions.
        shortened: task -> requests whose text was longer than the model's context, so that its left end was cut.
    """

    items: dict[str, list[Item]]
    shortened: dict[str, int]


class Questions:
    """Use `open_questions`.

    Attributes:
        counts: how many items of each task a model is asked.
    """

    def __init__(self, asked: Asked, suite: Suite | None) -> None:
        self._asked, self._suite = asked, suite
        self._lettered = {} if suite is None else lettered_tasks(asked.data.rows, suite)
        self._chosen = {task: self._positions(task) for task in asked.data.rows}
        self.counts = {task: len(places) for task, places in self._chosen.items()}
        self.counts |= {name: len(rows_of_task(name)[: asked.limit]) for name in asked.behaviour}

    def hashes(self, task: str) -> list[str]:
        """Of the items of a task that a model is asked, in order, as the harness's logs have them."""
        if task not in self._chosen:
            return [sha256_text(canonical_json(row)) for row in rows_of_task(task)[: self._asked.limit]]
        if self._suite is None:
            raise ValueError(f"{task} is no task of the harness")
        hashes = self._suite.hashes(lettered(task) or task)
        return [hashes[at] for at in self._chosen[task]]

    def ask(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        name: str,
        flags: Flags,
        progress: Callable[[float], None] | None = None,
        sample: Mapping[str, Sequence[int]] | None = None,
    ) -> Answers:
        """Put the questions to a model.

        Args:
            name: identifies model and tokenizer in the harness's records.
            flags: which items its training text held, as far as that is known.
            progress: called with the number of items (or the part of one) that were finished.
            sample: task -> which of its questions; all of them unless given.
        """
        places = self._chosen
        if sample is not None:
            places = {task: [own[at] for at in sample.get(task, ())] for task, own in self._chosen.items()}
        items: dict[str, list[Item]] = {}
        shortened: dict[str, int] = {}
        if self._suite is not None:
            adapter = PocketLM(model, tokenizer, name, progress=progress)
            for task, options in self._suite.generation_options().items():
                if places.get(task):
                    adapter.require_possible(task, options)  # before an hour of other tasks
            found = dict(self._suite.evaluate(adapter, chosen=places, chat=self._asked.chat).items)
            shortened = dict(adapter.truncated)
            for task, one in self._lettered.items():
                if own := places.get(task):
                    adapter = PocketLM(model, tokenizer, name, progress=_by_item(progress, len(own) / one.prompts(own)))
                    found[task] = one.ask(adapter, own, self._asked.chat)
                    shortened |= adapter.truncated
            items = {task: found[task] for task in self._asked.data.rows if task in found}
        if self._asked.behaviour:
            names, limit = self._asked.behaviour, self._asked.limit
            items |= score_behaviour(model, tokenizer, names, limit, progress, sample)
        return Answers(
            {task: self._marked(task, rows, places.get(task, ()), flags) for task, rows in items.items()},
            {task: count for task, count in shortened.items() if count},
        )

    def _marked(self, task: str, items: list[Item], places: Sequence[int], flags: Flags) -> list[Item]:
        rows = self._asked.data.rows.get(task)
        return items if rows is None else mark(items, flags.of(task, [rows[at] for at in places]))

    def _positions(self, task: str) -> list[int]:
        rows = self._asked.data.rows[task]
        places: Sequence[int] = range(len(rows))
        if self._asked.split != "all" and benchmark_of(task) is not None:
            places = [at for at in places if split_of(content_hash(task, rows[at])) == self._asked.split]
        if not places:
            raise InputError(f"task {task} has no item in the split {self._asked.split!r}; leave it out, or ask all")
        return list(places)[: self._asked.limit]


@contextmanager
def open_questions(asked: Asked) -> Iterator[Questions]:
    """The questions, ready to be put to models."""
    if not asked.data.rows:
        yield Questions(asked, None)
        return
    with open_suite(asked.data.of_harness()) as suite:
        yield Questions(asked, suite)


def _by_item(progress: Callable[[float], None] | None, share: float) -> Callable[[float], None] | None:
    """Progress that is told of prompts and tells of items, each the `share` of an item."""
    return None if progress is None else lambda prompts: progress(prompts * share)
