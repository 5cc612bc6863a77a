"""Stage `tokenize`: curated documents to token arrays, ready to be memory-mapped.

Each split becomes `<split>.npy` (documents in order, each closed by <|endoftext|>) and `<split>_offsets.npy`; the
layout is documented in `data/shards.py`. Nothing is shuffled, packed or cut: training makes batches from the step.
"""

from __future__ import annotations

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import table
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, stage

BATCH_DOCUMENTS = 64


class TokenizeSettings(Settings):
    """There is nothing to set: documents and tokenizer decide."""


@stage(version=1, inputs={"documents": "documents", "tokenizer": "tokenizer"}, output="tokens")
def tokenize(settings: TokenizeSettings, inputs: Inputs, context: Context) -> Artifact:
    """Encode train, heldout and heldout_selection; count their bytes and tokens."""
    import numpy as np

    from pocketlm.data.documents import read_documents
    from pocketlm.data.shards import SPLITS, join_documents
    from pocketlm.data.tokenizer import Tokenizer, copy_tokenizer

    encoder = Tokenizer.load(inputs["tokenizer"].path)
    tables = {split: read_documents(inputs["documents"].file(f"{split}.parquet")) for split in SPLITS}
    total = sum(len(documents) for documents in tables.values())
    draft = context.draft("tokens")
    counts = {}
    done = 0
    for split, documents in tables.items():
        encoded: list[list[int]] = []
        size = 0
        for start in range(0, len(documents), BATCH_DOCUMENTS):
            batch = documents["text"].slice(start, BATCH_DOCUMENTS).to_pylist()
            encoded += encoder.encode_batch(batch)
            size += sum(len(text.encode()) for text in batch)
            done += len(batch)
            context.progress(done, total, "document")
            context.check_stop()
        tokens, offsets = join_documents(encoded, encoder.end_of_text, encoder.vocabulary)
        np.save(draft.path / f"{split}.npy", tokens, allow_pickle=False)
        np.save(draft.path / f"{split}_offsets.npy", offsets, allow_pickle=False)
        counts[split] = {"tokens": len(tokens), "documents": len(documents), "bytes": size}
    draft.write_json("tokens.json", {"vocabulary": encoder.vocabulary, **counts["train"], "splits": counts})
    copy_tokenizer(inputs["tokenizer"].path, draft.path)
    metrics = {f"{split}.{name}": value for split, row in counts.items() for name, value in row.items()}
    rows = [
        {"split": split, **row, "bytes per token": round(row["bytes"] / row["tokens"], 3)}
        for split, row in counts.items()
    ]
    note = "Tokens include one document border per document; bytes are those of the text."
    return draft.commit(
        metrics, [table("Tokens", ["split", "documents", "tokens", "bytes", "bytes per token"], rows, note)]
    )
