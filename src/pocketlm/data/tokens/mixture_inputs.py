"""The `tokens` artifacts that a mixture reads: opened, checked against each other, every document hashed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.data.kernels import kernel
from pocketlm.data.text import BASE, mix
from pocketlm.data.tokens.mixture_shares import SourceOfStage
from pocketlm.data.tokens.shards import SPLITS, TokenShard
from pocketlm.data.tokens.token_ledger import sources_of_documents
from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.storage import sha256_file

HASHED_TOKENS = 1 << 24
"""Tokens that are hashed between two mappings of the file, so that resident memory stays bounded."""


class TokenInput:
    """One `tokens` artifact, by the name of the stage that made it. Arrays per document are held, tokens are mapped.

    Attributes:
        stage: name in the recipe. folder: of the artifact.
        sources: names, in the order that the arrays of places refer to.
        counts: split -> source -> {documents, tokens, bytes}.
        vocabulary: number of token ids.
    """

    def __init__(self, stage: str, folder: Path) -> None:
        """Open and check.

        Raises:
            CorruptionError: arrays and tokens.json disagree.
        """
        self.stage, self.folder = stage, folder
        shards = {split: TokenShard.open(folder, split) for split in SPLITS}
        summary: dict[str, Any] = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        self.vocabulary: int = summary["vocabulary"]
        self._offsets = {split: np.array(shard.offsets) for split, shard in shards.items()}
        self._lengths = {
            split: np.diff(self._offsets[split], append=len(shard.tokens)) for split, shard in shards.items()
        }
        self.sources = shards["train"].sources
        self._sources = {split: sources_of_documents(shard, folder) for split, shard in shards.items()}
        self.counts = {split: self._checked(split, summary["splits"][split]["by_source"]) for split in SPLITS}

    def tokens(self, split: str) -> np.memmap:
        """Ids of a split, [tokens], mapped anew at each call."""
        mapped: np.memmap = np.load(self.folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    def offsets(self, split: str) -> np.ndarray:
        """First token of every document, int64 [documents]."""
        return self._offsets[split]

    def lengths(self, split: str) -> np.ndarray:
        """Tokens of every document, border included, int64 [documents]."""
        return self._lengths[split]

    def source_of(self, split: str) -> np.ndarray:
        """Place of every document's source in `sources`, uint16 [documents]."""
        return self._sources[split]

    def available(self) -> dict[SourceOfStage, int]:
        """Training tokens of every source."""
        return {SourceOfStage(self.stage, name): self.counts["train"][name]["tokens"] for name in self.sources}

    def _checked(self, split: str, stated: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        places, lengths = self._sources[split], self._lengths[split]
        if len(lengths) and lengths.min() < 1:
            raise CorruptionError(f"{self.folder}: {split} holds a document without tokens. Run the stage again.")
        documents, tokens = np.bincount(places, minlength=len(self.sources)), np.zeros(len(self.sources), np.int64)
        np.add.at(tokens, places, lengths)
        nothing = {"documents": 0, "tokens": 0, "bytes": 0}
        counts = {name: stated.get(name, nothing) for name in self.sources}
        for at, (name, row) in enumerate(counts.items()):
            if (row["documents"], row["tokens"]) != (documents[at], tokens[at]):
                raise CorruptionError(
                    f"{self.folder}: tokens.json states {row['documents']} documents and {row['tokens']} tokens of "
                    f"{name} in {split}, the arrays hold {documents[at]} and {tokens[at]}. Run the stage again."
                )
        return counts


def open_inputs(folders: dict[str, Path]) -> list[TokenInput]:
    """Open several artifacts that must have the same tokenizer.

    Raises:
        InputError: two tokenizers differ; the message names both stages.
    """
    digests = {stage: sha256_file(folder / "tokenizer.json") for stage, folder in folders.items()}
    first = next(iter(digests))
    for stage, digest in digests.items():
        if digest != digests[first]:
            raise InputError(
                f"mixture: {first} and {stage} have different tokenizers (tokenizer.json {digests[first][:12]}... and "
                f"{digest[:12]}...), so their token ids mean different things. Tokenize both with one tokenizer"
            )
    return [TokenInput(stage, folder) for stage, folder in folders.items()]


@dataclass(frozen=True)
class DocumentFacts:
    """What one pass over the tokens gives, by split.

    Attributes:
        hashes: uint64 [documents]; equal token sequences have equal hashes, others differ but for a chance of 2^-64
            a pair.
        bytes: int64 [documents], UTF-8 bytes that the tokens stand for.
    """

    hashes: dict[str, np.ndarray] = field(default_factory=dict)
    bytes: dict[str, np.ndarray] = field(default_factory=dict)


def facts_of(item: TokenInput, byte_lengths: np.ndarray) -> DocumentFacts:
    """Hash and measure every document of every split, mapping a block at a time."""
    facts = DocumentFacts()
    for split in SPLITS:
        offsets, lengths = item.offsets(split), item.lengths(split)
        hashes, sizes = np.empty(len(offsets), np.uint64), np.empty(len(offsets), np.int64)
        first = 0
        while first < len(offsets):
            last = max(int(np.searchsorted(offsets, offsets[first] + HASHED_TOKENS)), first + 1)
            part = slice(first, last)
            _facts(
                np.asarray(item.tokens(split)), offsets[part], lengths[part], byte_lengths, hashes[part], sizes[part]
            )
            first = last
        facts.hashes[split], facts.bytes[split] = hashes, sizes
    return facts


def token_byte_lengths(tokenizer_file: Path, vocabulary: int) -> np.ndarray:
    """Bytes that every id of a byte-level BPE tokenizer stands for, int64 [vocabulary]; 0 for special tokens.

    Byte-level BPE writes each byte of a token as one printable character, so a token has as many bytes as characters.
    """
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    lengths = np.zeros(vocabulary, np.int64)
    for token, identifier in content["model"]["vocab"].items():
        lengths[identifier] = len(token)
    for entry in content["added_tokens"]:
        lengths[entry["id"]] = 0 if entry["special"] else len(entry["content"].encode())
    return lengths


@dataclass(frozen=True)
class HeldOut:
    """The held-out documents of all inputs that may be scored.

    Attributes:
        kept: split -> for each input the places of the documents that stay, int64.
        removed: one row per removed document: split, stage, document, reason, and `equal_to` (a stage).
        repeated_in_train: pairs of inputs -> training documents of the second that the first has too.
    """

    kept: dict[str, list[np.ndarray]]
    removed: list[dict[str, Any]]
    repeated_in_train: dict[tuple[str, str], int]


def separate(inputs: Sequence[TokenInput], facts: Sequence[DocumentFacts]) -> HeldOut:
    """Concatenate the held-out splits of all inputs without what is in any training split, and without repeats.

    A model may have been trained on any of the inputs before, so the training splits count whole, released or not. A
    document of both held-out splits stays in `heldout`, which is reported, and leaves `heldout_selection`.

    Raises:
        InputError: a split is left empty.
    """
    train = [np.unique(item.hashes["train"]) for item in facts]
    seen: list[tuple[str, str, np.ndarray]] = [
        (item.stage, "in training text", hashes) for item, hashes in zip(inputs, train, strict=True)
    ]
    kept: dict[str, list[np.ndarray]] = {}
    removed: list[dict[str, Any]] = []
    for split in SPLITS[1:]:
        kept[split] = []
        for item, fact in zip(inputs, facts, strict=True):
            hashes = fact.hashes[split]
            keep = np.zeros(len(hashes), bool)
            keep[np.unique(hashes, return_index=True)[1]] = True
            reasons = {int(at): ("repeated in its split", item.stage) for at in np.flatnonzero(~keep)}
            for stage, reason, others in reversed(seen):
                hit = np.isin(hashes, others)
                keep &= ~hit
                reasons |= {int(at): (reason, stage) for at in np.flatnonzero(hit)}
            removed += [
                {"split": split, "stage": item.stage, "document": at, "reason": reason, "equal_to": stage}
                for at, (reason, stage) in sorted(reasons.items())
            ]
            kept[split].append(np.flatnonzero(keep))
            seen.append((item.stage, f"in {split}", hashes[keep]))
        if not sum(map(len, kept[split])) and any(len(fact.hashes[split]) for fact in facts):
            raise InputError(
                f"mixture: no document of {split} is left: all of them stand in training text or in another held-out "
                "split of the inputs. Curate the inputs together, or hold out more"
            )
    repeated = {
        (inputs[a].stage, inputs[b].stage): int(np.isin(facts[b].hashes["train"], train[a]).sum())
        for b in range(len(inputs))
        for a in range(b)
    }
    return HeldOut(kept, removed, repeated)


@kernel
def _facts(stream, offsets, lengths, byte_lengths, hashes, sizes):  # type: ignore[no-untyped-def]
    """Polynomial hash and byte count of every document."""
    for document in range(len(offsets)):
        value, size = BASE, 0
        for at in range(offsets[document], offsets[document] + lengths[document]):
            value = (value ^ np.uint64(stream[at])) * BASE
            value ^= value >> np.uint64(32)
            size += byte_lengths[stream[at]]
        hashes[document], sizes[document] = mix(value), size
