"""Stage `import_model`: a model that was made elsewhere, as the start of training, tuning or evaluation.

In: nothing from the run; a Hugging Face folder (Llama or Qwen3), a GGUF file with its tokenizer, a run or a model
artifact, and a LoRA adapter in peft's format if the weights are to be merged with one. Out: the model in fp32 with its
tokenizer.json, byte for byte, and its own chat template; ours where it has none. An embedding may have more rows than
its tokenizer has tokens, for many are padded to a round number; not fewer.

Nothing that is read can run code: safetensors, JSON and GGUF only. What our decoder would compute otherwise than the
model's own code (biases, sliding windows, other activations or rotary scalings) is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import EXECUTION, Place, Settings
from pocketlm.pipeline.stage import Inputs, Rederived, stage
from pocketlm.pipeline.storage import digest_of

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

GGUF = ".gguf"


class ImportModelSettings(Settings):
    """Where the model lies; its content enters the identity, its place does not."""

    path: Annotated[Place, EXECUTION]
    """A Hugging Face folder, a run, a model artifact, or a file that ends with .gguf."""
    tokenizer: Annotated[Place | None, EXECUTION] = None
    """For a GGUF file: the tokenizer.json that it was made with, or a folder that holds it."""
    adapter: Annotated[Place | None, EXECUTION] = None
    """A folder with a LoRA adapter in peft's format that the weights are merged with; unset: none."""
    context: int | None = Field(default=None, gt=0)
    """Longest text that it is used with from here on; unset keeps the model's own. Packed rows are so long: where texts
    are short, a shorter context costs less memory and time."""

    @model_validator(mode="after")
    def _one_tokenizer(self) -> ImportModelSettings:
        if self.path.endswith(GGUF) and self.tokenizer is None:
            raise ValueError("a GGUF file brings no tokenizer.json; name the one that it was made with as `tokenizer`")
        if not self.path.endswith(GGUF) and self.tokenizer is not None:
            raise ValueError("a folder brings its own tokenizer, so `tokenizer` would do nothing")
        return self


def identity(settings: ImportModelSettings) -> str:
    """sha256 over names and content of the files that are read."""
    return digest_of(_described(settings))


def recheck(settings: ImportModelSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """The shape of the stored model, and its weights beside those of the files where they still lie there."""
    from pocketlm.evaluation.models.imported_model import not_as_imported, recheck_import

    outside = not_as_imported(artifact, settings.path, lambda: _described(settings))
    merged = settings.adapter is not None
    return recheck_import(artifact, lambda: _read(settings, _files(settings))[0], outside, merged)


@stage(version=2, inputs={}, output="model", external=identity, recheck=recheck)
def import_model(settings: ImportModelSettings, inputs: Inputs, context: Context) -> Artifact:
    """Read a model that was made elsewhere and check that tokenizer and weights belong together."""
    from pocketlm.data.tokens.chat import CHAT_TEMPLATE
    from pocketlm.data.tokens.chat_template_files import template_of
    from pocketlm.data.tokens.tokenizer import tokenizer_config
    from pocketlm.evaluation.models.imported_model import (
        padding_block,
        read_blocks,
        require_fit,
        shape_metrics,
        shortened,
    )
    from pocketlm.model.formats.gguf import gguf_chat_template
    from pocketlm.model.storage import save_model

    context.progress(0, 1)
    files, described = _files(settings), _described(settings)
    gguf = settings.path.endswith(GGUF)
    model, tokenizer = _read(settings, files)
    if gguf:
        template, special = gguf_chat_template(files["model.gguf"])
    else:
        template, special, _ = template_of(files["tokenizer.json"].parent)
    require_fit(model, tokenizer, settings.path)
    if settings.context is not None:
        model = shortened(model, settings.context)
    content = files["tokenizer.json"].read_bytes()
    if _described(settings) != described:
        raise InputError(f"import_model.path: {settings.path} changed while it was read; run again when it rests")
    draft = context.draft("model")
    save_model(draft.path, model)
    (draft.path / "tokenizer.json").write_bytes(content)
    own = template not in (None, CHAT_TEMPLATE)
    (draft.path / "chat_template.jinja").write_text(template or CHAT_TEMPLATE, encoding="utf-8")
    draft.write_json("tokenizer_config.json", {**tokenizer_config(), **(special if own else {})})
    metrics = shape_metrics(model.settings, "its own" if own else "ChatML")
    blocks = read_blocks(described, files["model.gguf"] if gguf else None)
    return draft.commit(metrics, [*blocks, *padding_block(model.settings)])


def _read(settings: ImportModelSettings, files: Mapping[str, Path]) -> tuple[Transformer, Tokenizer]:
    from pocketlm.evaluation.models.loading import load, load_gguf_file
    from pocketlm.model.formats.peft import merge_adapter

    if settings.path.endswith(GGUF):
        model, tokenizer = load_gguf_file(files["model.gguf"], files["tokenizer.json"])
    else:
        model, tokenizer = load(Path(settings.path))
    if settings.adapter is not None:
        merge_adapter(model, Path(settings.adapter))
    return model, tokenizer


def _files(settings: ImportModelSettings) -> dict[str, Path]:
    from pocketlm.evaluation.models.imported_model import model_files
    from pocketlm.model.formats.peft import adapter_files

    tokenizer = None if settings.tokenizer is None else Path(settings.tokenizer)
    adapter = {} if settings.adapter is None else adapter_files(Path(settings.adapter))
    return model_files(Path(settings.path), tokenizer) | adapter


def _described(settings: ImportModelSettings) -> dict[str, dict[str, Any]]:
    from pocketlm.evaluation.models.imported_model import described

    return described(_files(settings))
