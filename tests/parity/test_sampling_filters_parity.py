"""Penalty, temperature, top-k, top-p and min-p against transformers' processors, alone and in its order together."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from pocketlm.generation.filters import Filters, keep_likely, penalise_repetition
from pocketlm.generation.sampling import scale

ROWS, VOCABULARY = 6, 3000


def theirs(
    logits_NV: torch.Tensor,
    tokens_NT: torch.Tensor,
    penalty: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> torch.Tensor:
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain: list[Any] = [RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)]
    chain += [TopKLogitsWarper(top_k)] if top_k else []
    chain += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [MinPLogitsWarper(min_p)] if min_p else []
    return torch.softmax(LogitsProcessorList(chain)(tokens_NT, logits_NV.clone()), -1)


@pytest.mark.parametrize("spread", [0.3, 3.0], ids=["flat", "peaked"])
def test_filters_are_those_of_transformers(spread: float) -> None:
    """Every combination, several rows of different options in one call; flat rows need more than the candidates."""
    random = torch.Generator().manual_seed(0)
    choices = list(
        itertools.product([1.0, 1.7, 0.6], [0.7, 1.0, 1.5], [0, 1, 40, 5000], [1.0, 0.05, 0.6, 0.97], [0.0, 0.02, 1.0])
    )
    for start in range(0, len(choices), ROWS):
        options = choices[start : start + ROWS]
        logits_NV = torch.randn(len(options), VOCABULARY, generator=random) * spread
        tokens_NT = torch.randint(VOCABULARY, (len(options), 500), generator=random)
        expected_NV = torch.cat(
            [theirs(logits_NV[[row]], tokens_NT[[row]], *option) for row, option in enumerate(options)]
        )
        penalties, temperatures, top_k, top_p, min_p = (torch.tensor(column) for column in zip(*options, strict=True))
        seen_NV = torch.zeros(logits_NV.shape, dtype=torch.bool).scatter_(1, tokens_NT, True)
        filters = Filters(
            top_k=int(top_k.max()),
            top_k_always=bool((top_k[top_p < 1] > 0).all()),
            top_p=bool((top_p < 1).any()),
            min_p=bool((min_p > 0).any()),
        )
        ours_NV = scale(penalise_repetition(logits_NV, seen_NV, penalties), temperatures)
        ours_NV = torch.softmax(keep_likely(ours_NV, top_k, top_p, min_p, filters), -1)
        assert ((ours_NV > 0) == (expected_NV > 0)).all()
        torch.testing.assert_close(ours_NV, expected_NV, atol=1e-6, rtol=1e-4)


def test_the_order_of_transformers_is_the_order_that_it_builds() -> None:
    """`generate` itself puts the processors in this order; a later version that changes it shows here."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=1))
    options = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2}
    chain = model._get_logits_processor(GenerationConfig(do_sample=True, **options), 1, device="cpu")
    names = ["RepetitionPenaltyLogitsProcessor"]
    names += [f"{name}LogitsWarper" for name in ("Temperature", "TopK", "TopP", "MinP")]
    assert [type(processor).__name__ for processor in chain] == names
