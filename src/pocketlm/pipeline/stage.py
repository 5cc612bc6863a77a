"""What a stage is: a plain function `(settings, inputs, context) -> Artifact` with declared inputs and output.

    @stage(version=1, inputs={"documents": "documents", "models": many("model")}, output="tokenizer")
    def tokenizer(settings: TokenizerSettings, inputs: Inputs, context: Context) -> Artifact: ...

Bump `version` when the same settings and inputs would make other bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, get_type_hints

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.settings import Settings


@dataclass(frozen=True)
class InputSpecification:
    """One declared input: which artifact kind, whether a list of stages is expected, whether it may be absent."""

    kind: str
    many: bool = False
    optional: bool = False

    def accepts(self, kind: str) -> bool:
        return self.kind in ("*", kind)


def optional(kind: str) -> InputSpecification:
    """An input that a recipe may leave out; `inputs.get(name)` is then None."""
    return InputSpecification(kind, optional=True)


def many(kind: str, *, optional: bool = False) -> InputSpecification:
    """A list of stages; `inputs.many(name)` is a dictionary stage name -> Artifact, empty when an optional list was
    left out. Kind `*` takes any."""
    return InputSpecification(kind, many=True, optional=optional)


class Inputs:
    """The artifacts that a stage was handed, by input name."""

    def __init__(self, artifacts: Mapping[str, Artifact | dict[str, Artifact]]) -> None:
        self._artifacts = artifacts

    def __getitem__(self, name: str) -> Artifact:
        artifact = self._artifacts[name]
        if not isinstance(artifact, Artifact):
            raise TypeError(f"input {name} is a list of artifacts: use inputs.many({name!r})")
        return artifact

    def get(self, name: str) -> Artifact | None:
        """An optional input, or None."""
        return self[name] if name in self._artifacts else None

    def names(self) -> list[str]:
        """The inputs that are given."""
        return list(self._artifacts)

    def all(self) -> list[Artifact]:
        """Every artifact, of lists too, in the order of the inputs."""
        groups = (item if isinstance(item, dict) else {"": item} for item in self._artifacts.values())
        return [artifact for group in groups for artifact in group.values()]

    def many(self, name: str) -> dict[str, Artifact]:
        """A list input: stage name -> artifact, in recipe order."""
        artifacts = self._artifacts.get(name, {})
        if isinstance(artifacts, Artifact):
            raise TypeError(f"input {name} is one artifact: use inputs[{name!r}]")
        return dict(artifacts)


@dataclass(frozen=True)
class Rederived:
    """What came of checking an artifact against the evidence that it and its inputs hold.

    Attributes:
        differences: one line for each; none when all holds.
        figures: names of those of its metrics that were computed again from stored evidence, equal or not.
        sampled: words on work that was done again by sample; empty when none was.
        resting: why other metrics rest on hashes alone: name, or beginning of a name with `*` -> the reason.
        blocks: places, among the blocks that it states, of those that were made again, equal or not.
        resting_blocks: why other blocks rest on hashes alone: `table Title`, `paragraph Its first words*`, ... -> the
            reason. A paragraph that is neither here nor made again is a difference, for it claims something.
    """

    differences: Sequence[str]
    figures: Collection[str] = ()
    sampled: str = ""
    resting: Mapping[str, str] = field(default_factory=dict)
    blocks: Collection[int] = ()
    resting_blocks: Mapping[str, str] = field(default_factory=dict)


StageFunction = Callable[[Any, Inputs, Any], Artifact]
Recheck = Callable[[Any, Artifact, Inputs, Any], Rederived]
Missing = Callable[[Any, Collection[str]], str]


@dataclass(frozen=True)
class StageDefinition:
    """A registered stage.

    Attributes:
        external: the identity of what it reads from outside the run.
        recheck: (settings, artifact, inputs, context) -> what of its figures and files stored evidence gives again.
        missing: (settings, names of the given inputs) -> which of them do not go together, or empty. Asked when a
            recipe is read, so that no run ends hours later for what could be known, and before the function.
    """

    name: str
    version: int
    settings: type[Settings]
    inputs: Mapping[str, InputSpecification]
    output: str
    function: StageFunction
    external: Callable[[Any], str] | None = None
    recheck: Recheck | None = None
    missing: Missing | None = None

    @property
    def summary(self) -> str:
        """The first line of the stage's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


def stage(
    *,
    version: int,
    inputs: Mapping[str, str | InputSpecification],
    output: str,
    external: Callable[[Any], str] | None = None,
    recheck: Recheck | None = None,
    missing: Missing | None = None,
) -> Callable[[StageFunction], StageDefinition]:
    """Decorator that turns a stage function into a `StageDefinition`; the settings class is its annotation."""
    specifications = {
        name: item if isinstance(item, InputSpecification) else InputSpecification(item)
        for name, item in inputs.items()
    }

    def define(function: StageFunction) -> StageDefinition:
        settings, name = get_type_hints(function)["settings"], function.__name__
        checked = function if missing is None else _asking_first(missing, function)
        return StageDefinition(name, version, settings, specifications, output, checked, external, recheck, missing)

    return define


def _asking_first(missing: Missing, function: StageFunction) -> StageFunction:
    @wraps(function)
    def checked(settings: Any, inputs: Inputs, context: Any) -> Artifact:
        if fault := missing(settings, inputs.names()):
            raise InputError(f"{function.__name__}: {fault}")
        return function(settings, inputs, context)

    return checked
