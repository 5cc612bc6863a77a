"""What sweeps of learning rates in a recipe will do: every model at every rate, as their stage trains them."""

from __future__ import annotations

from dataclasses import dataclass

from pocketlm.model.config import SHAPES
from pocketlm.pipeline.recipe import Recipe, StageEntry
from pocketlm.planning.work import Work, vocabulary_of
from pocketlm.training.sweep_settings import SweepSettings


@dataclass(frozen=True)
class Sweep:
    """One stage that sweeps: `works` are single runs, one of each proxy, and each is made `runs` times.

    A rate changes neither the length nor the memory of a run, so that one stands for all.
    """

    name: str
    rates: int
    seeds: int
    works: tuple[Work, ...]

    @property
    def runs(self) -> int:
        """Runs of each proxy."""
        return self.rates * self.seeds


def sweeps_of(recipe: Recipe) -> list[Sweep]:
    """The sweeps of a recipe in its order.

    Raises:
        InputError: the vocabulary of a sweep is not known.
    """
    return [
        Sweep(
            entry.name,
            len(entry.settings.learning_rates),
            entry.settings.seeds,
            tuple(_run(recipe, entry, entry.settings, proxy) for proxy in entry.settings.proxies),
        )
        for entry in recipe.stages.values()
        if isinstance(entry.settings, SweepSettings)
    ]


def _run(recipe: Recipe, entry: StageEntry, settings: SweepSettings, proxy: str) -> Work:
    shape = SHAPES[proxy]
    model = shape.with_vocabulary(vocabulary_of(recipe, entry, shape))
    training = settings.run_of(model, max(settings.learning_rates))
    return Work(
        name=f"{entry.name} ({proxy})",
        kind="pretraining",
        model=model,
        settings=training,
        steps=training.steps,
        rows=training.batch_rows,
        length=model.context,
        tokens=training.steps * training.batch_rows * model.context,
    )
