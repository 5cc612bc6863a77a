"""Decode steps by kernels: those of the plain path, for slots of any lengths, with any threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import numba
import pytest
import torch

from pocketlm.generation.live import LiveEngine
from pocketlm.generation.requests import Request
from pocketlm.model import decode_step
from pocketlm.model.cache import KeyValueCache
from pocketlm.model.config import ModelSettings, RopeScaling
from pocketlm.model.decode_kernels import PIECE
from pocketlm.model.decode_step import MOST_ROWS
from pocketlm.model.lora import adapted_model
from pocketlm.model.lora_settings import LoraSettings
from pocketlm.model.packing import pack
from pocketlm.model.transformer import Transformer

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"layout": "qwen3", "tie_embeddings": False},
    "every head its own keys": {"heads": 3, "kv_heads": 3, "tie_embeddings": False},
    "three groups": {"heads": 6, "kv_heads": 2, "layout": "qwen3"},
    "yarn": {"rope_scaling": RopeScaling(factor=4, original_context=80)},
}
LENGTHS = [*range(2, MOST_ROWS - 3), 1, PIECE - 1, PIECE, 9, 2 * PIECE + 3]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(**shape: Any) -> Transformer:
    """Odd sizes, and gains that are not 1."""
    sizes = {"vocabulary": 101, "width": 37, "layers": 3, "ffn_width": 53, "context": 300}
    heads = {"heads": 4, "kv_heads": 2, "head_dim": 10}
    made = Transformer(ModelSettings(**{**sizes, **heads, **shape})).requires_grad_(False)
    made.init_weights(3)
    generator = torch.Generator().manual_seed(5)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return made


def pair(**shape: Any) -> tuple[Transformer, Transformer]:
    plain = model(**shape)
    packed = copy.deepcopy(plain)
    assert pack(packed)
    return plain, packed


def filled(plain: Transformer, lengths: list[int], first: int = 0) -> KeyValueCache:
    """A cache whose slots from `first` on hold so many tokens."""
    cache = KeyValueCache(plain.settings, first + len(lengths), plain.settings.context)
    tokens = torch.randint(101, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(7))
    rows = cache.rows(slice(first, first + len(lengths)), lengths=torch.tensor(lengths), fresh=True)
    plain.hidden(tokens, cache=rows)
    return cache


def same(cache: KeyValueCache, plain_cache: KeyValueCache) -> None:
    """Positions are equal, and keys and values as far as they go: behind them padding may lie."""
    assert cache.position.tolist() == plain_cache.position.tolist()
    for slot, end in enumerate(cache.position.tolist()):
        for kind in ("keys", "values"):
            found, expected = (getattr(one, kind)[:, slot, :, :end] for one in (cache, plain_cache))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, MOST_ROWS, MOST_ROWS + 1])
@pytest.mark.parametrize("name", SHAPES)
def test_steps_are_the_plain_ones(name: str, rows: int) -> None:
    plain, packed = pair(**SHAPES[name])
    plain_cache = filled(plain, LENGTHS[-rows:] if rows <= MOST_ROWS else [3] * rows)
    cache = copy.deepcopy(plain_cache)
    tokens_N1 = torch.arange(rows).unsqueeze(1) + 11
    for _ in range(20):
        expected = plain(tokens_N1, cache=plain_cache.rows(slice(0, rows)))
        found = packed(tokens_N1, cache=cache.rows(slice(0, rows)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        tokens_N1 = expected.argmax(-1)
    same(cache, plain_cache)


@torch.inference_mode()
def test_a_slot_is_filled_to_the_context_and_no_further() -> None:
    plain, packed = pair()
    context = plain.settings.context
    plain_cache = filled(plain, [5, context - 2, 40], first=1)
    cache = copy.deepcopy(plain_cache)
    tokens_N1 = torch.tensor([[3], [4]])
    for _ in range(2):
        found, expected = (
            one(tokens_N1, cache=held.rows(slice(1, 3))) for one, held in ((packed, cache), (plain, plain_cache))
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    same(cache, plain_cache)
    assert cache.position.tolist() == [0, 7, context, 40]
    with pytest.raises(IndexError):
        packed(tokens_N1, cache=cache.rows(slice(1, 3)))


@torch.inference_mode()
def test_a_row_gives_the_same_bits_beside_others_and_with_other_threads() -> None:
    plain, packed = pair(**SHAPES["three groups"])
    lengths = LENGTHS[-MOST_ROWS:]
    cache = filled(plain, lengths)
    tokens_N1 = torch.arange(MOST_ROWS).unsqueeze(1) + 11
    together = packed(tokens_N1, cache=copy.deepcopy(cache).rows(slice(0, MOST_ROWS)))
    alone = [
        packed(tokens_N1[row : row + 1], cache=copy.deepcopy(cache).rows(slice(row, row + 1)))
        for row in range(MOST_ROWS)
    ]
    assert torch.equal(torch.cat(alone), together)
    torch.set_num_threads(2)
    assert torch.equal(packed(tokens_N1, cache=copy.deepcopy(cache).rows(slice(0, MOST_ROWS))), together)
    assert torch.get_num_threads() == 2


@torch.inference_mode()
def test_what_is_not_a_step_of_few_rows_goes_the_plain_way() -> None:
    plain, packed = pair()
    step = packed.decode_step
    assert step is not None
    cache = filled(plain, [3, 4])
    one, two = torch.tensor([[1]]), torch.tensor([[1], [2]])
    assert step(one.expand(1, 2), cache.rows(slice(0, 1))) is None
    assert step(one, cache.rows(slice(0, 1), fresh=True)) is None
    assert step(two, cache.rows(torch.tensor([1, 0]))) is None
    assert step(two, cache.rows(slice(0, 2), lengths=torch.tensor([1, 0]))) is None
    lowered = KeyValueCache(plain.settings, 1, 20, dtype=torch.bfloat16)
    assert step(one, lowered.rows(slice(0, 1))) is None
    assert cache.position.tolist() == [3, 4]


@torch.inference_mode()
def test_adapters_are_not_left_out() -> None:
    adapted = adapted_model(model(), LoraSettings(rank=2), 1)
    for name, parameter in adapted.named_parameters():
        if name.endswith("lora_B"):
            parameter.fill_(0.1)
    plain = copy.deepcopy(adapted)
    assert pack(adapted)
    assert adapted.decode_step is None
    found, expected = (
        one(torch.tensor([[1]]), cache=KeyValueCache(one.settings, 1, 9).rows(slice(0, 1))) for one in (adapted, plain)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_logits_of_broken_weights_are_not_numbers() -> None:
    broken = model()
    broken.blocks[1].mlp.down.weight[3, 4] = torch.nan
    assert pack(broken)
    cache = KeyValueCache(broken.settings, 1, 20)
    assert broken(torch.tensor([[1]]), cache=cache.rows(slice(0, 1))).isnan().all()


def texts(one: Transformer, first: int = 0) -> dict[int, list[int]]:
    engine = LiveEngine(one, slots=6)
    for number in range(first, first + 8):
        engine.add(Request([number + 1, 5, 9, *range(number)], max_tokens=6 + 3 * number, temperature=0.0))
    found = {}
    while engine.active or engine.waiting:
        found.update({item.ticket: item.completion.tokens for item in engine.advance() if item.completion})
    return found


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_says_the_same(threads: int) -> None:
    torch.set_num_threads(threads)
    plain, packed = pair(layout="qwen3")
    assert texts(packed) == texts(plain)


@pytest.mark.parametrize("alone", [True, False])
def test_two_threads_do_not_mix(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if alone:  # as with numba's own pool of threads, which two must not enter
        monkeypatch.setattr(decode_step.numba, "threading_layer", lambda: "workqueue")
    plain, packed = pair()
    expected = [texts(plain, first) for first in (0, 4)]
    found: list[dict[int, list[int]]] = [{}, {}]

    def speak(place: int) -> None:
        torch.set_num_threads(2)
        found[place] = texts(packed, 4 * place)

    speakers = [threading.Thread(target=speak, args=(place,)) for place in (0, 1)]
    for speaker in speakers:
        speaker.start()
    for speaker in speakers:
        speaker.join()
    assert found == expected


def test_numba_takes_no_more_threads_than_it_may() -> None:
    plain, packed = pair()
    torch.set_num_threads(numba.config.NUMBA_NUM_THREADS + 3)
    cache = filled(plain, [3])
    assert packed(torch.tensor([[1]]), cache=cache.rows(slice(0, 1))).isfinite().all()
    assert torch.get_num_threads() == numba.config.NUMBA_NUM_THREADS + 3
