"""The import_model stage: models from elsewhere come in whole, with their tokenizer, or are refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES, Tokenizer, train_tokenizer
from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.formats.hugging_face import export_weights
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.folder import open_model
from pocketlm.stages.import_model import ImportModelSettings, identity, import_model
from tests.chat_templates import DEFAULT_SYSTEM
from tests.gguf_files import theirs, write_gguf
from tests.posttraining_world import VOCABULARY, World, model_artifact, small_model, small_tokenizer

CPU = torch.device("cpu")


def run(folder: Path, **settings: Any) -> Artifact:
    return import_model.function(ImportModelSettings(**settings), Inputs({}), World(folder, "import_model").context)


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    export_weights(small_model(seed=3), folder, 0, 2, torch.bfloat16)
    write_tokenizer(folder, small_tokenizer())
    return folder


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A file with the tokens of the small tokenizer, and `tokenizer.json` beside it."""
    write_tokenizer(tmp_path, small_tokenizer())
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    model = theirs("qwen3", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, head_dim=16)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    write_gguf(tmp_path / "small.gguf", model, ("Q8_0", "Q4_1"), tokens, template=DEFAULT_SYSTEM)
    return tmp_path / "small.gguf"


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.definition()), encoding="utf-8")


def test_a_hugging_face_folder_becomes_a_model_artifact(tmp_path: Path, hugging_face: Path) -> None:
    made = run(tmp_path, path=str(hugging_face))
    model, tokenizer = open_model(made, CPU)
    for name, weight in small_model(seed=3).state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.bfloat16().float()), name
    assert made.file("tokenizer.json").read_bytes() == (hugging_face / "tokenizer.json").read_bytes()
    assert all(made.file(name).is_file() for name in TOKENIZER_FILES)
    assert tokenizer.vocabulary == made.metrics["vocabulary"] == VOCABULARY
    assert made.metrics["parameters"] == sum(weight.numel() for weight in model.parameters())


def test_a_shorter_context_is_the_same_model_for_shorter_texts(tmp_path: Path, hugging_face: Path) -> None:
    whole, _ = open_model(run(tmp_path / "whole", path=str(hugging_face)), CPU)
    made = run(tmp_path / "short", path=str(hugging_face), context=40)
    short, _ = open_model(made, CPU)
    assert (short.settings.context, made.metrics["context"], whole.settings.context) == (40, 40, 96)
    tokens_BT = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(short(tokens_BT), whole(tokens_BT))
    with pytest.raises(InputError, match=r"import_model\.context: 97 is more than the model's own context of 96"):
        run(tmp_path / "long", path=str(hugging_face), context=97)


def test_a_gguf_file_becomes_a_model_artifact(tmp_path: Path, gguf: Path) -> None:
    made = run(tmp_path, path=str(gguf), tokenizer=str(gguf.parent))
    model, _ = open_model(made, CPU)
    assert model.settings.layout == "qwen3"
    assert made.file("chat_template.jinja").read_text(encoding="utf-8") == DEFAULT_SYSTEM
    assert made.read_json("tokenizer_config.json")["eos_token"] == "<|im_end|>"
    shown = json.dumps(made.read_json("figures.json"))
    assert "8 Q8_0" in shown
    assert "7 Q4_1" in shown


def test_a_chat_template_comes_with_its_model(tmp_path: Path, hugging_face: Path) -> None:
    known = identity(ImportModelSettings(path=str(hugging_face)))
    assert run(tmp_path / "plain", path=str(hugging_face)).metrics["chat_template"] == "ChatML"
    configuration = {"chat_template": DEFAULT_SYSTEM, "eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    (hugging_face / "tokenizer_config.json").write_text(json.dumps(configuration), encoding="utf-8")
    assert identity(ImportModelSettings(path=str(hugging_face))) != known
    made = run(tmp_path / "own", path=str(hugging_face))
    assert made.metrics["chat_template"] == "its own"
    assert made.file("chat_template.jinja").read_text(encoding="utf-8") == DEFAULT_SYSTEM
    assert made.read_json("tokenizer_config.json")["bos_token"] == "<|im_start|>"
    _, tokenizer = open_model(made, CPU)
    assert tokenizer.chat_template is not None
    assert tokenizer.turn_end == tokenizer.im_end


def test_an_artifact_of_another_run_is_taken_as_it_is(tmp_path: Path) -> None:
    source = model_artifact(tmp_path / "artifacts" / "pretrain", small_model(seed=4))
    made = run(tmp_path, path=str(source.path))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert made.file(name).read_bytes() == source.file(name).read_bytes()


def test_identity_is_content_not_place(tmp_path: Path, hugging_face: Path, gguf: Path) -> None:
    known = identity(ImportModelSettings(path=str(hugging_face)))
    moved = hugging_face.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("nothing that is read")
    assert identity(ImportModelSettings(path=str(moved))) == known
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    assert identity(ImportModelSettings(path=str(moved))) != known
    settings = ImportModelSettings(path=str(gguf), tokenizer=str(gguf.parent / "tokenizer.json"))
    known = identity(settings)
    shutil.copyfile(gguf, tmp_path / "renamed.gguf")
    assert identity(ImportModelSettings(path=str(tmp_path / "renamed.gguf"), tokenizer=str(gguf.parent))) == known
    (gguf.parent / "tokenizer.json").write_text("{}")
    assert identity(settings) != known
    assert ImportModelSettings(path="a").identity() == ImportModelSettings(path="b").identity()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"brings no tokenizer\.json"):
        ImportModelSettings(path="model.gguf")
    with pytest.raises(ValidationError, match="would do nothing"):
        ImportModelSettings(path="folder", tokenizer="tokenizer.json")


def test_bad_paths_are_named_before_anything_runs(tmp_path: Path, hugging_face: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean .*theirs"):
        identity(ImportModelSettings(path=str(tmp_path / "their")))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="tokenizer: there is no file"):
        identity(ImportModelSettings(path=str(tmp_path / "a.gguf"), tokenizer=str(tmp_path)))
    with pytest.raises(InputError, match="path: there is no file"):
        identity(ImportModelSettings(path=str(tmp_path / "b.gguf"), tokenizer=str(hugging_face)))
    (hugging_face / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no model"):
        identity(ImportModelSettings(path=str(hugging_face)))


def test_a_folder_with_nothing_but_pickles_is_refused(tmp_path: Path, hugging_face: Path) -> None:
    (hugging_face / "model.safetensors").rename(hugging_face / "pytorch_model.bin")
    settings = ImportModelSettings(path=str(hugging_face))
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle"):
        identity(settings)


def test_another_tokenizer_of_the_same_size_is_refused(tmp_path: Path, gguf: Path) -> None:
    other = Tokenizer(train_tokenizer(["some other text of quite a few other words, with more of them"], VOCABULARY))
    write_tokenizer(gguf.parent, other)
    with pytest.raises(InputError, match=r"token \d+ of the GGUF file is .* another tokenizer"):
        run(tmp_path, path=str(gguf), tokenizer=str(gguf.parent))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, hugging_face: Path) -> None:
    file = hugging_face / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, file)
    with pytest.raises(CorruptionError, match=r"blocks\.1\.mlp\.gate_up\.weight holds values that are not finite"):
        run(tmp_path, path=str(hugging_face))
    assert not (tmp_path / "made").exists() or not list((tmp_path / "made").iterdir())
