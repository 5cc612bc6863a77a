"""Behind `pocketlm eval MODEL --tasks A,B [--data DIR] [--limit N] --out FILE.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.evaluation.loading import ModelLocation, locate
from pocketlm.evaluation.task_data import ARITHMETIC, TaskData, family, find_files, read_task_data
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.storage import write_json_atomic


def evaluate(model: Path, names: Sequence[str], data: Path | None, limit: int | None, out: Path) -> list[str]:
    """Score a model on local tasks and write the scores to `out`; returns printable lines.

    The file holds, for each task, n, every score with its 95 % interval, and every item with its hash; besides the
    model's digest and the harness's version.

    Args:
        model: a run, an artifact or a Hugging Face folder.
        names: task names.
        data: folder with the tasks' files; by default the run that the model is part of.
        limit: only the first items of each task.

    Raises:
        InputError: no such model, unknown task, no data for a task, or `out` cannot be written.
    """
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: name a file in a folder that exists")
    location = locate(model)
    available = _available(location, data)
    if not names:
        raise InputError(f"--tasks is empty; tasks with data here: {', '.join(available.rows)}")
    chosen = available.select(names)

    from pocketlm.evaluation import figures
    from pocketlm.evaluation.adapter import PocketLM
    from pocketlm.evaluation.harness import harness_version, open_suite
    from pocketlm.evaluation.scores import summarise
    from pocketlm.pipeline.seeds import generator
    from pocketlm.training.device import prepare

    transformer, tokenizer = location.load(prepare(Runtime()))
    digest = location.digest
    with open_suite(chosen) as suite:
        items = suite.evaluate(PocketLM(transformer, tokenizer, digest), limit).items
    # A mean over levels is given only when no level is missing from it.
    whole = all(task in chosen.rows for task in available.rows if family(task) == ARITHMETIC)
    scores = summarise(items, generator(0, "intervals"), whole)
    tasks = {
        task: {
            "scores": {metric: figures.as_figure(metric, estimate) for metric, estimate in values.items()},
            **({"n": len(items[task]), "items": items[task]} if task in items else {}),
        }
        for task, values in scores.items()
    }
    write_json_atomic(out, {"model": digest, "lm_eval": harness_version(), "limit": limit, "tasks": tasks})
    return [
        f"{task}  {metric}  {figures.shown(metric, estimate)}  n={estimate.n}"
        for task, values in scores.items()
        for metric, estimate in values.items()
    ]


def _available(location: ModelLocation, data: Path | None) -> TaskData:
    if data is None and location.run is None:
        raise InputError(f"{location.folder} is not part of a run: say where the tasks' files are with --data DIR")
    return read_task_data(find_files(data or location.run or location.folder))
