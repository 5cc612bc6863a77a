"""Stage `conversations`: chats and instructions from files or the Hub, filtered, deduplicated, decontaminated, split.

    sources:
      mine: {path: "chats/*.jsonl", form: messages}
      orca: {path: "orca.parquet", form: prompt_response, prompt_column: question, system_column: system_prompt}

In: nothing from the run; optionally a tokenizer (for a limit in tokens), problems and curated documents (whose scored
and held-out parts no conversation may hold). Out: `training.jsonl`, `selection.jsonl`, and `rejected.jsonl` with the
rule that rejected each row.

It knows no chat template: `sft` renders the turns in the form of the model that it teaches.
"""

from __future__ import annotations

from hashlib import sha256

from pocketlm.data.conversations.conversation_settings import ConversationSettings
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage


class ConversationsSettings(ConversationSettings):
    """Sources, rules and shares."""


def identity(settings: ConversationsSettings) -> str:
    """sha256 over the content of all sources in order of priority, and of the benchmarks."""
    from pocketlm.data.curation.curation_files import files_identity
    from pocketlm.data.curation.curation_settings import CurationSettings
    from pocketlm.data.sources.sources import content_identity

    parts = [content_identity(name, source) for name, source in settings.sources.items()]
    benchmarks = files_identity(CurationSettings(contamination=settings.contamination))
    return sha256(" ".join([*parts, benchmarks]).encode()).hexdigest()


def recheck(settings: ConversationsSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Count the stored conversations and rejected rows again."""
    from pocketlm.data.conversations.recheck import recheck_conversations

    return recheck_conversations(artifact)


@stage(
    version=1,
    inputs={
        "tokenizer": optional("tokenizer"),
        "problems": optional("problems"),
        "documents": optional("documents"),
    },
    output="conversations",
    external=identity,
    recheck=recheck,
)
def conversations(settings: ConversationsSettings, inputs: Inputs, context: Context) -> Artifact:
    """Read conversations, reject what breaks a rule, split off a part to choose by."""
    from pocketlm.data.conversations import steps
    from pocketlm.data.conversations.corpus import read_conversations
    from pocketlm.data.conversations.writing import (
        RowFile,
        conversation_blocks,
        conversation_metrics,
        write_conversations,
    )
    from pocketlm.data.engine import open_engine
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.errors import InputError

    artifact = inputs.get("tokenizer")
    if settings.filters.maximum_tokens is not None and artifact is None:
        raise InputError(
            f"{context.stage}.filters.maximum_tokens needs the input tokenizer to count tokens; name the stage "
            "that makes it, or set filters.maximum_response_characters alone"
        )
    tokenizer = None if artifact is None else Tokenizer.load(artifact.path)

    def progress(share: float, kept: int) -> None:
        context.progress(share, 1.0, "sources", conversations=kept)
        context.check_stop()

    draft = context.draft("conversations")
    with RowFile(draft.path / "rejected.jsonl") as rejected, open_engine(context.runtime) as engine:
        corpus = read_conversations(settings, tokenizer, context.work, rejected.write, progress, context.check_stop)
        steps.reject_duplicates(corpus, settings.near_duplicates, engine)
        items = steps.judged_items(settings.contamination, inputs.get("problems"), inputs.get("documents"))
        steps.reject_contaminated(corpus, items, settings.contamination, engine)
        corpus.require_some("duplicates and contamination")
        selection = steps.choose_selection(corpus, settings.selection_share, settings.selection_maximum)
        steps.reject_over_share(corpus, settings.source_shares, selection)
        seed = context.seed("erase system")
        written = write_conversations(draft.path, corpus, selection, settings, seed, rejected.write, context.check_stop)
    for name in settings.sources:
        if not written.rows_of[name]:
            rules = ", ".join(f"{rule} {count}" for rule, count in corpus.rules_of(name).most_common(3))
            context.warn(f"sources.{name}: none of its {corpus.read[name]} rows was kept (rejected: {rules})")
    return draft.commit(conversation_metrics(corpus, written), conversation_blocks(corpus, written))
