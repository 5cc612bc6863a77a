"""What a model was made from, as far as the artifacts beside it say: a walk along the digests in their manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.figures import trained_tokens
from pocketlm.pipeline.storage import MANIFEST

LICENCES = "licences.json"


@dataclass(frozen=True)
class Training:
    """One stage that trained, and on how many tokens."""

    stage: str
    tokens: int
    digest: str


@dataclass(frozen=True)
class Corpus:
    """Curated documents that the model was trained on.

    `licences`: licence -> {"documents", "bytes"}; `card`: whether a data card lies beside them.
    """

    stage: str
    digest: str
    licences: Mapping[str, Mapping[str, int]]
    card: bool

    def total(self, what: str) -> int:
        """Documents or bytes over all licences."""
        return sum(counts[what] for counts in self.licences.values())


def lineage_of(model: Artifact) -> list[Artifact]:
    """The artifact and everything that it was made from and that still lies beside it with the recorded digest.

    What is read stands before what reads it. Files are not re-hashed here.
    """
    found: dict[str, Artifact] = {}

    def visit(artifact: Artifact) -> None:
        for reference in references(artifact):
            path = artifact.path.parent / reference["stage"]
            if reference["stage"] not in found and (path / MANIFEST).is_file():
                parent = Artifact.open(path, verify=False)
                if parent.digest == reference["digest"]:
                    visit(parent)
        found.setdefault(artifact.stage, artifact)

    visit(model)
    return list(found.values())


def references(artifact: Artifact) -> Iterator[Mapping[str, str]]:
    """{stage, fingerprint, digest} of every artifact that one was made from."""
    for entry in artifact.manifest.get("inputs", {}).values():
        yield from [entry] if "digest" in entry else entry.values()


def trainings(lineage: Sequence[Artifact]) -> list[Training]:
    """The stages that updated weights, in the order of their work."""
    counted = [(artifact, trained_tokens(artifact.metrics)) for artifact in lineage if artifact.kind == "model"]
    return [Training(artifact.stage, tokens, artifact.digest) for artifact, tokens in counted if tokens]


def corpora(lineage: Sequence[Artifact]) -> list[Corpus]:
    """The documents that were made into tokens; those that only served as a measure or as a test are not among them."""
    tokenized = {one["stage"] for artifact in lineage if artifact.kind == "tokens" for one in references(artifact)}
    return [corpus(artifact) for artifact in lineage if artifact.stage in tokenized and LICENCES in _files(artifact)]


def corpus(documents: Artifact) -> Corpus:
    """Curated documents with what they are licensed under."""
    return Corpus(documents.stage, documents.digest, documents.read_json(LICENCES), "README.md" in _files(documents))


def _files(artifact: Artifact) -> Mapping[str, Any]:
    return artifact.manifest["files"]
