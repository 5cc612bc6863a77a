"""From what a user names to a record: a result file, a run or its evaluation, a published baseline, an lm_eval result.

scores.json          a result file of `pocketlm eval`, or `results_TIME.json` of the stock command
runs/quickstart      a run: its final model; `runs/quickstart:sft` another model that it evaluated. Of several
                     evaluations the one that scored it; where several did, name the folder of one
smollm2-135m         a published baseline
base=scores.json     any of these under another name
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.evaluation.comparison.published import published_names, published_record
from pocketlm.evaluation.comparison.records import Record
from pocketlm.evaluation.comparison.result_files import (
    evaluation_records,
    is_result_file,
    model_record,
    read_json,
    result_file_record,
)
from pocketlm.evaluation.comparison.stock_results import find_stock_result, is_stock_result, stock_record
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.storage import MANIFEST, read_manifest
from pocketlm.pipeline.validation import suggest

RECIPE = "recipe.yaml"
ARTIFACTS = "artifacts"


def open_records(sources: Sequence[str]) -> list[Record]:
    """The records that users name, in their order.

    Raises:
        InputError: one of them is nothing that can be compared; says what it is and what is near.
        CorruptionError: an evaluation's files are not those of its manifest.
    """
    return [open_record(source) for source in sources]


def open_record(source: str) -> Record:
    """The record of one argument, see the module.

    Raises:
        InputError, CorruptionError: as `open_records`.
    """
    name, equals, rest = source.partition("=")
    if equals and not Path(source).exists():
        if not name or not rest:
            raise InputError(f"{source!r} names nothing; write NAME=RESULT")
        return replace(open_record(rest), name=name)
    path = Path(source)
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path, None)
    before, colon, model = source.rpartition(":")
    if colon and Path(before).is_dir():
        return _folder(Path(before), model)
    known = {each.casefold(): each for each in published_names()}
    if source.casefold() in known:
        return published_record(known[source.casefold()])
    raise InputError(
        f"there is no file, run or published model {source!r}{suggest(source.casefold(), known)}; published: "
        f"{', '.join(known)}"
    )


def _file(path: Path) -> Record:
    document = read_json(path)
    if is_result_file(document):
        return result_file_record(document, path)
    if is_stock_result(document):
        return stock_record(document, path)
    raise InputError(f"{path} is no result: neither of `pocketlm eval --out FILE.json` nor of lm_eval")


def _folder(path: Path, model: str | None) -> Record:
    if (path / MANIFEST).is_file():
        return _evaluated(path, model, None, str(path))
    if (path / RECIPE).is_file():
        final = _final_model(path)
        evaluations = _evaluations(path)
        asked = [folder for folder in evaluations if (model or final) in _scored(folder)]
        chosen = asked if len(evaluations) > 1 and asked else evaluations
        if len(chosen) != 1:
            listed = f"; name one of {', '.join(map(str, chosen))}" if chosen else "; run it to its end"
            of = f" of {model or final}" if asked else ""
            raise InputError(f"{path} holds {len(chosen)} evaluations{of}{listed}")
        record = _evaluated(chosen[0], model, final, str(path))
        return replace(record, name=f"{path.resolve().name}:{record.name}")
    result = find_stock_result(path) if model is None else None
    if result is None:
        raise InputError(
            f"{path} holds nothing to compare: no run ({RECIPE}), no evaluation ({MANIFEST}), no lm_eval result "
            "(results_*.json)"
        )
    return _file(result)


def final_records(run: Path) -> dict[str, Record]:
    """Evaluation -> record of a run's final model, in the order of the recipe; evaluations that did not score it are
    left out. Of a run that names no final model, its only evaluation, if that scored one model.

    Raises:
        InputError: there is none, or it is not clear of which model; CorruptionError as `open_records`.
    """
    evaluations, final = _evaluations(run), _final_model(run)
    chosen = [folder for folder in evaluations if final in _scored(folder)]
    if not chosen:
        record = open_record(str(run))
        return {evaluations[0].name: record}
    return {folder.name: _evaluated(folder, None, final, str(folder)) for folder in chosen}


def _evaluations(run: Path) -> list[Path]:
    """The evaluations of a run, in the order of its recipe."""
    order = list(load_yaml(run / RECIPE))
    found = [
        folder
        for folder in sorted((run / ARTIFACTS).glob("[!.]*"))
        if (folder / MANIFEST).is_file() and read_manifest(folder).get("kind") == "evaluation"
    ]
    return sorted(found, key=lambda folder: order.index(folder.name) if folder.name in order else len(order))


def _scored(evaluation: Path) -> list[str]:
    """The models that an evaluation scored."""
    return list(Artifact.open(evaluation, verify=False).read_json("results.json")["models"])


def _final_model(run: Path) -> str | None:
    final = load_yaml(run / RECIPE).get("model")
    return None if final is None else str(final)


def _evaluated(folder: Path, model: str | None, final: str | None, where: str) -> Record:
    return model_record(evaluation_records(folder), model, final, where)
