"""Stage `tokenizer`: a byte-level BPE tokenizer learned from the curated training text, or one that is given.

Learned: all 256 bytes are tokens, digits stand alone (arithmetic can be learned digit by digit), the chat form's
special tokens have the ids 0, 1, 2. Given by `path`: its tokenizer.json is kept byte for byte, the chat form is ours.
Given by the input `model`: that model's tokenizer with its chat form. The folder loads in transformers with
`AutoTokenizer.from_pretrained`.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import EXECUTION, Place, Settings
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage


class TokenizerSettings(Settings):
    """Size of the vocabulary and how much text it is learned from; or a tokenizer that exists."""

    vocabulary: int = Field(default=2048, ge=259, le=1_000_000)
    """Number of ids: 3 special tokens, 256 bytes, the rest learned merges."""
    maximum_bytes: int = Field(default=100_000_000, ge=1)
    """Text to learn from; of a larger corpus, documents are chosen by the hash of their content."""
    path: Annotated[Place | None, EXECUTION] = None
    """Folder with tokenizer.json (or that file) to take instead; its content enters the identity, the path does not."""

    @model_validator(mode="after")
    def _learned_or_given(self) -> TokenizerSettings:
        # Compared with the defaults: the recipe of a run states every setting.
        fields = type(self).model_fields
        given = [name for name in ("maximum_bytes", "vocabulary") if getattr(self, name) != fields[name].default]
        if self.path is not None and given:
            raise ValueError(f"a tokenizer is given (path), so {' and '.join(given)} would do nothing")
        return self


def identity(settings: TokenizerSettings) -> str:
    """sha256 of the given tokenizer.json; empty when the tokenizer is learned."""
    return sha256(_read(settings.path)).hexdigest() if settings.path is not None else ""


def recheck(settings: TokenizerSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Measure the compression again, and learn the tokenizer again where it was learned from little text."""
    from pocketlm.data.tokens.recheck import recheck_tokenizer

    vocabulary = settings.vocabulary if settings.path is None else None
    return recheck_tokenizer(artifact, inputs["documents"], inputs.get("model"), vocabulary, settings.maximum_bytes)


@stage(
    version=2,
    inputs={"documents": "documents", "model": optional("model")},
    output="tokenizer",
    external=identity,
    recheck=recheck,
)
def tokenizer(settings: TokenizerSettings, inputs: Inputs, context: Context) -> Artifact:
    """Learn the merges from train.parquet, or take what is given; report the compression on held-out text."""
    from pocketlm.data.tokens.chat import CHAT_TEMPLATE
    from pocketlm.data.tokens.fast_encoding import FastEncoder
    from pocketlm.data.tokens.tokenizer import Tokenizer, build_tokenizer, copy_tokenizer, tokenizer_config
    from pocketlm.data.tokens.tokenizer_figures import compression_block, longest_tokens_block, measure_compression
    from pocketlm.data.tokens.tokenizer_text import count_pieces

    context.progress(0, 1)
    metrics: dict[str, float] = {}
    draft = context.draft("tokenizer")
    if (model := inputs.get("model")) is not None:
        _refuse_beside_model(settings)
        copy_tokenizer(model.path, draft.path)
    else:
        if settings.path is not None:
            content = _read(settings.path)
        else:
            text = inputs["documents"].file("train.parquet")
            sample = count_pieces(text, settings.maximum_bytes, context.check_stop)
            content = build_tokenizer(sample.pieces, settings.vocabulary).to_str(pretty=False).encode()
            metrics = {"training_bytes": sample.bytes, "training_documents": sample.documents}
        (draft.path / "tokenizer.json").write_bytes(content)
        (draft.path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        draft.write_json("tokenizer_config.json", tokenizer_config())
    loaded = Tokenizer.load(draft.path)
    compression = measure_compression(FastEncoder(loaded), inputs["documents"].file("heldout_selection.parquet"))
    metrics |= {
        "vocabulary": loaded.vocabulary,
        "heldout_selection.bytes_per_token": compression.bytes_per_token,
        "heldout_selection.tokens_per_word": compression.tokens_per_word,
        "heldout_selection.used_share": compression.used_share,
    }
    return draft.commit(metrics, [compression_block(compression), longest_tokens_block(loaded)])


def _refuse_beside_model(settings: TokenizerSettings) -> None:
    if settings != TokenizerSettings():
        raise InputError(
            "tokenizer: the input `model` brings its tokenizer, so vocabulary, maximum_bytes and path would do "
            "nothing; leave them out"
        )


def _read(path: str) -> bytes:
    file = Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"tokenizer.path: {file} cannot be read ({error.strerror}).") from error
