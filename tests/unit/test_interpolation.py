"""Averages of weights against fp64 formulas in numpy, and the rules that choose a mixture."""

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.merging.interpolation import copy_weights, interpolate_weights, linear, slerp
from pocketlm.posttraining.merging.selection import Candidate, Rule, unbeaten

TINY = ModelSettings(vocabulary=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_width=24, context=64)


def made(seed: int, tied: bool = True) -> Transformer:
    model = Transformer(TINY.model_copy(update={"tie_embeddings": tied}))
    model.init_weights(seed)
    return model


def exact(tensor: torch.Tensor) -> numpy.ndarray:
    return tensor.numpy().astype("float64")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mix", [interpolate_weights, slerp])
def test_the_ends_are_the_two_models(mix, share):
    base, tuned = made(1).state_dict(), made(2).state_dict()
    mixed = mix(base, tuned, share)
    assert mixed.keys() == base.keys()
    ends = [all(torch.equal(tensor, end[name]) for name, tensor in mixed.items()) for end in (base, tuned)]
    assert ends == [share == 0.0, share == 1.0]


def test_every_tensor_follows_the_formula_in_fp64():
    base, tuned = made(1).state_dict(), made(2).state_dict()
    for name, tensor in interpolate_weights(base, tuned, 0.3).items():
        assert (tensor.numpy() == (0.7 * exact(base[name]) + 0.3 * exact(tuned[name])).astype("float32")).all()
    third = made(3).state_dict()
    for name, tensor in linear([base, tuned, third], [0.5, 0.2, 0.3]).items():
        mean = 0.5 * exact(base[name]) + 0.2 * exact(tuned[name]) + 0.3 * exact(third[name])
        assert (tensor.numpy() == mean.astype("float32")).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, math.pi - 0.05), st.floats(0, 1), st.floats(0.1, 9), st.floats(0.1, 9))
def test_slerp_turns_evenly_and_stays_on_the_sphere(angle, share, length, other):
    """Of two vectors of one length the mixture has that length and `share` of the angle; other lengths just scale."""
    base = {"w": length * torch.tensor([[1.0, 0.0]], dtype=torch.float64)}
    turned = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    mixed = slerp(base, {"w": length * turned}, share)["w"][0]
    wanted = length * torch.tensor([math.cos(share * angle), math.sin(share * angle)], dtype=torch.float64)
    torch.testing.assert_close(mixed, wanted, rtol=0, atol=1e-12 * length / math.sin(angle))
    there, back = slerp(base, {"w": other * turned}, share), slerp({"w": other * turned}, base, 1 - share)
    torch.testing.assert_close(there["w"], back["w"], rtol=1e-12, atol=1e-12)


def test_slerp_of_parallel_opposite_and_zero_tensors_is_linear():
    base = {"near": torch.ones(50), "opposite": torch.ones(50), "zero": torch.zeros(3)}
    tuned = {
        "near": torch.ones(50) + 0.01 * torch.arange(50) / 50,
        "opposite": -2 * torch.ones(50),
        "zero": torch.ones(3),
    }
    mixed, straight = slerp(base, tuned, 0.3), interpolate_weights(base, tuned, 0.3)
    assert all(torch.equal(mixed[name], straight[name]) for name in base)


def test_results_have_the_type_of_the_first_model():
    base = {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    tuned = {"w": torch.tensor([1.0039, -3.0])}
    mixed = interpolate_weights(base, tuned, 0.5)["w"]
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, ((base["w"].double() + tuned["w"].double()) / 2).bfloat16())


def test_tied_embeddings_stay_tied():
    base, tuned = made(1), made(2)
    expected = (base.embedding.weight + tuned.embedding.weight) / 2
    copy_weights(base, interpolate_weights(base.state_dict(), tuned.state_dict(), 0.5))
    assert base.head_weight_VD is base.embedding.weight
    torch.testing.assert_close(base.head_weight_VD, expected)


@pytest.mark.parametrize("mix", [interpolate_weights, slerp])
def test_models_of_different_shape_are_refused(mix):
    base, tuned = made(1).state_dict(), made(2).state_dict()
    missing = {name: tensor for name, tensor in tuned.items() if name != "final_norm.weight"}
    with pytest.raises(InputError, match=r"final_norm\.weight is in one of model 1 and model 2 only"):
        mix(base, missing, 0.5)
    with pytest.raises(InputError, match=r"embedding\.weight is \[32, 16\] in model 1 and \[3, 16\] in model 2"):
        mix(base, {**tuned, "embedding.weight": torch.zeros(3, 16)}, 0.5)
    with pytest.raises(InputError, match=r"head\.weight .* one ties its head to the embeddings, the other does not"):
        mix(base, made(2, tied=False).state_dict(), 0.5)
    for number in (math.nan, math.inf):
        broken = tuned["final_norm.weight"].clone()
        broken[3] = number
        with pytest.raises(InputError, match=r"final_norm\.weight of model 2 holds NaN or infinity"):
            mix(base, {**tuned, "final_norm.weight": broken}, 0.5)


def candidates(*scores: tuple[float, float]) -> list[Candidate]:
    return [Candidate({"number": number}, skill, bits) for number, (skill, bits) in enumerate(scores)]


def test_the_fewest_bits_among_the_nearly_best_win():
    scored = candidates((0.20, 2.0), (0.39, 2.2), (0.40, 2.9))
    assert Rule(1, tolerance=0.02).choose(scored) is scored[1]
    assert Rule(1, tolerance=0.0).choose(scored) is scored[2]
    assert Rule(1, tolerance=0.5).choose(scored) is scored[0]
    assert Rule(1, tolerance=0.1).choose(candidates((0.3, 2.0), (0.4, 2.2))).place == {"number": 0}, "0.4 - 0.1 > 0.3"
    equals = candidates((0.3, 2.0), (0.3, 2.0))
    assert Rule(1, tolerance=0.0).choose(equals) is equals[1]
    losses = candidates((0.40, 2.0), (0.22, 2.2), (0.20, 2.9))
    assert Rule(-1, tolerance=0.02).choose(losses) is losses[1]
    assert Rule(-1, tolerance=0.0).choose(losses) is losses[2]


def test_the_best_skill_within_the_allowed_forgetting_wins():
    scored = candidates((0.1, 2.0), (0.3, 2.1), (0.4, 2.2), (0.2, 2.05))
    for allowed, chosen in ((0.0, 0), (0.05, 3), (0.1, 1), (0.5, 2)):
        assert Rule(1, tolerance=9.0, allowed_forgetting=allowed).choose(scored, scored[0]) is scored[chosen]
    on_the_bound = candidates((0.1, 0.7), (0.2, 0.8))
    assert Rule(1, 9.0, 0.1).choose(on_the_bound, on_the_bound[0]) is on_the_bound[1], "0.7 + 0.1 < 0.8"
    losses = candidates((3.0, 2.0), (2.0, 2.1), (1.0, 2.2), (2.0, 2.1))
    assert Rule(-1, 0.0, 0.1).choose(losses, losses[0]) is losses[3], "of equals the last: the larger share"


def test_the_front_drops_only_what_another_beats():
    scored = candidates((0.1, 2.0), (0.3, 2.1), (0.2, 2.5), (0.4, 2.9), (0.4, 2.9), (0.4, 3.0))
    assert unbeaten(scored, 1) == [True, True, False, True, True, False]
    assert unbeaten(scored, -1) == [True, False, False, False, False, False]
