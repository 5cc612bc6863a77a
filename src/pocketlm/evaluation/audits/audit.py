"""Random documents that a model was trained on: where each came from, what it passed, where it was read.

Behind `pocketlm audit-sample`. A document is drawn from what pretraining read of its streams, followed back through
tokens, mixture and curation to its source, and held to every rule again on the way. What breaks one is a problem.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.data.curation.audit import Curated, audit_curated, rows_of
from pocketlm.data.curation.kept_text import checkable, stored_items
from pocketlm.data.documents import excerpt_of
from pocketlm.data.tokens.fast_encoding import FastEncoder
from pocketlm.data.tokens.replay import not_as_replayed
from pocketlm.data.tokens.shards import TokenShard
from pocketlm.data.tokens.token_ledger import consumed_tokens
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError
from pocketlm.evaluation.held_out.token_bytes import token_bytes
from pocketlm.model.storage import load_config
from pocketlm.pipeline.artifact import FIGURES, Artifact
from pocketlm.pipeline.identity import inputs_of
from pocketlm.pipeline.recorded_hashes import RecordedHash, recorded_hash
from pocketlm.pipeline.seeds import derive_seed, generator
from pocketlm.pipeline.storage import sha256_text
from pocketlm.training.reading import Readings, readings_of
from pocketlm.training.start import read_before
from pocketlm.training.streams import batches_of_streams

if TYPE_CHECKING:
    from pocketlm.data.tokens.mixture_release import Release
    from pocketlm.pipeline.recipe import Recipe, StageEntry
    from pocketlm.training.batches import PhasedBatches

FILES = "Files that were read"


@dataclass
class Audited:
    """A document of a training stream and all that the run folder tells of it.

    Attributes:
        stream: the stage whose tokens training read; place: the document's number in it.
        tokens, first: how many tokens, and the first of them in train.npy.
        readings: training stage -> the steps that read it, or why that cannot be told.
        read_hash, read_hash_of: recorded of what it was read from, and what that is a hash of.
        missing: what cannot be shown, in sentences. problems: what does not hold.
    """

    stream: str
    place: int
    tokens: int
    first: int
    readings: dict[str, Readings | str] = field(default_factory=dict)
    id: str = ""
    source: str = ""
    licence: str = ""
    origin: str = ""
    read_hash: str = ""
    read_hash_of: str = ""
    text_sha256: str = ""
    bytes: int = 0
    excerpt: str = ""
    curation: Curated | None = None
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def read(self) -> bool | None:
        """Whether any step of a pretraining read some of it; None where that cannot be told."""
        known = [read.count > 0 for read in self.readings.values() if isinstance(read, Readings)]
        return True if any(known) else False if known and len(known) == len(self.readings) else None


@dataclass(frozen=True)
class Trained:
    """A pretraining whose batches can be told: `steps` of `batches`."""

    batches: PhasedBatches
    steps: int


class Run:
    """A run folder's recipe and artifacts. Hashes are not looked at: `pocketlm verify` does that."""

    def __init__(self, recipe: Recipe, artifacts: Path) -> None:
        self.recipe = recipe
        self.artifacts = {
            name: Artifact.open(artifacts / name, verify=False) for name in recipe.stages if (artifacts / name).is_dir()
        }

    def entries(self, function: str) -> list[StageEntry]:
        """The stages of a function whose artifacts are there, in recipe order."""
        found = self.recipe.stages.values()
        return [entry for entry in found if entry.definition.name == function and entry.name in self.artifacts]


