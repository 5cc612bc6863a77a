"""The copy that is sampled from: it follows the model in place, and samples as the model would but for rounding."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from pocketlm.generation.engine import Completion, Engine, Request
from pocketlm.generation.shadow import Shadow
from pocketlm.posttraining.examples import asked_prompts
from pocketlm.posttraining.rollouts.sampler import Sampler
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import RewardSettings, Scorer
from tests.generation_reference import tiny_model
from tests.posttraining_world import rows, small_tokenizer, taught_model

REQUESTS = [Request([number + 1] * (3 + number), 20, 1.0, seed=number, samples=2) for number in range(5)]


def texts(shadow: Shadow) -> list[Completion]:
    with shadow.products():
        return [one for group in Engine(shadow.model).generate(REQUESTS) for one in group]


def test_a_wider_copy_draws_the_same_tokens_and_follows_an_update_in_place() -> None:
    model = deepcopy(tiny_model())
    shadow = Shadow(model, torch.float64)
    engine = Engine(shadow.model)

    def tokens(own: Engine) -> list[list[int]]:
        return [one.tokens for group in own.generate(REQUESTS) for one in group]

    before = tokens(Engine(model))
    assert tokens(engine) == before
    places = [weight.data_ptr() for weight in shadow.model.parameters()]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    after = tokens(Engine(model))
    assert after != before
    assert tokens(engine) == before  # not before it is told to
    shadow.refresh()
    assert tokens(engine) == after
    assert [weight.data_ptr() for weight in shadow.model.parameters()] == places
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_in_bfloat16_it_is_near_and_its_tables_stay_exact() -> None:
    model = tiny_model()
    shadow = Shadow(model, torch.bfloat16)
    assert {weight.dtype for weight in shadow.model.parameters()} == {torch.bfloat16}
    assert torch.equal(shadow.model.cosine_SC, model.cosine_SC)
    firsts = [(one.tokens[0], one.log_probabilities[0]) for one in texts(shadow)]
    exact = [(one.tokens[0], one.log_probabilities[0]) for one in texts(Shadow(model))]
    distances = [abs(own[1] - other[1]) for own, other in zip(firsts, exact, strict=True) if own[0] == other[0]]
    assert len(distances) >= 8
    assert 0 < max(distances) < 0.2


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_without_another_type_there_is_no_copy(dtype: torch.dtype | None) -> None:
    assert Shadow(tiny_model(), dtype).model is tiny_model()


def test_a_sampler_samples_from_the_newest_weights_in_the_type_asked_for() -> None:
    """Forgetting to refresh would leave the log-probabilities of the old weights."""
    tokenizer, model = small_tokenizer(), taught_model()
    prompts = asked_prompts(tokenizer, rows(range(2), range(3)))
    with Scorer(RewardSettings()) as scorer:
        wide = Sampler(tokenizer, scorer, RolloutSettings(samples=4), torch.float64)
        plain = Sampler(tokenizer, scorer, RolloutSettings(samples=4))
        wide.sample(model, prompts, seed=1)
        with torch.no_grad():
            model.embedding.weight.mul_(0.8)
        one, other = (sampler.sample(model, prompts, seed=2) for sampler in (wide, plain))
    for first, second in zip(one, other, strict=True):
        for left, right in zip(first.completions, second.completions, strict=True):
            assert left.tokens == right.tokens
            assert left.log_probabilities == pytest.approx(right.log_probabilities, abs=1e-4)
    assert one != other  # it was in another type
