"""Tokenizers and token files against the text that they were made from, once more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.documents import count_units, iterate_documents, text_bytes
from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.fast_encoding import FastEncoder
from pocketlm.data.tokens.shards import SPLITS, TokenShard
from pocketlm.data.tokens.token_figures import token_blocks
from pocketlm.data.tokens.token_units import CheckCounts, encode_unit, units_of
from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES, Tokenizer, build_tokenizer, tokenizer_config
from pocketlm.data.tokens.tokenizer_figures import compression_block, longest_tokens_block, measure_compression
from pocketlm.data.tokens.tokenizer_text import count_pieces
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import paragraph
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.stage import Rederived
from pocketlm.pipeline.storage import json_bytes, sha256_file

ENCODED_BYTES = 32_000_000
"""Text that is encoded again; of a larger corpus, units drawn afresh each time."""
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
        lines += [
            f"{name}: not that of {model.stage}"
            for name in TOKENIZER_FILES
            if sha256_file(artifact.file(name)) != sha256_file(model.file(name))
        ]
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
    if model is None:
        beside = {
            "chat_template.jinja": CHAT_TEMPLATE.encode(),
            "tokenizer_config.json": json_bytes(tokenizer_config()),
        }
        lines += [f"{name}: not ChatML's" for name, own in beside.items() if artifact.file(name).read_bytes() != own]
    blocks = [compression_block(compression), longest_tokens_block(loaded)]
    resting = {"*": "the tokenizer was not learned again: too much text for a check"}
    return compared(artifact, metrics, blocks, differences=lines, sampled=sampled, resting=resting)


def recheck_tokens(artifact: Artifact, documents: Artifact, tokenizer: Artifact, context: Context) -> Rederived:
    """Documents, bytes and tokens of each split, and the ids of text that is encoded again."""
    made = str(tokenizer.path.resolve()), tokenizer.digest
    metrics: dict[str, int] = {}
    lines: list[str] = []
    splits: dict[str, dict[str, Any]] = {}
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
        splits[split] = _counts(path, shard)
        for number in context.sample_generator("units", place).permutation(count_units(path)).tolist():
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
    blocks = token_blocks(splits) if len(splits) == len(SPLITS) else []
    why = "not all text was encoded again"
    if not skipped:
        metrics |= checks.metrics()
        blocks.append(paragraph(checks.sentence()))
    sampled = f"{encoded / 1e6:.1f} MB of text encoded again" + (f", {skipped} row groups not" if skipped else "")
    named = {"paragraph *": why} if skipped else {}
    return compared(
        artifact, metrics, blocks, differences=lines, sampled=sampled, resting={"*": why}, resting_blocks=named
    )


def _counts(path: Path, shard: TokenShard) -> dict[str, Any]:
    """Documents, tokens and bytes of a split, in all and by source, from the text and the borders of the documents."""
    lengths = np.diff(np.append(shard.offsets, len(shard.tokens)))
    totals = {"documents": 0, "tokens": 0, "bytes": 0}
    by_source: dict[str, dict[str, int]] = {}
    for unit in iterate_documents(path, ("source", "text")):
        first = totals["documents"]
        counts = {
            "source": unit["source"],
            "tokens": pa.array(lengths[first : first + len(unit)]),
            "bytes": pc.binary_length(unit["text"]),
        }
        groups = pa.table(counts).group_by("source", use_threads=False)
        for row in groups.aggregate([("tokens", "sum"), ("bytes", "sum"), ("tokens", "count")]).to_pylist():
            own = by_source.setdefault(row["source"], dict.fromkeys(totals, 0))
            for name, count in (("documents", "tokens_count"), ("tokens", "tokens_sum"), ("bytes", "bytes_sum")):
                own[name] += row[count]
                totals[name] += row[count]
    return {**totals, "by_source": dict(sorted(by_source.items()))}
