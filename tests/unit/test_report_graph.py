"""The lineage graph: reduction against networkx, and drawings without overlaps, for random pipelines."""

from __future__ import annotations

import re

import networkx
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.reporting import graph

Parents = dict[str, list[str]]


@st.composite
def pipelines(draw: st.DrawFn) -> Parents:
    """Every stage reads some of those before it, as in a recipe."""
    names = [f"s{number}" for number in range(draw(st.integers(1, 12)))]
    return {name: draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else [] for i, name in enumerate(names)}


@given(pipelines())
def test_reduction_is_the_transitive_reduction(parents: Parents) -> None:
    whole = networkx.DiGraph()
    whole.add_nodes_from(parents)
    whole.add_edges_from((parent, node) for node, reads in parents.items() for parent in reads)
    expected = set(networkx.transitive_reduction(whole).edges)
    assert {(parent, node) for node, reads in graph.reduced(parents).items() for parent in reads} == expected


@settings(deadline=None)
@given(pipelines())
def test_arrows_lead_down_and_boxes_do_not_overlap(parents: Parents) -> None:
    rank = graph.ranks(parents)
    assert all(rank[parent] < rank[node] for node, reads in parents.items() for parent in reads)
    svg = graph.draw([graph.Node(name, "kind", f"stage-{name}") for name in parents], parents)
    assert svg == graph.draw([graph.Node(name, "kind", f"stage-{name}") for name in parents], parents)
    boxes = [tuple(map(float, box)) for box in re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)"', svg)]
    assert len(boxes) == len(parents)
    width = float(re.search(r'width="(\d+)"', svg)[1])  # type: ignore[index]
    for index, (x, y) in enumerate(boxes):
        assert 0 <= x <= width - graph.NODE_WIDTH
        for other_x, other_y in boxes[index + 1 :]:
            assert y != other_y or abs(x - other_x) >= graph.NODE_WIDTH


def test_a_chain_with_a_shortcut_is_drawn_as_a_chain() -> None:
    assert graph.reduced({"a": [], "b": ["a"], "c": ["a", "b"]}) == {"a": [], "b": ["a"], "c": ["b"]}


def test_a_source_stands_right_above_its_first_reader() -> None:
    assert graph.ranks({"a": [], "late": [], "b": ["a"], "c": ["b", "late"]})["late"] == 1


def test_names_are_escaped_and_shortened() -> None:
    svg = graph.draw([graph.Node("<script>" + "x" * 40, "<b>", "a")], {"<script>" + "x" * 40: []})
    assert "<script>" not in svg
    assert "<b>" not in svg
    assert "…" in svg
