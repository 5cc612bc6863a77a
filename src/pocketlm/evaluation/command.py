"""Behind `pocketlm eval MODEL --tasks A,B [--data DIR] --out FILE.json`: the result file that `compare` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.errors import InputError
from pocketlm.evaluation.behaviour.tasks import TASKS as BEHAVIOUR
from pocketlm.evaluation.benchmarks.files import from_hub, local_files
from pocketlm.evaluation.benchmarks.tasks import BENCHMARKS, SIX, benchmark_of, find_benchmarks
from pocketlm.evaluation.models.loading import ModelLocation, locate
from pocketlm.evaluation.task_data import (
    ARITHMETIC,
    FILES,
    TaskData,
    family,
    find_files,
    read_benchmarks,
    read_task_data,
)
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.storage import canonical_json, sha256_text, write_json_atomic

if TYPE_CHECKING:
    from pocketlm.evaluation.asking import Answers, Asked, Split

HUB = "hub"
FORMAT = 1
"""Of the result file; raised when its readers must change."""


@dataclass(frozen=True)
class Order:
    """What the command was asked for.

    Attributes:
        model: a run, an artifact, a Hugging Face folder or a GGUF file.
        tokenizer: tokenizer.json of a GGUF file that does not carry one that can be read.
        tasks: names of tasks, groups of them, and behaviour checks.
        data: folder with the tasks' files, or `hub`; by default the run that the model is part of.
        limit: only the first items of each task.
        split: which items of the benchmarks, by hash.
        chat: ask benchmarks in the model's chat form.
    """

    model: Path
    tasks: Sequence[str]
    data: str | None = None
    tokenizer: Path | None = None
    limit: int | None = None
    split: Split = "all"
    chat: bool = False


def evaluate(order: Order, out: Path) -> list[str]:
    """Score a model and write the result file `out`; returns printable lines.

    The file holds model, harness and settings, and for each task n, a hash of its data, every score with its 95 %
    interval, and every item with its hash. The same order gives the same bytes.

    Raises:
        InputError: no such model, unknown task, no data for a task, or `out` cannot be written.
    """
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: name a file in a folder that exists")
    location = locate(order.model, order.tokenizer)
    available = _available(order, location)
    asked = _asked(order, location, available)

    from pocketlm.evaluation.asking import open_questions
    from pocketlm.evaluation.clean import Flags, flags_of
    from pocketlm.evaluation.harness import harness_version
    from pocketlm.evaluation.scores import summarise
    from pocketlm.pipeline.seeds import generator
    from pocketlm.training.device import prepare

    model, tokenizer = location.load(prepare(Runtime()))
    digest = location.digest
    flags = Flags() if location.artifact is None else flags_of(location.artifact)
    progress = Progress()
    progress.start("eval", 1, 1)
    with open_questions(asked) as questions:
        total, done = sum(questions.counts.values()), 0.0

        def advance(count: float) -> None:
            nonlocal done
            done += count
            progress.update(done, total, "item", {})

        answers = questions.ask(model, tokenizer, digest, flags, advance)
    # A mean over levels is given only when no level is missing from it.
    whole = all(task in asked.data.rows for task in available.rows if family(task) == ARITHMETIC)
    scores = summarise(answers.items, generator(0, "intervals"), whole)
    settings = {"limit": order.limit, "chat": order.chat, "split": order.split}
    content = {
        "format": FORMAT,
        "name": _name(location),
        "model": digest,
        "lm_eval": harness_version(),
        "settings": settings,
        "tasks": _tasks(asked, answers, scores),
    }
    write_json_atomic(out, content)
    return _lines(scores, answers)


def _asked(order: Order, location: ModelLocation, available: TaskData) -> Asked:
    from pocketlm.evaluation.asking import Asked

    if not order.tasks:
        raise InputError(f"--tasks is empty; tasks with data here: {', '.join([*available.rows, *available.more])}")
    behaviour = [name for task in order.tasks for name in (BEHAVIOUR if task == "behaviour" else [task])]
    behaviour = [name for name in behaviour if name.startswith("behaviour_")]
    others = [name for name in order.tasks if name != "behaviour" and not name.startswith("behaviour_")]
    return Asked(
        available.select(others),
        tuple(dict.fromkeys(behaviour)),
        order.split,
        order.chat,
        order.limit,
    )


def _available(order: Order, location: ModelLocation) -> TaskData:
    """Every task that there is data for; of benchmarks only those that are asked for are read."""
    wanted = {name for task in order.tasks for name in (SIX if task == "six" else [task])}
    named = [name for name in BENCHMARKS if any(benchmark_of(task) == name for task in wanted)]
    if order.data == HUB:
        if not named:
            raise InputError(f"--data hub has none of --tasks {','.join(order.tasks)}; it has {', '.join(BENCHMARKS)}")
        return read_benchmarks(TaskData({}, more=tuple(BENCHMARKS)), local_files("--data hub", from_hub(named)))
    if order.data is None and location.run is None:
        if all(task == "behaviour" or task.startswith("behaviour_") for task in order.tasks):
            return TaskData({})
        raise InputError(
            f"{location.folder} is not part of a run: say where the tasks' files are with --data DIR (or --data hub)"
        )
    folder = Path(order.data) if order.data is not None else location.run or location.folder
    files, benchmarks = find_files(folder), find_benchmarks(folder)
    if not files and not benchmarks:
        expected = ", ".join([*FILES.values(), *(f"{name}/{item.split}.jsonl" for name, item in BENCHMARKS.items())])
        raise InputError(f"{folder} holds no task data; expected one or more of {expected}")
    asked = benchmarks if "all" in wanted else {name: benchmarks[name] for name in named if name in benchmarks}
    data = replace(read_task_data(files), more=(*benchmarks, *BEHAVIOUR))
    return read_benchmarks(data, asked)


def _tasks(asked: Asked, answers: Answers, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    from pocketlm.evaluation import figures
    from pocketlm.evaluation.scores import rate_name

    tasks: dict[str, Any] = {}
    examples = asked.data.example_hashes()
    for task, values in scores.items():
        entry: dict[str, Any] = {
            "primary": next(iter(values)) if rate_name(task) not in values else rate_name(task),
            "scores": {metric: figures.as_figure(metric, estimate) for metric, estimate in values.items()},
        }
        if task in answers.items:
            entry |= {"n": len(answers.items[task]), "shortened": answers.shortened.get(task, 0)}
            rows = asked.data.rows.get(task)
            if rows is not None:
                entry["data_sha256"] = sha256_text(canonical_json(list(rows)))
            if task in examples:
                entry["examples_sha256"] = examples[task]
            entry["items"] = answers.items[task]
        tasks[task] = entry
    return tasks


def _lines(scores: Mapping[str, Mapping[str, Any]], answers: Answers) -> list[str]:
    from pocketlm.evaluation import figures
    from pocketlm.evaluation.scores import missing_of_groups

    lines = [
        f"{task}  {metric}  {figures.shown(metric, estimate)}  n={estimate.n}"
        for task, values in scores.items()
        for metric, estimate in values.items()
    ]
    for group, absent in missing_of_groups(scores).items():
        lines.append(f"{group}: no mean, for {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing")
    for task, count in answers.shortened.items():
        if count:
            lines.append(f"{task}: {count} requests are longer than the model's context; they lost their left end")
    held = {task: sum(item.get("contaminated", False) for item in items) for task, items in answers.items.items()}
    return lines + [
        f"{task}: {count} items were found in the training text of this run; `contaminated` marks them"
        for task, count in held.items()
        if count
    ]


def _name(location: ModelLocation) -> str:
    if location.run is not None:
        return f"{location.run.resolve().name}:{location.folder.name}"
    return location.folder.resolve().stem if location.form == "gguf" else location.folder.resolve().name
