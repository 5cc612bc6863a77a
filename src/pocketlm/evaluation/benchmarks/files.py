"""Which files the benchmarks of an evaluation are read from: paths of the user's, or the hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pocketlm.data.contamination.benchmarks import HUB_FILES
from pocketlm.errors import InputError
from pocketlm.evaluation.benchmarks.settings import BenchmarkFiles
from pocketlm.evaluation.benchmarks.tasks import BENCHMARKS
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.outside import changed_outside

HUB = HUB_FILES
HUB_EXAMPLES: Mapping[str, str] = {"gsm8k": "hf://datasets/openai/gsm8k/main/train-*.parquet"}


def from_hub(names: Iterable[str]) -> dict[str, BenchmarkFiles]:
    """Every named benchmark where the hub has it."""
    return {name: BenchmarkFiles() for name in names}


def places(setting: str, benchmarks: Mapping[str, BenchmarkFiles]) -> dict[str, dict[str, str]]:
    """Benchmark -> its places by name of the setting; InputError for a benchmark that is not known."""
    found = {}
    for name, files in benchmarks.items():
        if name not in BENCHMARKS:
            known = ", ".join(BENCHMARKS)
            raise InputError(f"{setting}.{name}: not a benchmark that is known here; known are {known}")
        found[name] = {f"{setting}.{name}.path": files.path or HUB[name]}
        if BENCHMARKS[name].examples is not None:
            found[name][f"{setting}.{name}.examples"] = files.examples or HUB_EXAMPLES[name]
    return found


def identity(setting: str, benchmarks: Mapping[str, BenchmarkFiles]) -> str:
    """sha256 over the content of all files."""
    from pocketlm.problems.problem_files import files_identity

    return files_identity(
        {key: place for named in places(setting, benchmarks).values() for key, place in named.items()}
    )


def not_as_recorded(setting: str, benchmarks: Mapping[str, BenchmarkFiles], artifact: Artifact) -> str:
    """Why the benchmarks are not what an artifact was made from; empty when they are."""
    if not benchmarks:
        return ""
    named = ", ".join(place for one in places(setting, benchmarks).values() for place in one.values())
    return changed_outside(artifact, f"outside files of {setting} ({named})", lambda: identity(setting, benchmarks))


def local_files(setting: str, benchmarks: Mapping[str, BenchmarkFiles]) -> dict[str, tuple[list[Path], list[Path]]]:
    """Benchmark -> (files that are scored, files of examples) on this machine, downloaded first if need be."""
    from pocketlm.problems.problem_files import paths

    found = {}
    for name, named in places(setting, benchmarks).items():
        scored, *examples = (paths(key, place) for key, place in named.items())
        found[name] = (scored, examples[0] if examples else [])
    return found
