"""Which figures of a run stored evidence gives again, and on what the others rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Rederived

REPORT = "report"
NO_RECHECK = "this stage derives nothing again"
SHOWN = 6
"""Names that are listed of a group before the rest is counted."""


@dataclass(frozen=True)
class Coverage:
    """A stage's figures: those that were computed again, and the others by the reason why not.

    `copies`: they are those of the other stages, collected.
    """

    stage: str
    derived: tuple[str, ...]
    resting: dict[str, tuple[str, ...]]
    sampled: str
    copies: bool = False


def coverage_of(stage: str, artifact: Artifact, result: Rederived) -> Coverage:
    """Sort an artifact's figures by what a recheck says of them; the longest pattern that fits a name decides."""
    derived = tuple(name for name in artifact.metrics if name in set(result.figures))
    resting: dict[str, list[str]] = {}
    for name in artifact.metrics:
        if name not in derived:
            fitting = [pattern for pattern in result.resting if fnmatchcase(name, pattern)]
            reason = result.resting[max(fitting, key=len)] if fitting else NO_RECHECK
            resting.setdefault(reason, []).append(name)
    groups = {reason: tuple(names) for reason, names in resting.items()}
    return Coverage(stage, derived, groups, result.sampled, artifact.kind == REPORT)


def coverage_lines(coverages: Sequence[Coverage]) -> Iterator[str]:
    """What `pocketlm verify` says after its checks."""
    own = [coverage for coverage in coverages if not coverage.copies]
    derived = sum(len(coverage.derived) for coverage in own)
    total = derived + sum(len(names) for coverage in own for names in coverage.resting.values())
    yield f"figures: {derived:,} of the report's {total:,} were derived again from stored evidence"
    done = [coverage for coverage in own if coverage.sampled]
    if done:
        yield "done again by sample:"
        yield from (f"  {coverage.stage}: {coverage.sampled}" for coverage in done)
    left = [coverage for coverage in own if coverage.resting]
    if left:
        yield "not derived again, these rest on hashes alone:"
    for coverage in left:
        for reason, names in coverage.resting.items():
            yield f"  {coverage.stage}: {_listed(names)} ({reason})"
    yield "  every stage: seconds, memory, energy, versions (as the ledger recorded them; no second look is possible)"


def _listed(names: Sequence[str]) -> str:
    grouped = list(dict.fromkeys(_group(name, names) for name in names))
    more = f" and {len(grouped) - SHOWN} more" if len(grouped) > SHOWN else ""
    return ", ".join(grouped[:SHOWN]) + more


def _group(name: str, names: Sequence[str]) -> str:
    """`planted.*` with its number, where more than two names begin so."""
    head = name.partition(".")[0]
    alike = sum(other.startswith(f"{head}.") for other in names)
    return f"{head}.* ({alike})" if alike > 2 and name.startswith(f"{head}.") else name
