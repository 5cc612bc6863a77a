"""What the report shows of a mixture and of the token ledger, from counts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.pipeline.figures import Block, line_chart, table

TENTHS = 10


def mixture_block(components: Sequence[Mapping[str, Any]]) -> Block:
    """What every share asked for and was given; rows of mixture.json."""
    rows = [
        {
            "name": row["name"],
            "share asked": round(row["share"], 6),
            "share released": round(row["released"] / sum(item["released"] for item in components), 6),
            "tokens asked": row["asked"],
            "tokens given": row["given"],
            "released": row["released"],
            "overshoot": row["released"] - row["given"],
            "available": row["available"],
            "epochs": round(row["released"] / row["available"], 4),
            "epoch cap": row["epoch_cap"],
        }
        for row in components
    ]
    note = (
        "Documents are released whole: the last one of a share may overshoot what was given. Given differs from asked "
        "where an epoch cap binds and the shortfall was redistributed."
    )
    return table("Mixture", list(rows[0]), rows, note)


def ledger_block(prepared: Mapping[str, Mapping[str, int]], released: Mapping[str, Mapping[str, int]]) -> Block:
    """Training tokens by source: what the inputs hold and what the mixture releases."""
    rows = [
        {
            "source": name,
            "documents prepared": prepared[name]["documents"],
            "tokens prepared": prepared[name]["tokens"],
            "documents released": row["documents"],
            "different ones": row["different"],
            "tokens released": row["tokens"],
            "epochs": round(row["tokens"] / prepared[name]["tokens"], 4) if prepared[name]["tokens"] else 0,
            "most often": row["most_often"],
        }
        for name, row in released.items()
    ]
    note = (
        "Prepared: in the training splits of the inputs. Released: in this mixture, repeats counted. What training "
        "then reads of it stands with the training stage. Sums over the sources are checked against the totals."
    )
    return table("Token ledger: prepared and released", list(rows[0]), rows, note)


def held_out_block(rows: Sequence[Mapping[str, Any]]) -> Block:
    """Held-out documents by split and input, and how many were removed for which reason."""
    note = (
        "A held-out document that stands in the training text of any input, or in another held-out split, is removed; "
        "equal means the same tokens. The rows are in held_out_removed.jsonl."
    )
    return table("Held-out documents", ["split", "from", "documents", "removed", "kept", "reasons"], rows, note)


def tenths_block(rows: Sequence[Mapping[str, Any]]) -> Block:
    """Share of every component in each tenth of the released stream."""
    note = f"Documents counted in the tenth (of {TENTHS}) in which they begin."
    return line_chart("Shares along the stream", rows, "tenth", "share", series="name", note=note)


def consumed_block(rows: Sequence[Mapping[str, Any]], steps: int) -> Block:
    """Tokens that training steps read, by source; rows of `token_ledger.consumed_by_source`."""
    total = sum(row["tokens"] for row in rows)
    shown = [
        {
            "source": row["source"],
            "tokens in the stream": row["held"],
            "tokens consumed": row["tokens"],
            "share": round(row["tokens"] / total, 6),
            "passes": round(row["tokens"] / row["held"], 4) if row["held"] else 0,
            "documents touched": row["documents"],
        }
        for row in rows
    ]
    note = f"Inputs of the {steps:,} steps, counted from the windows that they read; repeats count again."
    return table("Token ledger: consumed", list(shown[0]), shown, note)


def consumed_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """`consumed.SOURCE.tokens` of every source that was read."""
    return {f"consumed.{row['source']}.tokens": row["tokens"] for row in rows if row["tokens"]}