def audit(recipe: Recipe, artifacts: Path, count: int, seed: int) -> list[Audited]:
    """`count` documents of the streams of pretraining, drawn by `seed` among those of which a step read something, in
    the order of the streams. Only where these are too few, others follow.

    Raises:
        InputError: no stage of the run pretrains on tokens.
    """
    run = Run(recipe, artifacts)
    trainings = {entry.name: (entry, _trained(run, entry)) for entry in run.entries("pretrain")}
    streams = list(dict.fromkeys(name for entry, _ in trainings.values() for name in _many(entry.inputs["tokens"])))
    if not streams:
        raise InputError(f"{artifacts.parent}: no finished stage pretrains on tokens, so there is nothing to draw from")
    shards = {name: TokenShard.open(run.artifacts[name].path) for name in streams}
    sizes = [len(shard.offsets) for shard in shards.values()]
    order = generator(seed, "audit sample").permutation(sum(sizes))
    read = np.concatenate([_read(name, shard, trainings.values()) for name, shard in shards.items()])[order]
    chosen = np.concatenate([order[read], order[~read]])[:count]
    found = []
    for at, (name, shard) in enumerate(shards.items()):
        own = np.sort(chosen[(chosen >= sum(sizes[:at])) & (chosen < sum(sizes[: at + 1]))]) - sum(sizes[:at])
        documents = []
        for place in own.tolist():
            tokens = len(shard.document(place))
            documents.append(Audited(name, place, tokens, int(shard.offsets[place])))
        _follow(run, name, shard, documents)
        for entry, trained in trainings.values():
            if name in _many(entry.inputs["tokens"]):
                _add_readings(entry.name, trained, documents)
        found += documents
    return found


def _read(name: str, shard: TokenShard, trainings: Iterable[tuple[StageEntry, Trained | None]]) -> np.ndarray:
    """Whether a pretraining read some of each document, bool [documents]; a run that cannot be told has read all."""
    read = np.zeros(len(shard.offsets), bool)
    for entry, trained in trainings:
        if name not in _many(entry.inputs["tokens"]):
            continue
        if trained is None:
            return np.ones(len(shard.offsets), bool)
        starts, lengths = trained.batches.pieces(trained.steps).get(
            name, (np.zeros(0, np.int64), np.zeros(0, np.int64))
        )
        lengths = lengths + trained.batches.read_on
        read |= consumed_tokens(np.asarray(shard.offsets), len(shard.tokens), starts, lengths) > 0
    return read


def _many(reference: Any) -> list[str]:
    return [reference] if isinstance(reference, str) else list(reference)


def _follow(run: Run, name: str, shard: TokenShard, documents: list[Audited]) -> None:
    """Back from the stream to documents files, through a mixture where there is one."""
    entry = run.recipe.stages[name]
    if entry.definition.name == "tokenize":
        places = [document.place for document in documents]
        _follow_tokens(run, entry, documents, places, [shard.document(place) for place in places])
        return
    mixed: Any = entry.settings
    if outside := not_as_replayed(mixed.replay, run.artifacts[name]):
        for document in documents:
            document.missing.append(f"which document of which input it is: {outside}")
        return
    release = _release(run, entry)
    for number, item in enumerate(release.inputs):
        drawn = [one for one in documents if int(release.draws["train"].stage[one.place]) == number]
        places = [int(release.draws["train"].document[one.place]) for one in drawn]
        inner = run.recipe.stages.get(item.stage)
        if inner is None or inner.definition.name != "tokenize":
            for document in drawn:
                document.missing.append(f"it comes from {item.stage}, the tokens of another run or mixture")
            continue
        _follow_tokens(run, inner, drawn, places, [shard.document(document.place) for document in drawn])


def _release(run: Run, entry: StageEntry) -> Release:
    from pocketlm.data.tokens.mixture_release import Release

    settings: Any = entry.settings
    folders = {name: run.artifacts[name].path for name in _many(entry.inputs["tokens"])}
    folders |= {name: Path(place) for name, place in settings.replay.items()}
    limits = settings.shares, settings.tokens, settings.epoch_cap, settings.epoch_caps, settings.shortfall
    return Release.plan(folders, *limits, derive_seed(run.recipe.seed_of(entry), "mixture"))


