"""Tokenizers and token files against the text that they were made from, once more."""

from __future__ import annotations

from typing import Any

import numpy as np

from pocketlm.data.documents import count_units, iterate_documents, text_bytes
from pocketlm.data.tokens.fast_encoding import FastEncoder
from pocketlm.data.tokens.shards import SPLITS, TokenShard
from pocketlm.data.tokens.token_units import CheckCounts, encode_unit, units_of
from pocketlm.data.tokens.tokenizer import Tokenizer, build_tokenizer
from pocketlm.data.tokens.tokenizer_figures import compression_block, longest_tokens_block, measure_compression
from pocketlm.data.tokens.tokenizer_text import count_pieces
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.stage import Rederived
from pocketlm.pipeline.storage import sha256_file

ENCODED_BYTES = 32_000_000
"""Text that is encoded again; of a larger corpus, units drawn by the seed."""
LEARNED_BYTES = 16_000_000
"""Text from which a tokenizer is learned again."""


def recheck_tokenizer(
    artifact: Artifact, documents: Artifact, model: Artifact | None, vocabulary: int | None, maximum_bytes: int
) -> Rederived:
    """Compression on held-out text, and the tokenizer itself: learned again, or that of the model or file.

    Args:
        vocabulary: None for a tokenizer that was given.
    """
    loaded = Tokenizer.load(artifact.path)
    compression = measure_compression(FastEncoder(loaded), documents.file("heldout_selection.parquet"))
    metrics: dict[str, Any] = {
        "vocabulary": loaded.vocabulary,
        "heldout_selection.bytes_per_token": compression.bytes_per_token,
        "heldout_selection.tokens_per_word": compression.tokens_per_word,
        "heldout_selection.used_share": compression.used_share,
    }
    lines, sampled, own = [], "", artifact.file("tokenizer.json")
    if model is not None:
        if sha256_file(own) != sha256_file(model.file("tokenizer.json")):
            lines.append(f"tokenizer.json: not that of {model.stage}")
    elif vocabulary is None:
        if sha256_file(own) != artifact.manifest["identity"]["external"]:
            lines.append("tokenizer.json: not the file whose hash is in the identity")
    else:
        text = documents.file("train.parquet")
        size = sum(text_bytes(unit) for unit in iterate_documents(text, ("text",)))
        if min(size, maximum_bytes) > LEARNED_BYTES:
            sampled = f"not learned again here: {min(size, maximum_bytes) / 1e6:,.0f} MB of text"
        else:
            sample = count_pieces(text, maximum_bytes)
            metrics |= {"training_bytes": sample.bytes, "training_documents": sample.documents}
            again = build_tokenizer(sample.pieces, vocabulary).to_str(pretty=False).encode()
            if again != own.read_bytes():
                lines.append("tokenizer.json: not the tokenizer that train.parquet and the settings give")
            sampled = f"the tokenizer learned again from {sample.bytes / 1e6:.1f} MB, byte for byte"
    blocks = [compression_block(compression), longest_tokens_block(loaded)]
    resting = {"*": "the tokenizer was not learned again: too much text for a check"}
    return compared(artifact, metrics, blocks, differences=lines, sampled=sampled, resting=resting)


def recheck_tokens(artifact: Artifact, documents: Artifact, tokenizer: Artifact, context: Context) -> Rederived:
    """Documents, bytes and tokens of each split, and the ids of text that is encoded again."""
    made = str(tokenizer.path.resolve()), tokenizer.digest
    metrics: dict[str, int] = {}
    lines: list[str] = []
    checks, encoded, skipped = CheckCounts(), 0, 0
    for place, split in enumerate(SPLITS):
        path = documents.file(f"{split}.parquet").absolute()
        shard = TokenShard.open(artifact.path, split)
        units = units_of(path, *made)
        rows = [(len(unit), text_bytes(unit)) for unit in iterate_documents(path, ("text",))]
        first = np.cumsum([0, *(count for count, _ in rows)])
        metrics |= {
            f"{split}.tokens": len(shard.tokens),
            f"{split}.documents": len(shard.offsets),
            f"{split}.bytes": sum(size for _, size in rows),
        }
        if len(shard.offsets) != first[-1]:
            lines.append(f"{split}: {len(shard.offsets)} documents in tokens, {first[-1]} in {path.name}")
            continue
        for number in context.generator("recheck", place).permutation(count_units(path)).tolist():
            if encoded and encoded + rows[number][1] > ENCODED_BYTES:
                skipped += 1
                continue
            unit = encode_unit(units[number])
            checks.add(unit)
            encoded += rows[number][1]
            starts = np.append(shard.offsets, len(shard.tokens))[first[number] : first[number + 1] + 1]
            stored = shard.tokens[starts[0] : starts[-1]]
            names = (
                [shard.sources[at] for at in shard.source_of[first[number] : first[number + 1]].tolist()]
                if (shard.source_of is not None)
                else unit.sources
            )
            same = np.array_equal(stored, unit.tokens) and np.array_equal(np.diff(starts), unit.lengths)
            if not same or names != unit.sources:
                lines.append(f"{split}: the documents of row group {number} of {path.name} give other tokens")
    if not skipped:
        metrics |= checks.metrics()
    sampled = f"{encoded / 1e6:.1f} MB of text encoded again" + (f", {skipped} row groups not" if skipped else "")
    resting = {"*": "not all text was encoded again"}
    return compared(artifact, metrics, differences=lines, sampled=sampled, resting=resting)
