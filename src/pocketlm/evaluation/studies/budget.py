"""What an arm of a study spent: the tokens of all stages between the start and its model, read from their manifests.

Counted is whatever was made on the way: models, and samples of models. Not counted are what stands in `FREE`: data that
no arm made, a teacher's own training, and the input `budget`, which is a number only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.errors import InputError

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact

FREE = ("budget", "teacher", "problems", "documents", "tokens", "tokenizer", "conversations")
"""Inputs that cost an arm nothing, by name."""
TAUGHT = "distil"
"""The stage whose `samples` may be those of a teacher, which are free as well. Not free are those of the model that
learns from them, or of a start: an arm drew them itself."""


@dataclass(frozen=True)
class Spent:
    """Tokens that an arm's stages state, every sequence counted with its own prompt."""

    sampled_tokens: int
    optimized_tokens: int

    def flops(self, matrix_parameters: int) -> float:
        """2 a parameter for a sampled token, 6 for an optimized one; attention is left out (arXiv 2001.08361)."""
        return float(matrix_parameters * (2 * self.sampled_tokens + 6 * self.optimized_tokens))


def spent(model: Artifact, starts: Collection[str], known: Mapping[str, Artifact]) -> Spent:
    """What was spent on the way from a start to `model`; a start itself spent nothing.

    Args:
        starts: digests of the models that the study starts from.
        known: digest -> every artifact that the study was handed. Whose the samples of a `distil` stage are is seen of
            those alone that are in it.

    Raises:
        InputError: something on the way is not known, so that what it cost cannot be counted.
    """
    way: dict[str, Artifact] = {}
    pending = [model]
    while pending:
        artifact = pending.pop()
        if artifact.digest in starts or artifact.digest in way:
            continue
        way[artifact.digest] = artifact
        for reference in _read(artifact, starts, known):
            if reference["digest"] in starts:
                continue
            if reference["digest"] not in known:
                raise InputError(
                    f"study: {model.stage} was made with {reference['stage']} (input of {artifact.stage}), whose "
                    "tokens must be counted too, or which is the start; name it in the study's inputs, under "
                    "`through` or `start`"
                )
            pending.append(known[reference["digest"]])
    names = ("sampled_tokens", "optimized_tokens")
    return Spent(*(sum(_count(artifact, name) for artifact in way.values()) for name in names))


def _count(artifact: Artifact, name: str) -> int:
    value = artifact.metrics.get(name, 0)
    return value if isinstance(value, int) else 0


def _read(artifact: Artifact, starts: Collection[str], known: Mapping[str, Artifact]) -> Iterator[Mapping[str, Any]]:
    inputs = artifact.manifest["inputs"]
    taught = artifact.manifest["identity"]["stage"] == TAUGHT
    own = {*starts, inputs["model"]["digest"]} if taught else set()
    for name, entry in inputs.items():
        if name in FREE or (taught and name == "samples" and _sampled_model(entry, known) not in own):
            continue
        yield from [entry] if "digest" in entry else entry.values()


def _sampled_model(samples: Mapping[str, Any], known: Mapping[str, Artifact]) -> str | None:
    """Digest of the model that drew samples, None where the study was not handed them."""
    drawn = known.get(samples["digest"])
    return None if drawn is None else str(drawn.manifest["inputs"]["model"]["digest"])
