"""Stage `mixture`: one training stream from several tokenised sources, by shares, with a cap on repeats.

    mixture:
      inputs: {tokens: [tokenize, tokenize_phase_one]}
      tokens: 3000000000
      shares: {web: 0.6, textbooks: 0.3, tokenize_phase_one: 0.1}

In: one or several `tokens` artifacts of one tokenizer; `replay` adds those of other runs. Out: `tokens` in the same
layout, so that training takes it unchanged; mixture.json (asked, given, released), held_out_removed.jsonl,
croissant.json.

It does not choose shares, and it does not look for near-duplicates between inputs: `curate` does.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from pocketlm.data.tokens.mixture_shares import check_shares
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import EXECUTION, Place, Settings
from pocketlm.pipeline.stage import Inputs, Rederived, many, stage

if TYPE_CHECKING:
    from pocketlm.data.tokens.mixture_release import Release


class MixtureSettings(Settings):
    """How many tokens of which source. A name is a source, `stage/source`, or a stage (all of its sources)."""

    shares: dict[str, float]
    """Name -> share of the released tokens; they sum to 1. Sources without a name are left out."""
    tokens: int = Field(gt=0)
    """Tokens to release; every share may overshoot by its last document."""
    epoch_cap: int = Field(default=4, ge=1)
    """A document is released at most so often."""
    epoch_caps: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Exceptions from `epoch_cap`, by a name of `shares`."""
    shortfall: Literal["refuse", "redistribute"] = "refuse"
    """When a cap binds: stop with the arithmetic, or give the rest to the other shares in proportion."""
    replay: Annotated[dict[str, Place], EXECUTION] = Field(default_factory=dict)
    """Name -> folder of a `tokens` artifact of another run. Names and contents are the identity, not the places."""

    @model_validator(mode="after")
    def _possible(self) -> MixtureSettings:
        check_shares(self.shares)
        for name in self.epoch_caps:
            if name not in self.shares:
                near = difflib.get_close_matches(name, self.shares, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"epoch_caps names {name}, which is not in shares{hint}")
        return self


def identity(settings: MixtureSettings) -> str:
    """sha256 over names and digests of what is replayed."""
    from pocketlm.data.tokens.replay import replay_identity

    return replay_identity(settings.replay)


def recheck(settings: MixtureSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Plan the release again and hold a sample of the stream against it."""
    from pocketlm.data.tokens.mixture_recheck import recheck_release
    from pocketlm.data.tokens.replay import not_as_replayed

    if outside := not_as_replayed(settings.replay, artifact):
        return Rederived((), resting={"*": f"needs what it replays: {outside}"})
    return recheck_release(artifact, _release(settings, _artifacts(settings, inputs), context), context)


@stage(version=1, inputs={"tokens": many("tokens")}, output="tokens", external=identity, recheck=recheck)
def mixture(settings: MixtureSettings, inputs: Inputs, context: Context) -> Artifact:
    """Mix tokenised sources by shares into one stream, documents whole, repeats capped."""
    from pocketlm.data.croissant import token_croissant
    from pocketlm.data.tokens.tokenizer import copy_tokenizer

    artifacts = _artifacts(settings, inputs)
    release = _release(settings, artifacts, context)
    for warning in release.warnings:
        context.warn(warning)
    draft = context.draft("tokens")
    for written in release.write(draft.path):
        context.progress(written, release.tokens, "token")
        context.check_stop()
    draft.write_json("tokens.json", release.summary())
    draft.write_json("mixture.json", {"components": release.components, "ledger": release.ledger})
    draft.write_jsonl("held_out_removed.jsonl", release.held_out.removed)
    copy_tokenizer(next(iter(artifacts.values())).path, draft.path)
    draft.write_json("croissant.json", token_croissant(draft.path, context.stage, release.protocol()))
    return draft.commit(release.metrics(), release.blocks())


def _artifacts(settings: MixtureSettings, inputs: Inputs) -> dict[str, Artifact]:
    """The inputs and what is replayed, by name."""
    from pocketlm.data.tokens.replay import replayed

    artifacts = inputs.many("tokens")
    for name, artifact in replayed(settings.replay, verify=True).items():
        if name in artifacts:
            raise InputError(f"mixture.replay.{name}: an input has this name too; choose another")
        artifacts[name] = artifact
    return artifacts


def _release(settings: MixtureSettings, artifacts: dict[str, Artifact], context: Context) -> Release:
    from pocketlm.data.tokens.mixture_release import Release

    return Release.plan(
        {name: artifact.path for name, artifact in artifacts.items()},
        settings.shares,
        settings.tokens,
        settings.epoch_cap,
        settings.epoch_caps,
        settings.shortfall,
        context.seed("mixture"),
    )
