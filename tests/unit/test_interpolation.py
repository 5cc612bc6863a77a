"""Interpolation of weights against the fp64 formula, and the rule that chooses a weight."""

import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.interpolation import Candidate, choose, copy_weights, interpolate_weights, pareto

TINY = ModelSettings(vocabulary=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_width=24, context=64)


def made(seed: int) -> Transformer:
    model = Transformer(TINY)
    model.init_weights(seed)
    return model


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_tensor_follows_the_formula_in_fp64(share):
    base, tuned = made(1).state_dict(), made(2).state_dict()
    mixed = interpolate_weights(base, tuned, share)
    assert mixed.keys() == base.keys()
    for name, tensor in mixed.items():
        exact = (1 - share) * base[name].numpy().astype("float64") + share * tuned[name].numpy().astype("float64")
        assert (tensor.numpy() == exact.astype("float32")).all()
    if share in (0.0, 1.0):
        assert all(torch.equal(tensor, (base, tuned)[int(share)][name]) for name, tensor in mixed.items())


def test_tied_embeddings_stay_tied():
    base, tuned = made(1), made(2)
    expected = (base.embedding.weight + tuned.embedding.weight) / 2
    copy_weights(base, interpolate_weights(base.state_dict(), tuned.state_dict(), 0.5))
    assert base.head_weight_VD is base.embedding.weight
    torch.testing.assert_close(base.head_weight_VD, expected)


def test_models_of_different_shape_are_refused():
    base, tuned = made(1).state_dict(), made(2).state_dict()
    missing = {name: tensor for name, tensor in tuned.items() if name != "final_norm.weight"}
    with pytest.raises(InputError, match=r"final_norm\.weight"):
        interpolate_weights(base, missing, 0.5)
    with pytest.raises(InputError, match=r"embedding\.weight"):
        interpolate_weights(base, {**tuned, "embedding.weight": torch.zeros(3, 16)}, 0.5)


def test_the_fewest_bits_among_the_nearly_best_win():
    candidates = [Candidate(0.4, 0.20, 2.0), Candidate(0.7, 0.39, 2.2), Candidate(1.0, 0.40, 2.9)]
    assert choose(candidates, exact_match_loss=0.02).share == 0.7
    assert choose(candidates, exact_match_loss=0.0).share == 1.0
    assert choose(candidates, exact_match_loss=0.5).share == 0.4
    assert choose([Candidate(0.5, 0.3, 2.0), Candidate(0.9, 0.3, 2.0)], 0.0).share == 0.9
    with pytest.raises(InputError, match="finite"):
        choose([Candidate(0.5, 0.3, float("nan"))], 0.0)


def test_pareto_drops_only_what_another_beats():
    candidates = [
        Candidate(0.0, 0.1, 2.0),
        Candidate(0.5, 0.3, 2.1),
        Candidate(0.8, 0.2, 2.5),
        Candidate(1.0, 0.4, 2.9),
    ]
    assert pareto(candidates) == {0.0, 0.5, 1.0}
