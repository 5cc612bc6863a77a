"""The files that the settings of curation name: their content is part of a run's identity, their place is not."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from pocketlm.data.contamination.benchmarks import HUB_FILES, Columns, load_benchmark
from pocketlm.data.contamination.contamination import Item
from pocketlm.data.contamination.contamination_settings import BenchmarkSettings
from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.gates.language import model_identity
from pocketlm.data.sources.data_files import DataFile, local_files, local_sha256
from pocketlm.data.sources.hub import hub_files
from pocketlm.data.sources.source_settings import HUB_SCHEME, SourceSettings
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.outside import changed_outside


def files_identity(settings: CurationSettings) -> str:
    """sha256 over the content of the language model and of every benchmark file."""
    parts = [model_identity(settings.language_model) if settings.language_model else ""]
    for name, benchmark in settings.contamination.benchmarks.items():
        parts += [name, *(file.content_hash() for file in _files(name, benchmark))]
    return sha256("\0".join(parts).encode()).hexdigest()


def not_as_curated(settings: CurationSettings, curated: Artifact) -> str:
    """Why the files that the settings name are not those that an artifact was curated with; empty when they are.

    One hash covers them all, so that a change of one leaves none as evidence.
    """
    benchmarks = settings.contamination.benchmarks.items()
    named = [one.path or HUB_FILES.get(name, name) for name, one in benchmarks]
    named += [settings.language_model] if settings.language_model else []
    if not named:
        return ""
    what = f"outside file {named[0]}" if len(named) == 1 else f"outside files {', '.join(named)}"
    return changed_outside(curated, what, lambda: files_identity(settings))


def benchmark_items(settings: CurationSettings) -> list[Item]:
    """The items of every benchmark that the settings name; files on the hub are downloaded first."""
    items: list[Item] = []
    for name, benchmark in settings.contamination.benchmarks.items():
        columns = Columns(benchmark.question, benchmark.choices, benchmark.answer) if benchmark.question else None
        items += load_benchmark(name, [file.local(lambda: None) for file in _files(name, benchmark)], columns)
    return items


def _files(name: str, benchmark: BenchmarkSettings) -> list[DataFile]:
    path = benchmark.path or HUB_FILES.get(name)
    if path is None:
        known = ", ".join(HUB_FILES)
        raise InputError(
            f"curate.contamination.benchmarks.{name}: no path, and not one of {known}. Give the path of its file."
        )
    file = Path(path)
    if file.is_file():  # load_benchmark knows formats that sources of text do not
        return [DataFile(file.name, file.name, lambda: local_sha256(file), lambda tick: file)]
    located = hub_files if path.startswith(HUB_SCHEME) else local_files
    try:
        return located(name, SourceSettings(path=path)).files
    except InputError as error:
        raise InputError(str(error).replace(f"sources.{name}", f"curate.contamination.benchmarks.{name}")) from error