def _follow_tokens(
    run: Run, entry: StageEntry, documents: list[Audited], places: list[int], stored: list[np.ndarray]
) -> None:
    """Text, source and licence of documents of a `tokenize` stage; their tokens must be those of the text."""
    if not documents:
        return
    curated = run.artifacts[_many(entry.inputs["documents"])[0]]
    tokenizer = Tokenizer.load(run.artifacts[_many(entry.inputs["tokenizer"])[0]].path)
    rows = rows_of(curated.file("train.parquet"), places)
    for document, row, ids in zip(documents, rows, stored, strict=True):
        one = row.to_pylist()[0]
        document.id, document.source, document.licence = one["id"], one["source"], one["licence"] or ""
        document.origin, document.bytes = one["origin"] or "", len(one["text"].encode())
        document.text_sha256, document.excerpt = sha256_text(one["text"]), excerpt_of(one["text"])
        again = FastEncoder(tokenizer).encode(row["text"]).ids
        if not np.array_equal(np.append(again, tokenizer.end_of_text), ids):
            document.problems.append("its tokens in train.npy are not those of its text")
    _add_curation(run, curated, documents, rows)


def _add_curation(run: Run, curated: Artifact, documents: list[Audited], rows: list[Any]) -> None:
    entry = run.recipe.stages[curated.stage]
    if entry.definition.name != "curate":
        for document in documents:
            document.missing.append(f"its text comes from {curated.stage}, which holds it to no gate")
        return
    given = run.artifacts[_many(entry.inputs["documents"])[0]]
    problems = run.artifacts[_many(entry.inputs["problems"])[0]] if "problems" in entry.inputs else None
    settings, left_out = checkable(entry.settings, curated)  # type: ignore[arg-type]
    items = stored_items(curated.path, settings, problems.path if problems else None)
    found = audit_curated(rows, given.file("documents.parquet"), curated.path, settings, items)
    hashes = _read_hashes(given, run.recipe.stages[given.stage])
    for document, one in zip(documents, found, strict=True):
        document.curation = one
        document.problems += one.problems
        if read := hashes.get((document.source.partition("/")[0], document.origin)):
            document.read_hash, document.read_hash_of = read.digits, read.words
        else:
            document.missing.append("no hash of what it was read from is recorded")
        document.missing += left_out


def _read_hashes(given: Artifact, entry: StageEntry) -> dict[tuple[str, str], RecordedHash]:
    """(source, origin) -> hash, as the stage `sources` recorded them in its table of files."""
    settings: Any = entry.settings
    places = {name: source.path for name, source in getattr(settings, "by_name", {}).items()}
    blocks = given.read_json(FIGURES)["blocks"]
    rows = [row for block in blocks if block.get("title") == FILES for row in block["rows"]]
    return {(row["source"], row["file"]): recorded_hash(row["sha256"], places.get(row["source"], "")) for row in rows}


def _add_readings(stage: str, trained: Trained | None, documents: list[Audited]) -> None:
    """The steps of a training stage that read the documents."""
    for document in documents:
        if trained is None:
            document.readings[stage] = "the run left batches out after a spike; which, the log does not say"
        else:
            place = document.stream, document.first, document.tokens
            document.readings[stage] = readings_of(trained.batches, trained.steps, *place)


def _trained(run: Run, entry: StageEntry) -> Trained | None:
    """The batches of a training stage; None where it left some out, for the log does not say which."""
    artifact = run.artifacts[entry.name]
    if artifact.metrics["batches_left_out"]:
        return None
    settings: Any = entry.settings
    inputs = inputs_of(entry, run.artifacts)
    tokens = inputs.many("tokens")
    window = load_config(artifact.path).context
    phases = settings.plan(window, list(tokens))
    border = token_bytes(artifact.file("tokenizer.json")).index(b"")
    before = read_before(inputs.get("start"), settings.start_at)
    begun = {
        (name, length): windows
        for name, one in tokens.items()
        for (digest, length), windows in before.items()
        if digest == one.digest
    }
    streams = {name: TokenShard.open(one.path) for name, one in tokens.items()}
    seed = derive_seed(run.recipe.seed_of(entry), "order")
    batches = batches_of_streams(streams, phases, settings.packing, border, seed, begun)
    return Trained(batches, int(artifact.metrics["steps"]))
