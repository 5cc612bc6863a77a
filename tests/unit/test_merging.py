"""Task arithmetic, TIES, DARE and the greedy soup against loops written from the papers, and what must hold of them."""

import math
from collections.abc import Mapping
from functools import partial

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.model.formats.hugging_face import to_hugging_face
from pocketlm.posttraining.merging.grid import greedy_soup, method_grid
from pocketlm.posttraining.merging.interpolation import linear
from pocketlm.posttraining.merging.methods import dare, dropped, task_arithmetic, ties, trimmed
from pocketlm.posttraining.merging.sources import matrices
from tests import posttraining_world as world

SHAPES = {"matrix": (6, 9), "gain": (7,), "one": (1,)}


def weights(seed: int, spread: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: spread * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


BASE = weights(0)
MODELS = [{name: BASE[name] + change for name, change in weights(seed, 0.3).items()} for seed in (1, 2, 3)]


def deltas(name: str) -> numpy.ndarray:
    """Task vectors, one a row, in fp64."""
    base = BASE[name].numpy().astype("float64").ravel()
    return numpy.stack([model[name].numpy().astype("float64").ravel() - base for model in MODELS])


def ties_of(vectors: numpy.ndarray, density: float, factors: list[float]) -> numpy.ndarray:
    """Algorithm 1 of arXiv 2306.01708, number by number."""
    trimmed_vectors = []
    for vector in vectors:
        kept = max(1, int(density * len(vector)))
        order = sorted(range(len(vector)), key=lambda place: -abs(vector[place]))[:kept]
        trimmed_vectors.append([vector[place] if place in order else 0.0 for place in range(len(vector))])
    merged = []
    for place in range(vectors.shape[1]):
        column = [(factor, vector[place]) for factor, vector in zip(factors, trimmed_vectors, strict=True)]
        mass = sum(factor * number for factor, number in column)
        agreeing = [(factor, number) for factor, number in column if number * mass > 0]
        total = sum(factor for factor, _ in agreeing)
        merged.append(sum(factor * number for factor, number in agreeing) / total if agreeing else 0.0)
    return numpy.array(merged)


def require_equal(merged: Mapping[str, torch.Tensor], change) -> None:
    for name, tensor in merged.items():
        wanted = BASE[name].numpy().astype("float64") + change(name).reshape(BASE[name].shape)
        numpy.testing.assert_allclose(tensor.numpy(), wanted, rtol=1.2e-7, atol=1e-9)


@pytest.mark.parametrize("factors", [None, [1.0, 0.5, 2.0]])
@pytest.mark.parametrize("scale", [0.4, -1.0])
def test_task_arithmetic_adds_the_scaled_task_vectors(scale, factors):
    row = numpy.array([factors or [1.0] * 3])
    require_equal(task_arithmetic(BASE, MODELS, scale, factors), lambda name: scale * row @ deltas(name))


@pytest.mark.parametrize("factors", [None, [1.0, 0.5, 2.0]])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_follows_its_algorithm(density, factors):
    merged = ties(BASE, MODELS, 0.7, density, factors)
    require_equal(merged, lambda name: 0.7 * ties_of(deltas(name), density, factors or [1.0] * 3))


@pytest.mark.parametrize("elect_signs", [False, True])
def test_dare_follows_its_formula_with_the_mask_that_it_drew(elect_signs):
    density = 0.5
    alone = [dare(BASE, [*[BASE] * number, model], 1.0, density, seed=5) for number, model in enumerate(MODELS)]
    merged = dare(BASE, MODELS, 0.7, density, seed=5, elect_signs=elect_signs)
    kept_numbers = 0

    def change(name: str) -> numpy.ndarray:
        nonlocal kept_numbers
        vectors = deltas(name)
        changed = [model[name].numpy().ravel() != BASE[name].numpy().ravel() for model in alone]
        kept_numbers += sum(mask.sum() for mask in changed)
        thinned = vectors * numpy.stack(changed) / density
        if elect_signs:
            thinned = thinned * (thinned * thinned.sum(0) > 0)
        return 0.7 * thinned.sum(0)

    require_equal(merged, change)
    assert 50 < kept_numbers < 140, "of 186, half is kept"


def test_what_dare_drops_depends_on_seed_model_and_tensor_only():
    vectors = {name: torch.ones(400) for name in ("one", "other")}
    zeros = {name: torch.zeros(400) for name in vectors}
    merged = dare(zeros, [vectors, vectors], 1.0, 0.5, seed=1)
    again = dare(dict(reversed(zeros.items())), [vectors, vectors], 1.0, 0.5, seed=1)
    assert all(torch.equal(merged[name], again[name]) for name in vectors)
    assert set(merged["one"].tolist()) == {0.0, 2.0, 4.0}, "the two models lose different numbers"
    assert not torch.equal(merged["one"], merged["other"])
    assert not torch.equal(merged["one"], dare(zeros, [vectors, vectors], 1.0, 0.5, seed=2)["one"])


def test_dare_changes_nothing_on_average():
    vector = torch.linspace(-1, 1, 64, dtype=torch.float64)
    draws = torch.stack([dropped(vector, 0.2, seed) for seed in range(2000)])
    deviation = vector.abs() * math.sqrt((1 - 0.2) / 0.2 / 2000)
    assert ((draws.mean(0) - vector).abs() <= 4.5 * deviation).all()
    assert abs((draws != 0).double().mean() - 0.2) < 4.5 * math.sqrt(0.2 * 0.8 / draws.numel())


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_scale_0_is_the_base_and_dare_of_everything_is_the_plain_sum(method):
    def mixed(scale: float, density: float) -> Mapping[str, torch.Tensor]:
        ((_, make),) = method_grid(method, BASE, MODELS, None, [scale], [density], seed=1)
        return make()

    assert all(torch.equal(tensor, BASE[name]) for name, tensor in mixed(0.0, 0.5).items())
    if method == "dare_linear":
        plain = task_arithmetic(BASE, MODELS, 0.7)
        assert all(torch.equal(tensor, plain[name]) for name, tensor in mixed(0.7, 1.0).items())


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(3)), st.floats(0.05, 1), st.floats(-1, 1))
def test_the_order_of_the_models_does_not_matter(order, density, scale):
    shuffled = [MODELS[number] for number in order]
    for merge in (task_arithmetic, partial(ties, density=density)):
        one, other = merge(BASE, MODELS, scale), merge(BASE, shuffled, scale)
        for name in BASE:
            torch.testing.assert_close(one[name], other[name], rtol=2e-7, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=20), st.integers(1, 4), st.floats(0, 1))
