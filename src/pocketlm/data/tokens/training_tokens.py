"""The `tokens` artifacts that a training stage reads: one tokenizer, and held-out text that none of them trains on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.data.tokens.mixture_inputs import facts_of, open_inputs, separate, token_byte_lengths
from pocketlm.data.tokens.shards import TokenShard
from pocketlm.data.tokens.token_ledger import consumed_by_source, require_sum, sources_of_documents
from pocketlm.errors import CorruptionError


class TrainingTokens:
    """Training streams by the name of the stage that made them, and the held-out documents of all.

    Attributes:
        streams: name -> training split.
        folder: of the first artifact; its tokenizer is that of all.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """Open and check.

        Raises:
            InputError: tokenizers differ, or no held-out document is left.
            CorruptionError: a token lies outside of the vocabulary, or arrays and tokens.json disagree.
        """
        self.folder = next(iter(folders.values()))
        self._folders = dict(folders)
        self.streams = {name: TokenShard.open(folder) for name, folder in folders.items()}
        self.vocabulary = next(iter(self.streams.values())).vocabulary
        for name, stream in self.streams.items():
            _require_known(name, "training", stream)
        self._kept: dict[str, list[np.ndarray]] | None = None
        if len(folders) > 1:
            inputs = open_inputs(self._folders)
            sizes = token_byte_lengths(self.folder / "tokenizer.json", self.vocabulary)
            self._kept = separate(inputs, [facts_of(item, sizes) for item in inputs]).kept

    def held_out(self, split: str) -> list[np.ndarray]:
        """Tokens of the held-out documents of a split, borders included.

        With several artifacts those that stand in the training text of any are left out, as `mixture` does.
        """
        documents: list[np.ndarray] = []
        for at, folder in enumerate(self._folders.values()):
            shard = TokenShard.open(folder, split)
            _require_known(folder.name, split, shard)
            places = range(len(shard.offsets)) if self._kept is None else self._kept[split][at].tolist()
            documents += [shard.document(place) for place in places]
        return documents

    def consumed(self, pieces: Mapping[str, tuple[np.ndarray, np.ndarray]], total: int) -> list[dict[str, Any]]:
        """Tokens that steps read, by source, over all streams: rows for `mixture_figures.consumed_block`.

        Args:
            pieces: stream -> starts and lengths of the stretches that were read, repeats included.
            total: tokens that the steps read in all.

        Raises:
            RuntimeError: the sources do not sum to the total.
        """
        rows: list[dict[str, Any]] = []
        for name, (starts, lengths) in pieces.items():
            stream = self.streams[name]
            places = sources_of_documents(stream, self._folders[name])
            own = consumed_by_source(stream, places, (starts, lengths), int(lengths.sum()))
            several = len(self.streams) > 1
            rows += [{**row, "source": f"{name}/{row['source']}" if several else row["source"]} for row in own]
        require_sum("consumed tokens", {row["source"]: row["tokens"] for row in rows}, total)
        return rows


def _require_known(name: str, split: str, stream: TokenShard) -> None:
    block = 1 << 24
    for start in range(0, len(stream.tokens), block):
        largest = int(stream.tokens[start : start + block].max())
        if largest >= stream.vocabulary:
            raise CorruptionError(
                f"{name}: the {split} stream holds the token {largest}, its tokenizer has {stream.vocabulary}: "
                "the file was changed, or tokenized otherwise. Run the stage again"
            )
