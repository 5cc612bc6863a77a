"""Stage `tokenizer`: a byte-level BPE tokenizer learned from the curated training text.

All 256 bytes are tokens, digits stand alone (arithmetic can be learned digit by digit), the chat form's special tokens
have the ids 0, 1, 2. The folder loads in transformers with `AutoTokenizer.from_pretrained`.
"""

from __future__ import annotations

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, stage


class TokenizerSettings(Settings):
    """Size of the vocabulary: 3 special tokens, 256 bytes, the rest learned merges."""

    vocabulary: int = Field(default=2048, ge=259, le=1_000_000)


@stage(version=1, inputs={"documents": "documents"}, output="tokenizer")
def tokenizer(settings: TokenizerSettings, inputs: Inputs, context: Context) -> Artifact:
    """Learn the merges from train.parquet; report the compression on held-out text, which it has not seen."""
    from pocketlm.data.chat import CHAT_TEMPLATE
    from pocketlm.data.documents import read_documents
    from pocketlm.data.tokenizer import Tokenizer, tokenizer_config, train_tokenizer
    from pocketlm.data.tokenizer_figures import compression_block, longest_tokens_block, measure_compression

    texts = read_documents(inputs["documents"].file("train.parquet"))["text"].to_pylist()
    unseen = read_documents(inputs["documents"].file("heldout_selection.parquet"))["text"].to_pylist()
    context.progress(0, 1)
    context.check_stop()
    trained = train_tokenizer(texts, settings.vocabulary)

    draft = context.draft("tokenizer")
    (draft.path / "tokenizer.json").write_text(trained.to_str(pretty=False), encoding="utf-8")
    (draft.path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    draft.write_json("tokenizer_config.json", tokenizer_config())
    loaded = Tokenizer.load(draft.path)
    compression = measure_compression(loaded, unseen)
    metrics = {
        "vocabulary": loaded.vocabulary,
        "training_bytes": sum(len(text.encode()) for text in texts),
        "heldout_selection.bytes_per_token": compression.bytes_per_token,
        "heldout_selection.tokens_per_word": compression.tokens_per_word,
        "heldout_selection.used_share": compression.used_share,
    }
    return draft.commit(metrics, [compression_block(compression), longest_tokens_block(loaded)])
