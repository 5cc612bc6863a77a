"""Stage `curate`: from raw documents to training text and held-out text, every rejection kept with its reason.

Order: clean, quality gates, exact duplicates, near-duplicates across sources, repeated segments, gates again (cutting
shortens), held-out split by text hash, contamination of the training text by anything that models are judged by. Out
come train.parquet, heldout.parquet (report), heldout_selection.parquet, cloze.jsonl, rejects.parquet, funnel.json and
licences.json.

It does not identify languages, score quality by a model, or mix sources by weight.
"""

from __future__ import annotations

from collections import Counter

from pydantic import Field

from pocketlm.data.settings import GateSettings, HeldOutSettings, NearDuplicateSettings, Share
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, optional, stage


class CurateSettings(Settings):
    """Thresholds of every step."""

    gates: GateSettings = GateSettings()
    near_duplicates: NearDuplicateSettings = NearDuplicateSettings()
    maximum_repeated_segment_share: Share = 0.3
    contamination_threshold: Share = 0.8
    held_out: HeldOutSettings = HeldOutSettings()
    minimum_bytes: int = Field(default=300_000, ge=0)
    """Less training text than this is an error: no tokenizer and no model can be made of it."""


@stage(version=1, inputs={"documents": "documents", "problems": optional("problems")}, output="documents")
def curate(settings: CurateSettings, inputs: Inputs, context: Context) -> Artifact:
    """Clean, gate, deduplicate, hold out and decontaminate documents."""
    import pyarrow as pa

    from pocketlm.data import curation, curation_figures, evaluation_items, held_out, planted
    from pocketlm.data.contamination import build_index
    from pocketlm.data.documents import read_documents, write_rejects, write_table

    funnel = curation.Funnel(read_documents(inputs["documents"].file("documents.parquet")))
    steps = {
        "clean": curation.clean_step,
        "gates": curation.gate_step(settings.gates),
        "exact duplicates": curation.exact_step,
        "near-duplicates": curation.near_step(settings.near_duplicates),
        "repeated segments": curation.segment_step(settings.maximum_repeated_segment_share),
        "gates again": curation.gate_step(settings.gates),
    }
    for done, (name, step) in enumerate(steps.items()):
        context.progress(done, len(steps) + 2, documents=len(funnel.documents))
        context.check_stop()
        funnel.apply(name, step)

    _require_text(curation.text_bytes(funnel.documents), len(funnel.documents), settings.minimum_bytes)
    split = held_out.split_documents(funnel.documents["text"].to_pylist(), settings.held_out)
    report = funnel.documents.filter(pa.array(split == held_out.REPORT)).combine_chunks()
    selection = funnel.documents.filter(pa.array(split == held_out.SELECTION)).combine_chunks()
    funnel.hold_out(split == held_out.TRAIN)
    cloze = held_out.cloze_items(report)

    items = evaluation_items.cloze_records(cloze)
    if problems := inputs.get("problems"):
        items += evaluation_items.problem_items(problems.path)
    for part in (report, selection):
        items += evaluation_items.held_out_windows(part["id"].to_pylist(), part["text"].combine_chunks())
    index = build_index(items)
    context.progress(len(steps), len(steps) + 2, documents=len(funnel.documents))
    funnel.apply("contamination", curation.contamination_step(index, settings.contamination_threshold))
    train = funnel.documents
    _require_text(curation.text_bytes(train), len(train), settings.minimum_bytes)

    context.progress(len(steps) + 1, len(steps) + 2, documents=len(train))
    sample = train["text"].combine_chunks()
    duplicates = planted.planted_duplicates(sample, settings.near_duplicates)
    found_items = planted.planted_items(sample, items, settings.contamination_threshold)

    draft = context.draft("documents")
    for name, part in {"train": train, "heldout": report, "heldout_selection": selection}.items():
        write_table(draft.path / f"{name}.parquet", part)
    write_rejects(draft.path / "rejects.parquet", funnel.rejects)
    licences = curation.licences_of(train)
    draft.write_json("funnel.json", funnel.steps)
    draft.write_json("licences.json", licences)
    draft.write_jsonl("cloze.jsonl", cloze)
    blocks = [
        curation_figures.funnel_block(funnel.steps),
        *curation_figures.reject_blocks(funnel.rejects),
        curation_figures.duplicate_block(funnel.rejects),
        curation_figures.contamination_block(curation.contamination_counts(index, funnel.rejects)),
        *curation_figures.planted_blocks(duplicates, found_items, settings.near_duplicates.threshold),
        curation_figures.licence_block(licences),
    ]
    metrics = {
        "input.documents": funnel.steps[0]["input"],
        "train.documents": len(train),
        "train.bytes": curation.text_bytes(train),
        "heldout.documents": len(report),
        "heldout.bytes": curation.text_bytes(report),
        "heldout_selection.documents": len(selection),
        "heldout_selection.bytes": curation.text_bytes(selection),
        "cloze.items": len(cloze),
        "rejected": len(funnel.rejects),
        **{f"rejected.{gate}": count for gate, count in sorted(Counter(row.gate for row in funnel.rejects).items())},
        **curation_figures.planted_metrics(duplicates, found_items),
    }
    return draft.commit(metrics, blocks)


def _require_text(available: int, documents: int, needed: int) -> None:
    if available < needed:
        raise InputError(
            f"too little text: {available / 1e6:.2f} MB in {documents} documents are left for training after curation, "
            f"at least {needed / 1e6:.2f} MB are needed. Give more text, loosen curate.gates, "
            "or lower curate.minimum_bytes."
        )
