"""Stage `import_model`: a model that was made elsewhere, as the start of training, tuning or evaluation.

In: nothing from the run; a Hugging Face folder (Llama or Qwen3), a GGUF file with its tokenizer, a run or a model
artifact. Out: the model in fp32 with its tokenizer.json, byte for byte, and its own chat template; ours where it has
none. An embedding may have more rows than its tokenizer has tokens, for many are padded to a round number; not fewer.

Nothing that is read can run code: safetensors, JSON and GGUF only. What our decoder would compute otherwise than the
model's own code (biases, sliding windows, other activations or rotary scalings) is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import paragraph, table
from pocketlm.pipeline.settings import EXECUTION, Settings
from pocketlm.pipeline.stage import Inputs, stage
from pocketlm.pipeline.storage import digest_of, sha256_file

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

GGUF = ".gguf"


class ImportModelSettings(Settings):
    """Where the model lies; its content enters the identity, its place does not."""

    path: Annotated[str, EXECUTION]
    """A Hugging Face folder, a run, a model artifact, or a file that ends with .gguf."""
    tokenizer: Annotated[str | None, EXECUTION] = None
    """For a GGUF file: the tokenizer.json that it was made with, or a folder that holds it."""
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
    return digest_of(_described(_files(settings)))


@stage(version=2, inputs={}, output="model", external=identity)
def import_model(settings: ImportModelSettings, inputs: Inputs, context: Context) -> Artifact:
    """Read a model that was made elsewhere and check that tokenizer and weights belong together."""
    from pocketlm.data.tokens.chat import CHAT_TEMPLATE
    from pocketlm.data.tokens.chat_template_files import template_of
    from pocketlm.data.tokens.tokenizer import tokenizer_config
    from pocketlm.evaluation.loading import load, load_gguf_file
    from pocketlm.model.formats.gguf import gguf_chat_template, gguf_number_types
    from pocketlm.model.storage import save_model

    context.progress(0, 1)
    files = _files(settings)
    described = _described(files)
    gguf = settings.path.endswith(GGUF)
    if gguf:
        model, tokenizer = load_gguf_file(files["model.gguf"], files["tokenizer.json"])
        template, special = gguf_chat_template(files["model.gguf"])
    else:
        model, tokenizer = load(Path(settings.path).expanduser())
        template, special, _ = template_of(files["tokenizer.json"].parent)
    _require_fit(model, tokenizer, settings.path)
    if settings.context is not None:
        model = _shortened(model, settings.context)
    content = files["tokenizer.json"].read_bytes()
    if _described(files) != described:
        raise InputError(f"import_model.path: {settings.path} changed while it was read; run again when it rests")
    draft = context.draft("model")
    save_model(draft.path, model)
    (draft.path / "tokenizer.json").write_bytes(content)
    own = template not in (None, CHAT_TEMPLATE)
    (draft.path / "chat_template.jinja").write_text(template or CHAT_TEMPLATE, encoding="utf-8")
    draft.write_json("tokenizer_config.json", {**tokenizer_config(), **(special if own else {})})
    rows = [{"file": name, **entry} for name, entry in sorted(described.items())]
    blocks = [table("What was read", ["file", "bytes", "sha256"], rows)]
    if gguf:
        types = ", ".join(f"{count} {kind}" for kind, count in gguf_number_types(files["model.gguf"]).items())
        blocks.append(paragraph(f"Tensors by type: {types}. They are fp32 now; what rounding took is not given back."))
    shape = model.settings
    if padding := shape.vocabulary - shape.known_tokens:
        text = f"The embedding has {padding:,} rows more than the tokenizer has tokens. They are kept and never drawn."
        blocks.append(paragraph(text))
    metrics = {
        "parameters": shape.parameter_count(),
        "vocabulary": shape.vocabulary,
        "tokens": shape.known_tokens,
        "layers": shape.layers,
        "context": shape.context,
        "layout": shape.layout,
        "chat_template": "its own" if own else "ChatML",
    }
    return draft.commit(metrics, blocks)


def _shortened(model: Transformer, context: int) -> Transformer:
    """The same weights for shorter texts."""
    from pocketlm.model.transformer import Transformer

    own = model.settings.context
    if context > own:
        raise InputError(f"import_model.context: {context} is more than the model's own context of {own}; lower it")
    shorter = Transformer(model.settings.model_copy(update={"context": context}))
    shorter.load_state_dict(model.state_dict())
    return shorter


def _files(settings: ImportModelSettings) -> dict[str, Path]:
    """What is read, by the name that enters the identity."""
    path = Path(settings.path).expanduser()
    if settings.tokenizer is not None:
        tokenizer = Path(settings.tokenizer).expanduser()
        tokenizer = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
        for name, file in (("path", path), ("tokenizer", tokenizer)):
            if not file.is_file():
                raise InputError(f"import_model.{name}: there is no file {file}")
        return {"model.gguf": path, "tokenizer.json": tokenizer}
    from pocketlm.evaluation.loading import locate
    from pocketlm.model.formats.hugging_face import weight_files

    folder = locate(path).folder
    files = [folder / "config.json", *weight_files(folder), folder / "tokenizer.json"]
    chat = [folder / name for name in ("chat_template.jinja", "tokenizer_config.json")]
    return {file.name: file for file in [*files, *(file for file in chat if file.is_file())]}


def _described(files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    return {name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in files.items()}


def _require_fit(model: Transformer, tokenizer: Tokenizer, path: str) -> None:
    if tokenizer.vocabulary > model.settings.vocabulary:
        raise InputError(
            f"import_model.path: {path}: the tokenizer has {tokenizer.vocabulary:,} tokens, the model "
            f"{model.settings.vocabulary:,}; give the model that was made for this tokenizer"
        )
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise CorruptionError(f"import_model.path: {path}: tensor {name} holds values that are not finite")
