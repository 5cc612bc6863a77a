"""Comparing what an artifact states with what stored evidence gives again: the figures, and blocks of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.pipeline.artifact import FIGURES, Artifact
from pocketlm.pipeline.figures import Block, as_figure
from pocketlm.pipeline.stage import Rederived

ROUNDING = 1e-9
"""Of a figure that is a sum of the same numbers: another library may add them in another order."""
RESCORED = 1e-4
"""Of a figure that a model was scored again for: another machine or thread count rounds differently."""


def compared(
    artifact: Artifact,
    figures: Mapping[str, Any],
    blocks: Sequence[Block] = (),
    *,
    tolerance: float = ROUNDING,
    differences: Sequence[str] = (),
    sampled: str = "",
    resting: Mapping[str, str] | None = None,
    resting_blocks: Mapping[str, str] | None = None,
) -> Rederived:
    """Figures and blocks that were made again, beside those that the artifact states.

    Args:
        figures, blocks: made again. Each block answers for one of those that are stated.
        tolerance: relative, of numbers that are not whole.
        differences, sampled, resting, resting_blocks: what else is to be said.
    """
    found = [*differences, *differing(artifact.metrics, figures, tolerance)]
    places: list[int] = []
    stated = [_unordered(block) for block in stated_blocks(artifact)] if blocks else []
    for block in map(_unordered, blocks):
        free = [place for place in range(len(stated)) if place not in places]
        same = next((place for place in free if alike(block, stated[place], tolerance)), None)
        if same is None:
            found.append(f"{artifact.stage}: the report's {called(block)} is not what the stored evidence gives")
            same = next((place for place in free if block_name(stated[place]) == block_name(block)), None)
        places += [] if same is None else [same]
    return Rederived(found, list(figures), sampled, resting or {}, places, resting_blocks or {})


def stated_blocks(artifact: Artifact) -> list[Block]:
    """The blocks of the report that an artifact brings."""
    blocks: list[Block] = artifact.read_json(FIGURES)["blocks"]
    return blocks


def block_name(block: Block) -> str:
    """Kind and title of a block; of a paragraph, kind and text."""
    return f"{block['kind']} {block.get('title') or block.get('text', '')}"


def called(block: Block) -> str:
    """A block as a line of the verdict names it."""
    title = block.get("title")
    return f"{block['kind'].replace('_', ' ')} {title!r}" if title else f"{block['kind']} {block['text'][:60]!r}..."


def differing(stated: Mapping[str, Any], again: Mapping[str, Any], tolerance: float = ROUNDING) -> list[str]:
    """One line for each figure that is not as stated, or not stated at all."""
    lines = []
    for name, figure in again.items():
        if name not in stated:
            lines.append(f"{name}: not stated; the stored evidence gives {_shown(figure)}")
        elif not alike(as_figure(_plain(stated[name])), as_figure(_plain(figure)), tolerance):
            lines.append(f"{name}: stated {_shown(stated[name])}, the stored evidence gives {_shown(figure)}")
    return lines


def joined(*parts: Rederived) -> Rederived:
    """Several as one; a figure that one part computed again does not rest."""
    figures = list(dict.fromkeys(name for part in parts for name in part.figures))
    resting = {name: why for part in parts for name, why in part.resting.items() if name not in figures}
    sampled = "; ".join(part.sampled for part in parts if part.sampled)
    differences = [line for part in parts for line in part.differences]
    places = sorted({place for part in parts for place in part.blocks})
    blocks = {name: why for part in parts for name, why in part.resting_blocks.items()}
    return Rederived(differences, figures, sampled, resting, places, blocks)


def alike(one: Any, other: Any, tolerance: float) -> bool:
    """Equal values; numbers that are not whole within a relative tolerance."""
    if isinstance(one, float) or isinstance(other, float):
        numbers = (int, float)
        if isinstance(one, bool) or isinstance(other, bool):
            return one is other
        return isinstance(one, numbers) and isinstance(other, numbers) and math.isclose(one, other, rel_tol=tolerance)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key], tolerance) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(*pair, tolerance) for pair in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)


def _plain(value: Any) -> Any:
    """As it is read back from a file."""
    return json.loads(json.dumps(value))


def _unordered(block: Block) -> Any:
    """Columns in any order: rows that were read from a file have theirs by name."""
    plain = _plain(block)
    return plain | {"columns": sorted(plain["columns"])} if "columns" in plain else plain


def _shown(figure: Any) -> str:
    value = as_figure(figure)
    return str(value["value"] if value.keys() == {"value"} else value)
