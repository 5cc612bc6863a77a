"""Stage `curate`: from raw documents to training text and held-out text, every rejection kept with its reason.

Order: licences, clean, quality gates, exact duplicates, near-duplicates across sources and earlier runs, repeated
segments and spans, gates again (cutting shortens), held-out split by text hash, contamination of the training text by
benchmarks and by anything that models are judged by. Out come train.parquet, heldout.parquet (report),
heldout_selection.parquet, cloze.jsonl, rejects.parquet, contaminated_items.jsonl, funnel.json, licences.json, the index
that later runs are compared with, and a data card with Croissant metadata.

Texts pass unit by unit (8 MB), on threads or on a Ray cluster; only hashes meet. It does not mix sources by weight
(`mixture` does) and does not judge quality by a model of its own.
"""

from __future__ import annotations

from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, many, optional, stage


class CurateSettings(CurationSettings):
    """Thresholds of every step."""


def identity(settings: CurateSettings) -> str:
    """sha256 over the files that the settings name: benchmarks and the language model."""
    from pocketlm.data.curation.curation_files import files_identity

    return files_identity(settings)


def recheck(settings: CurateSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Count again, document by document, and hold kept text to gates and evaluation items again."""
    from pocketlm.data.curation.recheck import recheck_curation

    earlier = bool(inputs.many("earlier"))
    return recheck_curation(settings, artifact, inputs["documents"], inputs.get("problems"), earlier, context)


@stage(
    version=4,
    inputs={"documents": "documents", "problems": optional("problems"), "earlier": many("documents", optional=True)},
    output="documents",
    external=identity,
    recheck=recheck,
)
def curate(settings: CurateSettings, inputs: Inputs, context: Context) -> Artifact:
    """Clean, gate, deduplicate, hold out and decontaminate documents."""
    from pocketlm.data.contamination.contamination import build_index
    from pocketlm.data.curation import curation, repeats, scan, writing
    from pocketlm.data.curation.curation_report import curation_report
    from pocketlm.data.curation.held_out import cloze_items
    from pocketlm.data.curation.judged_items import judged_items
    from pocketlm.data.curation.planting import plant
    from pocketlm.data.duplicates.earlier import Earlier
    from pocketlm.data.engine import open_engine

    def progress(step: str, done: int, total: int) -> None:
        context.progress(done, total, f"units, {step}")
        context.check_stop()

    earlier = Earlier([artifact.path for artifact in inputs.many("earlier").values()], settings.near_duplicates)
    draft = context.draft("documents")
    with open_engine(context.runtime) as engine:
        documents = inputs["documents"].file("documents.parquet").absolute()  # a cluster's workers stand elsewhere
        corpus = curation.open_corpus(documents, context.work.absolute(), settings, earlier, engine, progress)
        curation.reject_exact_duplicates(corpus)
        comparisons = curation.reject_near_duplicates(corpus, engine)
        segments = repeats.reject_repetitive(corpus, engine)
        cuts = repeats.cut_repeats(corpus, engine, segments, repeats.repeated_span_windows(corpus, engine))

        curation.require_text(corpus, settings.minimum_bytes)
        split = curation.hold_out(corpus, settings.held_out)
        held_out = curation.held_out_documents(corpus, split)
        cloze = cloze_items(held_out.report)
        problems = inputs.get("problems")
        items = judged_items(settings, problems.path if problems else None, cloze, held_out)
        index = build_index(items)
        planted = plant(corpus, index, settings, context.work, engine)
        found = scan.find(corpus, index, engine)
        contaminated = scan.contaminated_items(corpus, found)
        scan.remove(corpus, found, settings.contamination, engine)
        curation.require_text(corpus, settings.minimum_bytes)

        contents = writing.write_corpus(draft.path, corpus, split, progress)
        writing.write_corpus_index(draft.path, corpus, split, settings.near_duplicates)
    draft.write_jsonl("cloze.jsonl", cloze)
    draft.write_jsonl("contaminated_items.jsonl", contaminated)
    figures = curation_report(
        draft.path, context.stage, corpus, split, contents, comparisons, cuts, found, planted, settings
    )
    return draft.commit(*figures)