def test_ties_of_agreeing_models_is_their_mean(numbers, copies, scale):
    """Density 1 and signs that agree: nothing is trimmed and nothing outvoted."""
    zero = {"w": torch.zeros(len(numbers), dtype=torch.float64)}
    models = [{"w": torch.tensor(numbers, dtype=torch.float64) * (1 + copy)} for copy in range(copies)]
    merged = ties(zero, models, scale, 1.0)["w"]
    torch.testing.assert_close(merged, scale * linear(models, [1 / copies] * copies)["w"], rtol=1e-12, atol=1e-12)


def test_ties_leaves_the_base_where_signs_cancel():
    zero, one = {"w": torch.zeros(2)}, {"w": torch.tensor([1.0, 3.0])}
    assert ties(zero, [one, {"w": torch.tensor([-1.0, -1.0])}], 1.0, 1.0)["w"].tolist() == [0.0, 3.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=30, unique_by=abs), st.floats(0.01, 1))
def test_trimming_keeps_the_largest(numbers, density):
    vector = torch.tensor(numbers, dtype=torch.float64)
    kept = trimmed(vector, density)
    count = max(1, int(density * len(numbers)))
    largest = sorted(map(abs, numbers))[-count:]
    assert sorted(abs(number) for number in kept.tolist() if number) == [size for size in largest if size]
    assert all(number in (0.0, was) for number, was in zip(kept.tolist(), numbers, strict=True))


def test_a_model_of_another_shape_is_refused_by_every_method():
    for method in ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"):
        broken = [*MODELS[:2], {**MODELS[2], "gain": torch.zeros(8)}]
        (_, make), *_ = method_grid(method, BASE, broken, None, [1.0], [0.5], seed=1)
        with pytest.raises(InputError, match=r"tensor gain is \[7\] in model 1 and \[8\] in model [34]"):
            make()


def test_the_grid_names_every_mixture_once():
    grids = {
        method: [place for place, _ in method_grid(method, BASE, MODELS, [1, 2, 1], [0.5, 1.0], [0.2, 0.4, 0.6], 0)]
        for method in ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties")
    }
    assert [len(grid) for grid in grids.values()] == [1, 2, 6, 6, 6]
    assert all(len({str(place) for place in grid}) == len(grid) for grid in grids.values())


def test_the_grid_hands_every_parameter_on():
    factors = [1, 2, 1]
    wanted = {
        "linear": linear(MODELS, [0.25, 0.5, 0.25]),
        "task_arithmetic": task_arithmetic(BASE, MODELS, 0.7, factors),
        "ties": ties(BASE, MODELS, 0.7, 0.4, factors),
        "dare_linear": dare(BASE, MODELS, 0.7, 0.4, 9, False, factors),
        "dare_ties": dare(BASE, MODELS, 0.7, 0.4, 9, True, factors),
    }
    for method, mixture in wanted.items():
        ((_, make),) = method_grid(method, BASE, MODELS, factors, [0.7], [0.4], 9)
        assert all(torch.equal(tensor, mixture[name]) for name, tensor in make().items()), method


@pytest.mark.parametrize("sign", [1, -1])
def test_the_greedy_soup_takes_in_what_does_not_harm(sign):
    """a is best; b harms, c is neutral, d helps: tried in the order b, c, d."""
    alone = {"d": 0.1, "a": 0.9, "c": 0.5, "b": 0.8}
    soups = {"ab": 0.85, "ac": 0.9, "acd": 0.95}
    tried = []

    def score(names):
        tried.append("".join(names))
        return sign * soups[tried[-1]]

    skills = {name: sign * skill for name, skill in alone.items()}
    assert greedy_soup(skills, sign, score) == ["a", "c", "d"]
    assert tried == ["ab", "ac", "acd"]


def test_fused_projections_are_merged_as_the_matrices_that_files_have():
    model = world.small_model()
    views, exported = matrices(model), to_hugging_face(model)
    assert views.keys() == exported.keys()
    assert all(torch.equal(view, exported[name]) for name, view in views.items())
    views["model.layers.1.self_attn.k_proj.weight"].zero_()
    query, key, value = model.blocks[1].attention.qkv.weight.split([32, 16, 16])
    assert not key.any()
    assert query.all()
    assert value.all()
