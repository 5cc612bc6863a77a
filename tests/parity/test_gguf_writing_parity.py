"""GGUF files that we write, read by transformers; and beside a file that gguf writes from transformers' weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocketlm.model.formats.gguf import load_gguf
from pocketlm.model.formats.gguf_file import GGUFFile
from pocketlm.model.formats.gguf_types import FILE_TYPES
from pocketlm.model.formats.gguf_vocabulary import Vocabulary
from pocketlm.model.formats.gguf_writing import write_gguf
from pocketlm.model.formats.hugging_face import load_hugging_face, to_hugging_face
from tests import gguf_files

TOKENS_BT = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(0))
TOKENS = [f"token{number}" for number in range(50)]
VOCABULARY = Vocabulary("qwen2", TOKENS, [1] * 50, ["t o"], {"bos": 0, "eos": 1}, "{{ messages }}")


@torch.no_grad()
@pytest.mark.parametrize("file_type", list(FILE_TYPES))
@pytest.mark.parametrize(("layout", "tied", "kv_heads"), [("llama", True, 1), ("llama", False, 2), ("qwen3", True, 2)])
def test_transformers_reads_the_weights_that_we_read(
    tmp_path: Path, layout: str, tied: bool, kv_heads: int, file_type: str
) -> None:
    from transformers import AutoModelForCausalLM

    theirs = gguf_files.theirs(layout, tie_word_embeddings=tied, num_key_value_heads=kv_heads)
    theirs.save_pretrained(tmp_path / "hf")
    model = load_hugging_face(tmp_path / "hf")
    write_gguf(tmp_path / "small.gguf", model, VOCABULARY, file_type, {})
    ours = load_gguf(tmp_path / "small.gguf")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="small.gguf", dtype=torch.float32).eval()
    weights = read.state_dict()
    for name, weight in to_hugging_face(ours).items():
        assert torch.equal(weights[name], weight), name
    logits_BTV = read(TOKENS_BT).logits
    assert (logits_BTV - ours(TOKENS_BT)).abs().max() <= 1e-4
    if file_type == "f32":
        assert (logits_BTV - theirs(TOKENS_BT).logits).abs().max() <= 1e-4


@pytest.mark.parametrize("layout", ["llama", "qwen3"])
@pytest.mark.parametrize("file_type", ["f32", "f16", "bf16", "q8_0"])
def test_the_tensors_are_those_of_a_file_made_from_transformers_weights(
    tmp_path: Path, layout: str, file_type: str
) -> None:
    theirs = gguf_files.theirs(layout)
    gguf_files.write_gguf(tmp_path / "theirs.gguf", theirs, (FILE_TYPES[file_type].kind,))
    theirs.save_pretrained(tmp_path / "hf")
    write_gguf(tmp_path / "ours.gguf", load_hugging_face(tmp_path / "hf"), VOCABULARY, file_type, {})
    files = [GGUFFile(tmp_path / name) for name in ("ours.gguf", "theirs.gguf")]
    contents = [
        {
            name: (place.kind, place.shape, file.path.read_bytes()[place.offset : place.offset + place.size])
            for name, place in file.tensors.items()
        }
        for file in files
    ]
    assert contents[0] == contents[1]
    shared = {key for file in files for key in file.metadata if key.startswith(layout)}
    assert {key: files[0].metadata[key] for key in shared} == {key: files[1].metadata[key] for key in shared}
