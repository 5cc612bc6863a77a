"""A tokenizer that is not the model's, or a broken chat form, is refused before any step, whatever its vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.examples import asked_prompts
from pocketlm.posttraining.folder import open_model, write_model
from pocketlm.stages.interpolate import InterpolateSettings, interpolate
from tests import posttraining_world as world


def changed(folder: Path, source: Artifact, name: str, content: str) -> Artifact:
    """The same model with another file beside it."""
    draft = Draft(folder, {"kind": "model", "stage": folder.name, "version": 1, "fingerprint": folder.name})
    write_model(draft, world.small_model(), source)
    (draft.path / name).write_text(content, encoding="utf-8")
    return draft.commit({})


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return world.model_artifact(tmp_path / "model", world.small_model())


def test_a_broken_chat_form_is_refused_when_it_is_asked_for(tmp_path: Path, model: Artifact) -> None:
    foreign = changed(tmp_path / "foreign", model, "chat_template.jinja", "{% for message in messages %}")
    _, tokenizer = open_model(foreign, torch.device("cpu"))
    with pytest.raises(InputError, match=r"foreign/chat_template\.jinja: the chat template cannot be rendered"):
        asked_prompts(tokenizer, [{"id": "row/1", "prompt": "1+1="}])


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path, model: Artifact) -> None:
    tokenizer: dict[str, Any] = json.loads(model.file("tokenizer.json").read_text(encoding="utf-8"))
    last = max(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    del tokenizer["model"]["vocab"][last]
    tokenizer["model"]["merges"].pop()
    foreign = changed(tmp_path / "foreign", model, "tokenizer.json", json.dumps(tokenizer))
    with pytest.raises(InputError, match="they were not made for each other"):
        open_model(foreign, torch.device("cpu"))


def test_models_of_two_tokenizers_of_one_size_are_not_mixed(tmp_path: Path, model: Artifact) -> None:
    tokenizer: dict[str, Any] = json.loads(model.file("tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    foreign = changed(tmp_path / "foreign", model, "tokenizer.json", json.dumps(tokenizer))
    open_model(foreign, torch.device("cpu"))  # by itself it is a model like any other
    inputs = Inputs({"base": model, "tuned": foreign})
    with pytest.raises(InputError, match="model and foreign have different tokenizers"):
        interpolate.function(InterpolateSettings(), inputs, world.World(tmp_path, "interpolate").context)
