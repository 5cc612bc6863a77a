"""Decoding through the cache equals a full forward pass, whatever the slots, lengths and the order of use."""

import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.model.cache import KeyValueCache
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from tests.small_training import SHAPE, make_model

LENGTHS = torch.tensor([6, 1, 4])


@pytest.fixture(params=[("llama", 1), ("llama", 4), ("qwen3", 2)], ids=str)
def model(request: pytest.FixtureRequest) -> Transformer:
    layout, kv_heads = request.param
    return make_model(ModelSettings(**{**SHAPE.model_dump(), "layout": layout, "kv_heads": kv_heads}))


@pytest.fixture
def tokens_BT() -> torch.Tensor:
    return torch.randint(SHAPE.vocabulary, (3, SHAPE.context), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("slots", [torch.tensor([4, 0, 2]), slice(0, 3)], ids=["chosen", "in front"])
def test_prefill_and_decode_equal_a_full_forward_pass(
    model: Transformer, tokens_BT: torch.Tensor, slots: torch.Tensor | slice
) -> None:
    full_BTV = model(tokens_BT)
    cache = KeyValueCache(model.settings, slots=5, length=SHAPE.context)
    prompt_BTV = model(tokens_BT[:, :6], cache=cache.rows(slots, lengths=LENGTHS, fresh=True))
    rows = torch.arange(3)
    torch.testing.assert_close(prompt_BTV[rows, LENGTHS - 1], full_BTV[rows, LENGTHS - 1], atol=1e-5, rtol=0)
    for taken in range(8):
        place = LENGTHS + taken
        step_B1V = model(tokens_BT[rows, place].unsqueeze(1), cache=cache.rows(slots, extent=6 + taken + 1))
        torch.testing.assert_close(step_B1V[:, 0], full_BTV[rows, place], atol=1e-5, rtol=0)
    assert cache.position[slots].tolist() == (LENGTHS + 8).tolist()


@torch.no_grad()
def test_a_subset_of_slots_advances_alone_and_slots_are_used_again(model: Transformer, tokens_BT: torch.Tensor) -> None:
    cache = KeyValueCache(model.settings, slots=4, length=SHAPE.context)
    model(tokens_BT[:, :9], cache=cache.rows(slice(0, 3), fresh=True))
    model(tokens_BT[1:2, 9:10], cache=cache.rows(torch.tensor([1])))
    assert cache.position.tolist() == [9, 10, 9, 0]
    again_BTV = model(tokens_BT[2:, :5], cache=cache.rows(torch.tensor([0]), fresh=True))
    torch.testing.assert_close(again_BTV, model(tokens_BT[2:, :5]))
    next_BTV = model(tokens_BT[2:, 5:6], cache=cache.rows(torch.tensor([0])))
    torch.testing.assert_close(next_BTV[:, 0], model(tokens_BT[2:])[:, 5], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_prompt_is_continued_by_several_tokens_at_once(model: Transformer, tokens_BT: torch.Tensor) -> None:
    cache = KeyValueCache(model.settings, slots=3, length=SHAPE.context)
    model(tokens_BT[:, :6], cache=cache.rows(slice(0, 3), lengths=LENGTHS, fresh=True))
    # Row 0 holds 6 tokens, so its next ones start at 6.
    more_BTV = model(tokens_BT[:1, 6:12], cache=cache.rows(torch.tensor([0])))
    torch.testing.assert_close(more_BTV, model(tokens_BT[:1])[:, 6:12], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_copied_slot_continues_like_its_source(model: Transformer, tokens_BT: torch.Tensor) -> None:
    cache = KeyValueCache(model.settings, slots=5, length=SHAPE.context)
    model(tokens_BT[:1, :7], cache=cache.rows(torch.tensor([1]), fresh=True))
    cache.copy(torch.tensor([1, 1]), torch.tensor([3, 4]), extent=7)
    logits_BTV = model(tokens_BT[:1, 7:8].expand(2, 1), cache=cache.rows(torch.tensor([3, 4])))
    expected_V = model(tokens_BT[:1])[0, 7]
    torch.testing.assert_close(logits_BTV[:, 0], expected_V.expand(2, -1), atol=1e-5, rtol=0)


def test_a_cache_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="longer than the model's context of 16"):
        KeyValueCache(SHAPE, slots=1, length=17)
