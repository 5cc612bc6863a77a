"""One release: the plan of a mixture over its inputs, written as the arrays of a `tokens` artifact, with its ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.data.tokens import mixture_figures as figures
from pocketlm.data.tokens.mixture import Draws, by_source, mix, write_split
from pocketlm.data.tokens.mixture_inputs import (
    DocumentFacts,
    HeldOut,
    TokenInput,
    facts_of,
    open_inputs,
    separate,
    token_byte_lengths,
)
from pocketlm.data.tokens.mixture_shares import Component, Shortfall, allocate, resolve, wanted
from pocketlm.data.tokens.shards import SPLITS, check_number_of_sources
from pocketlm.data.tokens.token_ledger import require_sum
from pocketlm.pipeline.figures import Block

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Release:
    """Everything that is known before the tokens are copied.

    Attributes:
        names: released names of all sources: `stage/source`, or `source` where there is one input.
        draws: documents of every split, in order.
        counts: split -> source -> {documents, tokens, bytes}.
        components: rows for mixture.json: name, share, asked, given, released, available, epoch_cap.
        ledger: {"prepared": by source, "released": by source}, of the training split.
        warnings: to be said loudly.
    """

    inputs: list[TokenInput]
    names: list[str]
    draws: dict[str, Draws]
    counts: dict[str, Counts]
    components: list[dict[str, Any]]
    ledger: dict[str, Counts]
    held_out: HeldOut
    tenths: list[dict[str, Any]]
    warnings: list[str]

    @classmethod
    def plan(
        cls,
        folders: dict[str, Path],
        shares: Mapping[str, float],
        tokens: int,
        epoch_cap: int,
        epoch_caps: Mapping[str, int],
        shortfall: Shortfall,
        seed: int,
    ) -> Release:
        """Read the inputs once and decide everything; the settings are those of the stage.

        Raises:
            InputError: as in `open_inputs`, `resolve`, `allocate` and `separate`, or too many sources.
        """
        inputs = open_inputs(folders)
        names = [f"{item.stage}/{name}" if len(inputs) > 1 else name for item in inputs for name in item.sources]
        check_number_of_sources(len(names))
        available = {member: count for item in inputs for member, count in item.available().items()}
        components = resolve(shares, available, epoch_cap, epoch_caps)
        asked, given = wanted(components, tokens), allocate(components, tokens, shortfall)
        byte_lengths = token_byte_lengths(inputs[0].folder / "tokenizer.json", inputs[0].vocabulary)
        facts = [facts_of(item, byte_lengths) for item in inputs]
        held_out = separate(inputs, facts)

        train, component_of = mix(components, given, inputs, seed)
        draws = {"train": train} | {
            split: Draws.joined([_rows(item, at, split, held_out.kept[split][at]) for at, item in enumerate(inputs)])
            for split in SPLITS[1:]
        }
        counts = {
            split: by_source(part, places_of(part, inputs, split), [item.bytes[split] for item in facts], names)
            for split, part in draws.items()
        }
        released = [int(train.lengths[component_of == at].sum()) for at in range(len(components))]
        rows: list[dict[str, Any]] = [
            {
                "name": item.name,
                "share": float(item.share),
                "asked": asked[at],
                "given": given[at],
                "released": released[at],
                "available": item.available,
                "epoch_cap": item.epoch_cap,
            }
            for at, item in enumerate(components)
        ]
        ledger = _ledger(inputs, names, counts["train"], train)
        total = int(train.lengths.sum())
        require_sum("released tokens by source", {name: row["tokens"] for name, row in counts["train"].items()}, total)
        require_sum("released tokens by share", {item.name: released[at] for at, item in enumerate(components)}, total)
        return cls(
            inputs,
            names,
            draws,
            counts,
            rows,
            ledger,
            held_out,
            _tenths(train, component_of, components),
            _warnings(rows, inputs, facts, held_out),
        )

    @property
    def tokens(self) -> int:
        """Tokens of all splits."""
        return sum(int(part.lengths.sum()) for part in self.draws.values())

    def write(self, folder: Path) -> Iterator[int]:
        """Write the arrays of all splits and yield, block by block, how many tokens are written."""
        before = 0
        for split, part in self.draws.items():
            for written in write_split(folder, split, part, self.inputs, places_of(part, self.inputs, split)):
                yield before + written
            before += int(part.lengths.sum())

    def summary(self) -> dict[str, Any]:
        """tokens.json."""
        splits = {
            split: {
                **{key: sum(row[key] for row in counts.values()) for key in ("tokens", "documents", "bytes")},
                "by_source": counts,
            }
            for split, counts in self.counts.items()
        }
        totals = {key: value for key, value in splits["train"].items() if key != "by_source"}
        return {"vocabulary": self.inputs[0].vocabulary, "sources": self.names, **totals, "splits": splits}

    def protocol(self) -> list[str]:
        """How the stream was made, a line a share."""
        return [
            f"{row['name']}: {row['released']} tokens released of {row['available']} available, every document at most "
            f"{row['epoch_cap']} times"
            for row in self.components
        ]

    def metrics(self) -> dict[str, Any]:
        """Totals by split, tokens by source, overshoot, shortfall and what was removed."""
        splits = self.summary()["splits"]
        return {
            **{f"{split}.{key}": splits[split][key] for split in splits for key in ("tokens", "documents", "bytes")},
            **{f"prepared.{name}.tokens": row["tokens"] for name, row in self.ledger["prepared"].items()},
            **{f"released.{name}.tokens": row["tokens"] for name, row in self.ledger["released"].items()},
            "overshoot.tokens": sum(row["released"] - row["given"] for row in self.components),
            "redistributed.tokens": sum(max(0, row["asked"] - row["given"]) for row in self.components),
            "held_out_removed.documents": len(self.held_out.removed),
            "repeated_across_inputs.documents": sum(self.held_out.repeated_in_train.values()),
        }

    def blocks(self) -> list[Block]:
        """Tables of shares, ledger and held-out documents; the shares along the stream."""
        rows = []
        for split in SPLITS[1:]:
            for at, item in enumerate(self.inputs):
                removed = [
                    f"{row['reason']} ({row['equal_to']})"
                    for row in self.held_out.removed
                    if (row["split"], row["stage"]) == (split, item.stage)
                ]
                kept = len(self.held_out.kept[split][at])
                reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(removed).items()))
                rows.append(
                    {"split": split, "from": item.stage, "documents": kept + len(removed), "removed": len(removed),
                     "kept": kept, "reasons": reasons}
                )  # fmt: skip
        return [
            figures.mixture_block(self.components),
            figures.ledger_block(self.ledger["prepared"], self.ledger["released"]),
            figures.tenths_block(self.tenths),
            figures.held_out_block(rows),
        ]


def places_of(draws: Draws, inputs: Sequence[TokenInput], split: str) -> np.ndarray:
    """Place of every drawn document's source in the released list, uint16 [draws]."""
    places, base = np.empty(len(draws), np.uint16), 0
    for at, item in enumerate(inputs):
        rows = draws.stage == at
        places[rows] = base + item.source_of(split)[draws.document[rows]].astype(np.int64)
        base += len(item.sources)
    return places


