"""The lineage graph: a small layered drawing (after Sugiyama, Tagawa and Toda 1981) as inline SVG.

Stages stand below what they read. An arrow that a longer path implies is left out (transitive reduction), which keeps
a pipeline of some twenty stages readable at phone width; the stage sections list every input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

NODE_WIDTH, NODE_HEIGHT = 128, 38
LANE_WIDTH = 14
GAP_X, GAP_Y = 8, 22


@dataclass(frozen=True)
class Node:
    """A box: what it says and where a click leads."""

    name: str
    subtitle: str
    anchor: str


def reduced(parents: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same graph without the arrows that a longer path implies. `parents`: node -> nodes it reads, acyclic."""
    ancestors: dict[str, set[str]] = {}

    def above(node: str) -> set[str]:
        if node not in ancestors:
            ancestors[node] = {other for parent in parents[node] for other in (parent, *above(parent))}
        return ancestors[node]

    return {
        node: [one for one in dict.fromkeys(reads) if not any(one in above(other) for other in reads if other != one)]
        for node, reads in parents.items()
    }


def ranks(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Row of every node: one below its lowest parent; a node without parents stands right above its first reader."""
    rank: dict[str, int] = {}

    def place(node: str) -> int:
        if node not in rank:
            rank[node] = 1 + max((place(parent) for parent in parents[node]), default=-1)
        return rank[node]

    for node in parents:
        place(node)
    for node, reads in parents.items():
        readers = [rank[other] for other, above in parents.items() if node in above]
        if not reads and readers:
            rank[node] = min(readers) - 1
    return rank


def draw(nodes: Sequence[Node], parents: Mapping[str, Sequence[str]]) -> Markup:
    """The graph as one SVG element; every text is escaped."""
    kept = reduced(parents)
    rank = ranks(kept)
    rows, links = _rows(kept, rank)
    centres, width = _centres(rows)
    height = len(rows) * (NODE_HEIGHT + GAP_Y) - GAP_Y + 4
    stops = [[(centres[stop], _top(level)) for level, stop in enumerate(link, rank[link[0]])] for link in links]
    boxes = [_box(node, centres[node.name], _top(rank[node.name])) for node in nodes]
    return Markup(
        '<svg class="graph" viewBox="0 0 {w} {h}" width="{w}" height="{h}" style="min-width:{m}px" role="img" '
        'aria-label="Lineage graph"><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>{arrows}{boxes}</svg>'
    ).format(
        w=width,
        h=height,
        m=round(width * 0.75),
        arrows=Markup("").join(map(_arrow, stops)),
        boxes=Markup("").join(boxes),
    )


def _rows(parents: Mapping[str, Sequence[str]], rank: Mapping[str, int]) -> tuple[list[list[str]], list[list[str]]]:
    """(nodes and lanes of every row from left to right, the stops of every arrow). A lane carries an arrow past a row.

    Rows are sorted by the mean position of their neighbours in the row above, then below, four times over.
    """
    rows: list[list[str]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for node in parents:
        rows[rank[node]].append(node)
    links = []
    for node, reads in parents.items():
        for parent in reads:
            lanes = [f"{parent}\n{node}\n{level}" for level in range(rank[parent] + 1, rank[node])]
            for level, lane in enumerate(lanes, rank[parent] + 1):
                rows[level].append(lane)
            links.append([parent, *lanes, node])
    neighbours: dict[tuple[str, int], list[str]] = {}
    for link in links:
        for upper, lower in pairwise(link):
            neighbours.setdefault((lower, -1), []).append(upper)
            neighbours.setdefault((upper, +1), []).append(lower)
    for direction in (-1, +1) * 4:
        order = range(len(rows)) if direction < 0 else reversed(range(len(rows)))
        for level in order:
            position = {stop: index for row in rows for index, stop in enumerate(row)}

            def mean(stop: str, toward: int = direction, at: dict[str, int] = position) -> float:
                others = neighbours.get((stop, toward), [stop])
                return sum(at[other] for other in others) / len(others)

            rows[level].sort(key=mean)
    return rows, links


def _centres(rows: Sequence[Sequence[str]]) -> tuple[dict[str, float], int]:
    """(x of every node's and lane's middle, width of the drawing); each row is centred."""
    widths = [[LANE_WIDTH if "\n" in stop else NODE_WIDTH for stop in row] for row in rows]
    totals = [sum(row) + GAP_X * (len(row) - 1) for row in widths]
    full = max(totals, default=0) + 4
    centres: dict[str, float] = {}
    for row, row_widths, total in zip(rows, widths, totals, strict=True):
        left = (full - total) / 2
        for stop, width in zip(row, row_widths, strict=True):
            centres[stop] = left + width / 2
            left += width + GAP_X
    return centres, full


def _top(level: int) -> int:
    return 2 + level * (NODE_HEIGHT + GAP_Y)


def _arrow(stops: Sequence[tuple[float, int]]) -> Markup:
    """A smooth line from the bottom of the first stop to the top of the last, through the lanes between."""
    (x, top), *rest = stops
    path = f"M{x:g} {top + NODE_HEIGHT}"
    for index, (next_x, next_top) in enumerate(rest):
        path += f"C{x:g} {next_top - GAP_Y / 2:g} {next_x:g} {next_top - GAP_Y / 2:g} {next_x:g} {next_top}"
        if index < len(rest) - 1:
            path += f"V{next_top + NODE_HEIGHT}"
        x = next_x
    return Markup('<path class="edge" d="{}" marker-end="url(#tip)"/>').format(path)


def _box(node: Node, centre: float, top: int) -> Markup:
    name = node.name if len(node.name) <= 19 else node.name[:18] + "…"
    return Markup(
        '<a href="#{anchor}"><title>{full}</title><rect x="{x:g}" y="{y}" width="{w}" height="{h}" rx="7"/>'
        '<text x="{c:g}" y="{t}" class="name">{name}</text><text x="{c:g}" y="{s}" class="kind">{kind}</text></a>'
    ).format(
        anchor=node.anchor,
        full=node.name,
        x=centre - NODE_WIDTH / 2,
        y=top,
        w=NODE_WIDTH,
        h=NODE_HEIGHT,
        c=centre,
        t=top + 16,
        s=top + 30,
        name=name,
        kind=node.subtitle,
    )
