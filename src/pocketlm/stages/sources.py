"""Stage `sources`: text from files, archives, the Hub or the installed Python, as documents with licence and origin.

    sources:
      docs: {path: "python://documentation"}
      mine: {path: "~/my_texts", licence: CC-BY-4.0}
      web: {path: "hf://datasets/OWNER/NAME/data/*.parquet", score_column: score, sample_share: 0.1}

Rows that are no documents (bytes that are not UTF-8, lines that are not JSON, empty or oversized texts) are rejected,
counted and kept with the reason. It does not judge quality: `curate` does.
"""

from __future__ import annotations

from hashlib import sha256

from pydantic import ConfigDict, model_validator

from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, stage


class SourcesSettings(Settings):
    """Name -> source, in order of priority."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, SourceSettings]

    @property
    def by_name(self) -> dict[str, SourceSettings]:
        """The sources in recipe order."""
        return self.__pydantic_extra__

    @model_validator(mode="after")
    def _names_are_usable(self) -> SourcesSettings:
        if not self.by_name:
            raise ValueError('no source is given; add one, such as docs: {path: "python://documentation"}')
        for name in self.by_name:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"source name '{name}': use letters, digits, _ and -")
        return self


def identity(settings: SourcesSettings) -> str:
    """sha256 over the content of all sources in order of priority."""
    from pocketlm.data.sources.sources import content_identity

    return sha256(
        "".join(content_identity(name, source) for name, source in settings.by_name.items()).encode()
    ).hexdigest()


def recheck(settings: SourcesSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Count the stored documents and rejected rows again."""
    from pocketlm.data.sources.recheck import recheck_sources

    return recheck_sources(artifact)


@stage(version=3, inputs={}, output="documents", external=identity, recheck=recheck)
def sources(settings: SourcesSettings, inputs: Inputs, context: Context) -> Artifact:
    """Read every source into documents.parquet; rows that are no documents go to rejects.parquet."""
    from pocketlm.data.documents import DOCUMENTS, REJECTS, TableWriter, excerpt_of
    from pocketlm.data.sources.row_forms import Fault
    from pocketlm.data.sources.source_figures import SourceCounts, version_blocks
    from pocketlm.data.sources.sources import read_source

    draft = context.draft("documents")
    counts = SourceCounts()
    with (
        TableWriter(draft.path / "documents.parquet", DOCUMENTS) as kept,
        TableWriter(draft.path / "rejects.parquet", REJECTS) as rejected,
    ):
        for done, (name, source) in enumerate(settings.by_name.items()):
            account = counts.account(name)
            for entry in read_source(name, source, account, context.check_stop):
                counts.add(entry)
                content = entry.content
                if isinstance(content, Fault):
                    limits = (content.gate, content.value, content.threshold, content.reason)
                    excerpt = excerpt_of(content.excerpt)
                    rejected.write((entry.id, entry.source, *limits, excerpt, ""), len(excerpt))
                else:
                    facts = (entry.licence, entry.origin, entry.score, entry.record)
                    kept.write((entry.id, entry.source, content, *facts), len(content))
                context.progress(done + entry.progress, len(settings.by_name), "source", documents=kept.rows)
                context.check_stop()
            if not counts.documents_of(name):
                raise InputError(
                    f"sources.{name} holds no document (rejected rows: {counts.rejects_of(name)}). "
                    f"Give files with text; for JSONL and Parquet check sources.{name}.text_column."
                )
            if account.passed_over:
                others = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in account.passed_over.items())
                context.warn(f"sources.{name}: files of unknown format were not read: {others}", source=name)
    blocks = [*counts.blocks(), *version_blocks(source.path for source in settings.by_name.values())]
    return draft.commit(counts.metrics(), blocks)
