"""Which figures and blocks of a run stored evidence gives again, and on what the others rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.rederivation import block_name, called, stated_blocks
from pocketlm.pipeline.stage import Rederived

REPORT = "report"
PARAGRAPH = "paragraph"
NO_RECHECK = "this stage derives nothing again"
NOT_MADE = "verify does not make it again"
SHOWN = 6
"""Names that are listed of a group before the rest is counted."""


@dataclass(frozen=True)
class Coverage:
    """A stage's figures: those that were computed again, and the others by the reason why not.

    Attributes:
        copies: they are those of the other stages, collected.
        blocks: how many blocks of its section of the report were made again.
        resting_blocks: the others, by the reason why not.
        unfounded: a line for each block that says something which nothing gives again.
    """

    stage: str
    derived: tuple[str, ...]
    resting: dict[str, tuple[str, ...]]
    sampled: str
    copies: bool = False
    blocks: int = 0
    resting_blocks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unfounded: tuple[str, ...] = ()


def coverage_of(stage: str, artifact: Artifact, result: Rederived) -> Coverage:
    """Sort an artifact's figures and blocks by what a recheck says of them; the longest pattern that fits decides."""
    derived = tuple(name for name in artifact.metrics if name in set(result.figures))
    resting: dict[str, list[str]] = {}
    for name in artifact.metrics:
        if name not in derived:
            resting.setdefault(_reason(name, result.resting) or NO_RECHECK, []).append(name)
    left, unfounded = _blocks_left(stage, artifact, result)
    return Coverage(
        stage,
        derived,
        {reason: tuple(names) for reason, names in resting.items()},
        result.sampled,
        artifact.kind == REPORT,
        len(result.blocks),
        {reason: tuple(names) for reason, names in left.items()},
        tuple(unfounded),
    )


def _blocks_left(stage: str, artifact: Artifact, result: Rederived) -> tuple[dict[str, list[str]], list[str]]:
    """Blocks that were not made again by the reason why not, and lines on those that must not be there.

    A second block of a name that was made again must not, nor a paragraph of which the stage does not say that it
    rests on hashes. Where a recheck made nothing again, all rests.
    """
    blocks = stated_blocks(artifact)
    nothing = not result.figures and not result.blocks
    made = {block_name(blocks[place]) for place in result.blocks}
    left: dict[str, list[str]] = {}
    unfounded = []
    for place, block in enumerate(blocks):
        if place in result.blocks:
            continue
        name = block_name(block)
        reason = _reason(name, result.resting_blocks) or (_reason("", result.resting) if nothing else "")
        if name in made or (block["kind"] == PARAGRAPH and not reason and not nothing):
            unfounded.append(f"{stage}: nothing gives the report's {called(block)}")
        else:
            left.setdefault(reason or (NO_RECHECK if nothing else NOT_MADE), []).append(called(block))
    return left, unfounded


def _reason(name: str, reasons: Mapping[str, str]) -> str:
    fitting = [pattern for pattern in reasons if fnmatchcase(name, pattern)]
    return reasons[max(fitting, key=len)] if fitting else ""


def coverage_lines(coverages: Sequence[Coverage]) -> Iterator[str]:
    """What `pocketlm verify` says after its checks."""
    own = [coverage for coverage in coverages if not coverage.copies]
    derived = sum(len(coverage.derived) for coverage in own)
    total = derived + sum(len(names) for coverage in own for names in coverage.resting.values())
    yield f"figures: {derived:,} of the report's {total:,} were derived again from stored evidence"
    made = sum(coverage.blocks for coverage in own)
    stated = made + sum(len(names) for coverage in own for names in coverage.resting_blocks.values())
    stated += sum(len(coverage.unfounded) for coverage in own)
    yield f"tables, charts, texts: {made:,} of the report's {stated:,} were made again"
    done = [coverage for coverage in own if coverage.sampled]
    if done:
        yield "done again by sample:"
        yield from (f"  {coverage.stage}: {coverage.sampled}" for coverage in done)
    left = [coverage for coverage in own if coverage.resting or coverage.resting_blocks]
    if left:
        yield "not derived again, these rest on hashes alone:"
    for coverage in left:
        for reason, names in coverage.resting.items():
            yield f"  {coverage.stage}: {_listed(names)} ({reason})"
        for reason, names in coverage.resting_blocks.items():
            yield f"  {coverage.stage}: {', '.join(names)} ({reason})"
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
