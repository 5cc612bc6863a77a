"""Damaged and hostile GGUF files: refused by name, no crash, and memory that the size of the file bounds."""

from __future__ import annotations

import resource
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.formats.gguf import load_gguf
from tests.gguf_files import theirs, write_gguf

SHAPE = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 16}


@cache
def small_model() -> Any:
    return theirs("llama", **SHAPE)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    write_gguf(path, small_model(), ("Q8_0", "F16"), tokens=[f"t{number}" for number in range(50)])
    load_gguf(path)
    return path.read_bytes()


def load(folder: Path, data: bytes) -> None:
    path = folder / "bad.gguf"
    path.write_bytes(data)
    load_gguf(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, sound: bytes) -> None:
    ends = [*range(0, 1600, 7), *range(1600, len(sound) - 32, 501)]
    for end in ends:
        with pytest.raises(CorruptionError, match=r"bad\.gguf"):
            load(tmp_path, sound[:end])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2600), value=st.integers(0, 255), width=st.sampled_from([1, 2, 8]))
def test_flipped_bytes_of_the_header_end_in_a_model_or_a_message(
    tmp_path: Path, sound: bytes, place: int, value: int, width: int
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(InputError):
        load(tmp_path, sound[:place] + bytes([value]) * width + sound[place + width :])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} KiB for a file of {len(sound)} bytes"


def header(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, sides: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


ARRAY = struct.pack("<I", 9)
PADDING = bytes(4096)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x80\x04pickle", "does not begin with GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
        (header(version=1), "version 1"),
        (header(tensors=1 << 60), "1,152,921,504,606,846,976 tensors"),
        (header(entries=1 << 60), "metadata entries"),
        (header(entries=1) + struct.pack("<Q", 1 << 63), "within its header"),
        (header(entries=1) + text(b"key") + struct.pack("<I", 99), "unknown type 99"),
        (header(entries=1) + text(b"key") + ARRAY + struct.pack("<IQ", 4, 1 << 62), "within its header"),
        (header(entries=1) + text(b"key") + ARRAY + struct.pack("<IQ", 8, 1 << 62) + PADDING, "within its header"),
        (header(entries=1) + text(b"key") + ARRAY + struct.pack("<IQ", 9, 1), "array of the type 9"),
        (header(entries=1) + text(b"\xff\xfe") + PADDING, "not UTF-8"),
        (header(entries=2) + 2 * (text(b"key") + struct.pack("<IB", 7, 1)), "'key' twice"),
        (header(entries=1) + text(b"general.alignment") + struct.pack("<II", 4, 3), "power of two"),
        (header(tensors=1) + text(b"a") + struct.pack("<I", 1 << 31) + PADDING, "dimensions"),
        (header(tensors=1) + tensor(b"a", (1 << 63, 1 << 63), 0, 0) + PADDING, "outside of the file"),
        (header(tensors=1) + tensor(b"a", (0, 4), 0, 0) + PADDING, "cannot store"),
        (header(tensors=1) + tensor(b"a", (33,), 8, 0) + PADDING, "Q8_0 cannot store"),
        (header(tensors=1) + tensor(b"a", (32,), 0, 8000) + PADDING, "outside of the file"),
        (header(tensors=1) + tensor(b"a", (32,), 0, 7) + PADDING, "outside of the file"),
        (header(tensors=1) + tensor(b"a", (256,), 16, 0) + PADDING, "IQ2_XXS"),
        (header(tensors=1) + tensor(b"a", (32,), 77, 0) + PADDING, "type 77"),
        (header(tensors=2) + tensor(b"a", (32,), 0, 0) + tensor(b"a", (32,), 0, 128) + PADDING, "twice"),
        (header(tensors=2) + tensor(b"a", (32,), 0, 0) + tensor(b"b", (32,), 0, 64) + PADDING, "overlap"),
    ],
)
def test_each_lie_of_a_header_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention.head_count": None}, r"no llama\.attention\.head_count"),
        ({"attention.head_count": 4_000_000_000, "attention.head_count_kv": 3}, "head_count is 4000000000"),
        ({"attention.head_count_kv": [1, 2]}, "head_count_kv is an array"),
        ({"attention.head_count_kv": 3}, "divisor of heads"),
        ({"block_count": 4_000_000_000}, "4000000000; one number"),
        ({"block_count": 1_000_000}, "1,000,000 layers"),
        ({"block_count": 1}, r"hold blk\.1\."),
        ({"block_count": 3}, r"no tensor blk\.2\."),
        ({"embedding_length": 0}, "embedding_length is 0"),
        ({"embedding_length": 1_000_000_000}, r"token_embd\.weight is \[50, 32\]"),
        ({"feed_forward_length": 2_000_000_000}, "rows or columns"),
        ({"context_length": 2_000_000_000}, "2,000,000,000 positions"),
        ({"attention.key_length": 32}, r"value_length is 16"),
        ({"rope.dimension_count": 8}, r"rope\.dimension_count is 8"),
        ({"rope.freq_base": 1}, "not a floating-point number"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "norm_epsilon"),
        ({"vocab_size": 51}, "51 tokens, the embedding has 50"),
        ({"expert_count": 8}, r"llama\.expert_count = 8"),
        ({"attention.sliding_window": 512}, r"sliding_window = 512"),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, r"rope\.scaling"),
        ({"logit_scale": 0.5}, r"logit_scale = 0\.5"),
    ],
)
def test_metadata_without_a_counterpart_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_gguf(tmp_path / "bad.gguf", small_model(), changes=changes)
    with pytest.raises(InputError, match=message):
        load_gguf(tmp_path / "bad.gguf")


def test_neutral_metadata_change_nothing(tmp_path: Path) -> None:
    neutral = {"expert_count": 0, "rope.scaling.type": "none", "attention.causal": True}
    write_gguf(tmp_path / "neutral.gguf", small_model(), changes=neutral)
    write_gguf(tmp_path / "plain.gguf", small_model())
    plain = load_gguf(tmp_path / "plain.gguf").state_dict()
    assert all(torch.equal(plain[n], w) for n, w in load_gguf(tmp_path / "neutral.gguf").state_dict().items())


def test_other_architectures_tensors_and_vocabularies_are_named(tmp_path: Path) -> None:
    bias = {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
    write_gguf(tmp_path / "bias.gguf", small_model(), more=bias)
    with pytest.raises(InputError, match=r"hold blk\.0\.attn_q\.bias"):
        load_gguf(tmp_path / "bias.gguf")
    write_gguf(tmp_path / "tokens.gguf", small_model(), tokens=["a", "b"])
    with pytest.raises(CorruptionError, match="2 tokens, the embedding has 50"):
        load_gguf(tmp_path / "tokens.gguf")
    writer = gguf.GGUFWriter(tmp_path / "gpt2.gguf", "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="'gpt2'; llama and qwen3"):
        load_gguf(tmp_path / "gpt2.gguf")
    with pytest.raises(InputError, match="cannot be read"):
        load_gguf(tmp_path / "nowhere.gguf")
    with pytest.raises(InputError, match="cannot be read"):
        load_gguf(tmp_path)
