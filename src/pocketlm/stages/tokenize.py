"""Stage `tokenize`: curated documents to token arrays, ready to be memory-mapped.

Each split becomes `<split>.npy` (documents in order, each closed by <|endoftext|>), `<split>_offsets.npy` and
`<split>_sources.npy`; the layout is documented in `data/tokens/shards.py`. Units (row groups) are encoded side by side
and written in order, so memory does not grow with the corpus. Nothing is shuffled, packed or cut: training makes
batches from the step.
"""

from __future__ import annotations

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import paragraph
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, stage


class TokenizeSettings(Settings):
    """There is nothing to set: documents and tokenizer decide."""


def recheck(settings: TokenizeSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Count again, and encode text again."""
    from pocketlm.data.tokens.recheck import recheck_tokens

    return recheck_tokens(artifact, inputs["documents"], inputs["tokenizer"], context)


@stage(version=2, inputs={"documents": "documents", "tokenizer": "tokenizer"}, output="tokens", recheck=recheck)
def tokenize(settings: TokenizeSettings, inputs: Inputs, context: Context) -> Artifact:
    """Encode train, heldout and heldout_selection; count bytes and tokens; compare a sample with `tokenizers`."""
    from pocketlm.data.engine import open_engine
    from pocketlm.data.tokens.fast_encoding import encoder_of
    from pocketlm.data.tokens.shards import SPLITS, ShardWriter
    from pocketlm.data.tokens.token_figures import token_blocks
    from pocketlm.data.tokens.token_units import CheckCounts, encode_unit, units_of
    from pocketlm.data.tokens.tokenizer import copy_tokenizer

    made = str(inputs["tokenizer"].path.resolve()), inputs["tokenizer"].digest
    encoder = encoder_of(*made)
    if encoder.refusal:
        context.warn(f"all documents are encoded by the tokenizers library, slowly: {encoder.refusal}")
    tasks = {split: units_of(inputs["documents"].file(f"{split}.parquet").absolute(), *made) for split in SPLITS}
    total = sum(map(len, tasks.values()))
    draft = context.draft("tokens")
    sources: dict[str, int] = {}
    counts, checks, done = {}, CheckCounts(), 0
    with open_engine(context.runtime) as engine:
        for split, units in tasks.items():
            with ShardWriter(draft.path, split, encoder.tokenizer.vocabulary, sources) as writer:
                for unit in engine.map(encode_unit, units):
                    writer.write(unit.tokens, unit.lengths, unit.sizes, unit.sources)
                    checks.add(unit)
                    done += 1
                    context.progress(done, total, "unit")
                    context.check_stop()
            counts[split] = writer.counts()
    totals = {name: counts["train"][name] for name in ("tokens", "documents", "bytes")}
    summary = {"vocabulary": encoder.tokenizer.vocabulary, "sources": list(sources), **totals, "splits": counts}
    draft.write_json("tokens.json", summary)
    copy_tokenizer(inputs["tokenizer"].path, draft.path)
    metrics = {f"{split}.{name}": row[name] for split, row in counts.items() for name in totals}
    return draft.commit({**metrics, **checks.metrics()}, [*token_blocks(counts), paragraph(checks.sentence())])