def _rows(item: TokenInput, at: int, split: str, rows: np.ndarray) -> Draws:
    return Draws(np.full(len(rows), at, np.uint16), rows, item.lengths(split)[rows])


def _ledger(inputs: Sequence[TokenInput], names: Sequence[str], counts: Counts, train: Draws) -> dict[str, Counts]:
    every = [row for item in inputs for row in item.counts["train"].values()]
    prepared = {name: dict(row) for name, row in zip(names, every, strict=True)}
    released: Counts = {}
    places = iter(names)
    for at, item in enumerate(inputs):
        often = np.bincount(train.document[train.stage == at], minlength=len(item.lengths("train")))
        for place in range(len(item.sources)):
            own = often[item.source_of("train") == place]
            name = next(places)
            extra = {"different": int((own > 0).sum()), "most_often": int(own.max(initial=0))}
            released[name] = {**counts[name], **extra}
    return {"prepared": prepared, "released": released}


def _tenths(train: Draws, component_of: np.ndarray, components: Sequence[Component]) -> list[dict[str, Any]]:
    tenth = train.starts * figures.TENTHS // int(train.lengths.sum())
    tokens = np.zeros((figures.TENTHS, len(components)), np.int64)
    np.add.at(tokens, (tenth, component_of), train.lengths)
    return [
        {"tenth": row + 1, "name": item.name, "share": round(float(tokens[row, at] / tokens[row].sum()), 6)}
        for row in range(figures.TENTHS)
        if tokens[row].sum()
        for at, item in enumerate(components)
    ]


def _warnings(
    rows: Sequence[Mapping[str, Any]],
    inputs: Sequence[TokenInput],
    facts: Sequence[DocumentFacts],
    held_out: HeldOut,
) -> list[str]:
    said = [
        f"{row['name']} cannot fill its share under its epoch cap: {row['asked']:,} tokens asked, {row['given']:,} "
        f"given ({row['available']:,} x {row['epoch_cap']}); the rest went to the other shares"
        for row in rows
        if row["given"] < row["asked"]
    ]
    said += [
        f"{count:,} training documents of {second} are in {first} too: they can be released more often than the cap"
        for (first, second), count in held_out.repeated_in_train.items()
        if count
    ]
    for item, fact in zip(inputs, facts, strict=True):
        for split in SPLITS:
            stated = sum(row["bytes"] for row in item.counts[split].values())
            if (found := int(fact.bytes[split].sum())) != stated:
                said.append(
                    f"{item.stage}: the tokens of {split} stand for {found:,} bytes, its text had {stated:,}: the "
                    "tokenizer changes or drops text; the mixture counts the bytes of the tokens"
                )
    return said
