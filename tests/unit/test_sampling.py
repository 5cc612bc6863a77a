"""Counter-based sampling: the hash against Python integers, the distribution against exact probabilities."""

from __future__ import annotations

import numpy
import pytest
import scipy.stats
import torch

from pocketlm.generation.engine import Engine, Request
from pocketlm.generation.sampling import sample, scale, stream_keys, uniforms
from tests.generation_reference import tiny_model, uniform


def test_uniforms_are_splitmix64() -> None:
    random = numpy.random.default_rng(0)
    seeds = [0, 1, 2**63 - 1, *random.integers(0, 2**63, 40).tolist()]
    samples, positions = random.integers(0, 2000, len(seeds)).tolist(), random.integers(0, 4000, len(seeds)).tolist()
    drawn = uniforms(stream_keys(torch.tensor(seeds), torch.tensor(samples)), torch.tensor(positions))
    expected = [uniform(*numbers) for numbers in zip(seeds, samples, positions, strict=True)]
    assert drawn.tolist() == expected


@pytest.mark.parametrize("vary", ["seed", "sample", "position"])
def test_uniforms_are_uniform_along_each_counter(vary: str) -> None:
    counter, fixed = torch.arange(20_000), torch.full((20_000,), 3)
    seeds, samples, positions = (counter if vary == name else fixed for name in ("seed", "sample", "position"))
    drawn = uniforms(stream_keys(seeds, samples), positions).numpy()
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert abs(numpy.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_exact_probabilities(temperature: float) -> None:
    logits = torch.tensor([2.0, -1.0, 0.3, -torch.inf, 1.1, 0.0])
    count = 60_000
    drawn = uniforms(stream_keys(torch.arange(count), torch.zeros(count, dtype=torch.long)), torch.zeros(count).long())
    tokens, log_probabilities = sample(scale(logits.repeat(count, 1), torch.full((count,), temperature)), drawn)
    exact = torch.softmax(logits.double() / temperature, 0)
    observed = torch.bincount(tokens, minlength=6)
    assert observed[3] == 0
    possible = exact > 0
    assert scipy.stats.chisquare(observed[possible].numpy(), (exact[possible] * count).numpy()).pvalue > 1e-3
    assert torch.allclose(log_probabilities.double(), exact[tokens].log(), atol=1e-5)


def test_the_engine_samples_the_models_distribution() -> None:
    """First and second token of 12,000 samples against exact joint probabilities (chi-square)."""
    model, count = tiny_model(vocabulary=5), 12_000
    completions = Engine(model, slots=300).generate([Request([2, 0], 2, temperature=1.3, seed=11, samples=count)])[0]
    first = torch.softmax(model(torch.tensor([[2, 0]]))[0, -1].double() / 1.3, 0)
    joint = torch.stack(
        [
            first[token] * torch.softmax(model(torch.tensor([[2, 0, token]]))[0, -1].double() / 1.3, 0)
            for token in range(5)
        ]
    )
    observed = torch.zeros(5, 5)
    for completion in completions:
        observed[completion.tokens[0], completion.tokens[1]] += 1
    expected = (joint * count).flatten()
    usual = expected > 5
    cells = torch.cat([observed.flatten()[usual], observed.flatten()[~usual].sum()[None]]).double()
    shares = torch.cat([expected[usual], expected[~usual].sum()[None]])
    assert scipy.stats.chisquare(cells[shares > 0].numpy(), shares[shares > 0].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-24])
def test_the_ends_of_the_unit_interval_never_hit_an_impossible_token(number: float) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 97, generator=random) * 4
    logits[:, :3] = logits[:, -3:] = -torch.inf
    tokens, log_probabilities = sample(logits, torch.full((500,), number))
    assert int(tokens.min()) >= 3
    assert int(tokens.max()) < 94
    assert bool(log_probabilities.isfinite().all())


def test_temperature_zero_takes_the_first_of_the_largest() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [5.0, 3.0, 3.0, 1.0]])
    tokens, log_probabilities = sample(
        scale(logits.clone(), torch.zeros(2)), torch.full((2,), 0.99), torch.tensor([True, True])
    )
    assert tokens.tolist() == [1, 0]
    expected = torch.log_softmax(logits, -1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    assert torch.allclose(log_probabilities, expected)
