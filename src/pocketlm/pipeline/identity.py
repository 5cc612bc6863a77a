"""What a stage's artifact is made of: identity and inputs as its manifest records them, and whether they still hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.fingerprint import differences, fingerprint_of
from pocketlm.pipeline.recipe import Recipe, StageEntry
from pocketlm.pipeline.stage import Inputs


def identity_of(
    recipe: Recipe, entry: StageEntry, artifacts: Mapping[str, Artifact], external: str | None = None
) -> dict[str, Any]:
    """Everything that decides what a stage makes: the content of its fingerprint.

    `external`, if given, stands for the identity of what the stage reads from outside the run.
    """
    inputs: dict[str, Any] = {}
    for name, reference in entry.inputs.items():
        if isinstance(reference, str):
            inputs[name] = artifacts[reference].fingerprint
        else:
            # a list, for the order of the stages counts too
            inputs[name] = [[source, artifacts[source].fingerprint] for source in reference]
    if external is None and entry.definition.external is not None:
        external = entry.definition.external(entry.settings)
    return {
        "stage": entry.definition.name,
        "version": entry.definition.version,
        "seed": recipe.seed_of(entry),
        "settings": entry.settings.identity(),
        "inputs": inputs,
        "external": external,
    }


def inputs_of(entry: StageEntry, artifacts: Mapping[str, Artifact]) -> Inputs:
    """The artifacts that an entry reads, by input name."""
    return Inputs(
        {
            name: artifacts[reference] if isinstance(reference, str) else {item: artifacts[item] for item in reference}
            for name, reference in entry.inputs.items()
        }
    )


def manifest_of(
    entry: StageEntry, identity: dict[str, Any], fingerprint: str, artifacts: Mapping[str, Artifact]
) -> dict[str, Any]:
    """The part of a manifest that is known before the stage has run."""
    return {
        "kind": entry.definition.output,
        "stage": entry.name,
        "version": entry.definition.version,
        "fingerprint": fingerprint,
        "identity": identity,
        "settings": entry.settings.identity(),
        "inputs": references_of(entry, artifacts),
    }


def references_of(entry: StageEntry, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """What a manifest records of its inputs: stage, fingerprint and digest of each."""
    return {
        name: artifacts[reference].reference()
        if isinstance(reference, str)
        else {item: artifacts[item].reference() for item in reference}
        for name, reference in entry.inputs.items()
    }


def out_of_date(
    manifest: Mapping[str, Any], entry: StageEntry, identity: dict[str, Any], artifacts: Mapping[str, Artifact]
) -> list[str]:
    """Why an artifact does not stand for its stage any more, one line a difference; empty when it does.

    An input of the same fingerprint but another digest (made again by other libraries, say) counts as changed.
    """
    if manifest.get("fingerprint") != fingerprint_of(identity):
        return differences(manifest.get("identity", {}), identity) or ["its identity changed"]
    return differences(manifest.get("inputs", {}), references_of(entry, artifacts), "inputs")
