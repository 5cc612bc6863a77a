"""What the settings of several stages show to be impossible together, before anything is made.

Stages refuse the same when they open what they read; that may be hours later. What only the files can tell (two given
tokenizers, parts of a source) is left to them. Knows no torch and no stage.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings
from pocketlm.pipeline.recipe import Recipe, StageEntry
from pocketlm.training.phased_settings import PhasedSettings
from pocketlm.training.phases import Phase, Phases


def before(recipe: Recipe, name: str) -> list[StageEntry]:
    """The stage of this name and all that it is made from, nearest first."""
    found, pending = [], [name]
    while pending:
        entry = recipe.stages[pending.pop(0)]
        if entry not in found:
            found.append(entry)
            pending += entry.input_names()
    return found


def refuse_absent_sources(recipe: Recipe, mixture: StageEntry) -> None:
    """InputError when a mixture shares out what none of its inputs can hold."""
    shares: dict[str, float] = getattr(mixture.settings, "shares", {})
    stages = mixture.input_names()
    made_from = [earlier for stage in stages for earlier in before(recipe, stage)]
    sources = {source for earlier in made_from for source in getattr(earlier.settings, "by_name", ())}
    if not sources or any(getattr(entry.settings, "replay", None) for entry in (mixture, *made_from)):
        return
    # A name is a source, one of its parts (`source/part`), a stage, or both (`stage/source`).
    for name in shares:
        first, _, rest = name.partition("/")
        if name in stages or first in sources or (first in stages and rest.partition("/")[0] in sources):
            continue
        known = sorted({*sources, *stages})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{mixture.name}.shares: there is no source or stage {name!r}{hint}; there are: {', '.join(known)}"
        )


def refuse_several_tokenizers(recipe: Recipe, entry: StageEntry) -> None:
    """InputError when tokens, or the model that training starts from, were made with another learned tokenizer."""
    makers: dict[str, StageEntry] = {}
    for name in entry.input_names():
        for earlier in before(recipe, name):
            if earlier.definition.output == "tokenizer":
                makers[name] = earlier
                break
    learned = [(name, one) for name, one in makers.items() if getattr(one.settings, "path", None) is None]
    for name, one in learned[1:]:
        first, other = learned[0]
        if (one.settings, one.inputs) != (other.settings, other.inputs):
            raise InputError(
                f"{entry.name} reads {first} and {name}, which are made with two tokenizers ({other.name} and "
                f"{one.name}), so that their token ids mean different things; tokenize both with one"
            )


def refuse_unused_average(entry: StageEntry) -> None:
    """InputError when a stage that ends with the weights of its best score averages its last ones."""
    if getattr(entry.settings, "tail_average", None) is not None:
        raise InputError(
            f"{entry.name}.tail_average blends the last weights, but this stage ends with those of its best score, so "
            "that it would do nothing; leave it out"
        )


def refuse_start(recipe: Recipe, entry: StageEntry, shape: ModelSettings, started: ModelSettings | None) -> None:
    """InputError when training cannot start where its settings say: at a model of the shape `started`, or nowhere."""
    wanted, start = getattr(entry.settings, "start_at", None), entry.inputs.get("start")
    if not isinstance(start, str) or started is None:
        if wanted is not None:
            raise InputError(
                f"{entry.name}.start_at names a milestone, but there is no input `start` to take it from; name the "
                "stage that keeps it"
            )
        return
    try:
        shape.require_continues(started, start)
    except InputError as error:
        raise InputError(f"{entry.name}.{error}") from None
    if wanted is not None:
        _refuse_unknown_milestone(recipe, entry, start, started.context, wanted)


def _refuse_unknown_milestone(recipe: Recipe, entry: StageEntry, start: str, context: int, wanted: int) -> None:
    settings = recipe.stages[start].settings
    if not isinstance(settings, PhasedSettings):
        return
    step = settings.batch_rows * context
    there = [-(-tokens // step) * step for tokens in settings.milestones]
    if wanted not in there:
        listed = ", ".join(f"{tokens:,}" for tokens in there) or "none"
        raise InputError(
            f"{entry.name}.start_at is {wanted:,}, but {start} keeps these milestones (whole steps of {step:,} "
            f"tokens): {listed}"
        )
    for name in ("optimizer", "normalise_rows"):
        here, then = getattr(entry.settings, name), getattr(settings, name)
        if here != then:
            raise InputError(
                f"{entry.name}.start_at takes up the optimizer state of {start}, but {name} is {here!r} here and "
                f"{then!r} there; set it as there, or leave out start_at to begin with a new state"
            )


def refuse_more_than_released(recipe: Recipe, name: str, asked: Sequence[Phase], phases: Phases) -> None:
    """InputError when phases read a mixture further than it reaches.

    A mixture releases no document more often than its cap; reading it twice would.
    """
    read: Counter[str] = Counter()
    for phase, stretch in zip(asked, phases.stretches, strict=True):
        read[stretch.data] += phase.tokens
    for source, tokens in read.items():
        mixture = recipe.stages[source].settings
        released = getattr(mixture, "tokens", None)
        if isinstance(released, int) and tokens > released:
            pairs = zip(asked, phases.stretches, strict=True)
            parts = [f"{phase.tokens:,}" for phase, stretch in pairs if stretch.data == source]
            total = f"{' + '.join(parts)} = {tokens:,}" if len(parts) > 1 else parts[0]
            raise InputError(
                f"{name} reads {total} tokens of {source}, which releases {released:,} "
                f"({source}.tokens) so that no document comes more than {getattr(mixture, 'epoch_cap', 1)} times; "
                f"raise {source}.tokens to {tokens:,} or shorten the phases"
            )
