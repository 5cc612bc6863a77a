"""Kept documents under the rules of their curation once more: gates by value and threshold, and evaluation items."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa

from pocketlm.data.contamination.contamination import Hits, Index, build_index, find_contamination
from pocketlm.data.contamination.evaluation_items import cloze_records, held_out_windows, problem_items
from pocketlm.data.curation.curation_files import benchmark_items, not_as_curated
from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.curation.held_out import cloze_items
from pocketlm.data.curation.prepare import scores_of
from pocketlm.data.documents import read_documents
from pocketlm.data.gates.gate_settings import thresholds_of
from pocketlm.data.gates.gates import GATES, judge, measure
from pocketlm.data.gates.language import identify
from pocketlm.data.text import Text, tokens_of
from pocketlm.pipeline.artifact import Artifact


@dataclass(frozen=True)
class GateValue:
    """A gate that a document was held to: its value, the threshold, on which side it must lie, whether it does."""

    gate: str
    source: str
    value: float
    threshold: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """A value that is not known fails, as in curation."""
        return self.value >= self.threshold if self.at_least else self.value <= self.threshold


def checkable(settings: CurationSettings, curated: Artifact) -> tuple[CurationSettings, list[str]]:
    """The settings by which what was curated can be checked here, and in words what is left out of them and why: the
    language gate and the benchmarks, where a file outside of the run is not what it was."""
    if outside := not_as_curated(settings, curated):
        left_out = [f"benchmarks were not looked for: {outside}"] if settings.contamination.benchmarks else []
        less = settings.contamination.model_copy(update={"benchmarks": {}})
        settings = settings.model_copy(update={"contamination": less})
    elif settings.language_model and find_spec("fasttext") is None:
        outside, left_out = "no fastText runtime is installed here", []
    else:
        return settings, []
    if settings.language_model is None:
        return settings, left_out
    name = "minimum_language_confidence"
    gates = settings.gates.model_copy(update={name: None})
    others = {
        source: {gate: value for gate, value in own.items() if gate != name}
        for source, own in settings.source_gates.items()
    }
    less_gates = {"gates": gates, "source_gates": others, "language_model": None}
    return settings.model_copy(update=less_gates), [*left_out, f"languages were not identified: {outside}"]


def gate_values(documents: pa.Table, settings: CurationSettings) -> list[list[GateValue]]:
    """Every gate that is on for each document (columns `text`, `source`, `score`), in the order of judging.

    Raises:
        InputError: the language model of the settings cannot be read.
    """
    texts, tokens, scores, names, source, confidence = _measured(documents, settings)
    thresholds = [thresholds_of(settings.gates, settings.source_gates, name) for name in names]
    measured = measure(texts, tokens, scores, confidence)
    found: list[list[GateValue]] = [[] for _ in range(len(texts))]
    for rule in GATES:
        limits = [rule.threshold(one) for one in thresholds]
        if all(limit is None for limit in limits):
            continue
        values = np.asarray(rule.value(measured), np.float64)
        for document, place in enumerate(source.tolist()):
            if (limit := limits[place]) is not None:
                value = GateValue(rule.name, rule.source, float(values[document]), float(limit), rule.at_least)
                found[document].append(value)
    return found


def failing(documents: pa.Table, settings: CurationSettings) -> list[str]:
    """One line for each kept document that a gate would reject, with gate, value and threshold."""
    texts, tokens, scores, names, source, confidence = _measured(documents, settings)
    thresholds = [thresholds_of(settings.gates, settings.source_gates, name) for name in names]
    verdicts = judge(measure(texts, tokens, scores, confidence), thresholds, source)
    return [
        f"{documents['id'][document].as_py()} is kept, but the gate {GATES[verdicts.gate[document]].name} would reject "
        f"it: {verdicts.value[document]:.6g}, limit {verdicts.threshold[document]:.6g}"
        for document in np.flatnonzero(verdicts.gate >= 0).tolist()
    ]


def _measured(documents: pa.Table, settings: CurationSettings):  # type: ignore[no-untyped-def]
    texts = documents["text"].combine_chunks()
    sources = documents["source"].combine_chunks().dictionary_encode()
    names, source = sources.dictionary.to_pylist(), np.asarray(sources.indices, np.int64)
    confidence = None
    if settings.language_model is not None:
        thresholds = [thresholds_of(settings.gates, settings.source_gates, name) for name in names]
        confidence = identify(texts, settings.language_model, thresholds, source)
    return texts, tokens_of(Text.from_arrow(texts)), scores_of(documents), names, source, confidence


def stored_items(curated: Path, settings: CurationSettings, problems: Path | None) -> Index:
    """The items that a curated folder was searched for, from its held-out files, the problems, and the files of the
    benchmarks that the settings (`checkable`) name."""
    report, selection = (read_documents(curated / f"{name}.parquet") for name in ("heldout", "heldout_selection"))
    items = [*benchmark_items(settings), *cloze_records(cloze_items(report))]
    if problems is not None:
        items += problem_items(problems)
    for part in (report, selection):
        items += held_out_windows(part["id"].to_pylist(), part["text"].combine_chunks())
    return build_index(items)


def items_held(documents: pa.Table, index: Index, settings: CurationSettings) -> Hits:
    """The items that documents (column `text`) hold, by the limits of the settings."""
    text = Text.from_arrow(documents["text"].combine_chunks())
    limits = settings.contamination
    return find_contamination(text, tokens_of(text), index, limits.threshold, limits.template_threshold)
