"""Counting a `conversations` artifact again, from its files alone."""

from __future__ import annotations

from pocketlm.data.conversations.writing import SELECTION, TRAINING, conversation_sentence
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.stage import Rederived


def recheck_conversations(artifact: Artifact) -> Rederived:
    """Conversations by split, answers and rejected rows; what was read is what was kept or rejected."""
    rows = {split: artifact.read_jsonl(f"{split}.jsonl") for split in (TRAINING, SELECTION)}
    rejected = len(artifact.read_jsonl("rejected.jsonl"))
    metrics = {
        "conversations": len(rows[TRAINING]),
        "selection": len(rows[SELECTION]),
        "rejected": rejected,
        "read": sum(map(len, rows.values())) + rejected,
        "answers": sum(turn["role"] == "assistant" for row in rows[TRAINING] for turn in row["messages"]),
    }
    ids = [row["id"] for split in rows.values() for row in split]
    twice = len(ids) - len(set(ids))
    differences = [f"{twice} of {len(ids)} conversations stand in the files twice"] if twice else []
    raw = "needs the raw sources: system turns that were erased are not kept"
    tokens = "needs the tokenizer's count while reading"
    resting = {"with_system": raw, "erased_system": raw, "tokens": tokens}
    blocks = [conversation_sentence(metrics)]
    return compared(artifact, metrics, blocks, differences=differences, resting=resting, resting_blocks={"*": raw})
