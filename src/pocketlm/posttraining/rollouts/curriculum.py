"""Which prompts a step draws: a share of every level, filtered and ordered by what a profile says of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.pipeline.seeds import generator
from pocketlm.posttraining.rollouts.sampler import by_level

if TYPE_CHECKING:
    from pocketlm.posttraining.examples import Prompt
    from pocketlm.posttraining.rlvr.rlvr_settings import CurriculumSettings

REHEARSAL = 8
"""Steps that go by, on average, before a level's prompts come round again, at least."""


def level_shares(pools: Mapping[str, int], count: int, weights: Mapping[str, float] | None = None) -> dict[str, int]:
    """Prompts of each level in a step: shares by weight (equal without), but of no level more than 1 / `REHEARSAL` of
    its pool.

    A small pool that came round every other step would be learned by heart instead of teaching anything; what such a
    level leaves goes to the others. Raises InputError when the pools are too small for `count` prompts.
    """
    weights = weights or dict.fromkeys(pools, 1.0)
    shares: dict[str, int] = {}
    left, weight_left = count, math.fsum(weights[level] for level in pools)
    for level in sorted(pools, key=lambda level: pools[level] / weights[level]):
        wanted = _up(left * weights[level] / weight_left)
        shares[level] = min(wanted, max(1, pools[level] // REHEARSAL), left)
        left -= shares[level]
        weight_left -= weights[level]
    if left > 0:
        raise InputError(
            f"a step takes {count} prompts, but there are only {sum(pools.values())} RL prompts and a step may take "
            f"one in {REHEARSAL} of each level; lower batch_rows or leave more pairs to the prompts"
        )
    return {level: shares[level] for level in pools}


@dataclass(frozen=True)
class Kept:
    """Prompts by what a profile says of them. `hard`, `easy`: outside the pass rates; `unknown`: not in the profile."""

    prompts: list[Prompt]
    hard: list[Prompt]
    easy: list[Prompt]
    unknown: list[Prompt]

    def __str__(self) -> str:
        left_out = f"{len(self.hard)} too hard, {len(self.easy)} too easy, {len(self.unknown)} not in it"
        return f"{len(self.prompts)} prompts ({left_out})"


def keep_by_pass_rate(
    prompts: Sequence[Prompt], pass_rates: Mapping[str, float], lowest: float, highest: float
) -> Kept:
    """Keep the prompts that succeed now and then, `lowest` <= pass rate <= `highest` (in their order).

    Where nothing or everything succeeds a group is dead. The rates are measured on few samples: a prompt that was kept
    by luck is on average harder or easier than it looked.
    """
    kept = Kept([], [], [], [])
    for prompt in prompts:
        rate = pass_rates.get(str(prompt.row["id"]))
        if rate is None:
            kept.unknown.append(prompt)
        elif rate < lowest:
            kept.hard.append(prompt)
        else:
            (kept.prompts if rate <= highest else kept.easy).append(prompt)
    return kept


def easiest_first(prompts: Sequence[Prompt], pass_rates: Mapping[str, float]) -> list[str]:
    """The levels from easy to hard: by mean pass rate; without rates by their names, numbers as numbers."""
    levels = by_level(prompts)
    if pass_rates:
        means = {
            level: math.fsum(pass_rates[str(prompt.row["id"])] for prompt in pool) / len(pool)
            for level, pool in levels.items()
        }
        return sorted(levels, key=lambda level: -means[level])
    return sorted(levels, key=_natural)


class Draws:
    """The prompts of every step: a pure function of (prompts, curriculum, seed, step).

    Args:
        prompts: the pool.
        count: prompts a step.
        steps: of the whole run, for the curriculum.
        pass_rates: by id, for every prompt, or empty.

    Raises:
        InputError: the pool is too small for `count`.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        count: int,
        seed: int,
        steps: int = 1,
        curriculum: CurriculumSettings | None = None,
        pass_rates: Mapping[str, float] | None = None,
    ) -> None:
        self.count = count
        self._seed, self._steps, self._curriculum = seed, steps, curriculum
        self._levels = by_level(prompts)
        self._sizes = {level: len(pool) for level, pool in self._levels.items()}
        self._order = easiest_first(prompts, pass_rates or {})
        if curriculum is not None and curriculum.by == "pass_rate":
            rates = pass_rates or {}
            for pool in self._levels.values():
                pool.sort(key=lambda prompt: -rates[str(prompt.row["id"])])
        level_shares(self._sizes, count)  # refuses a pool that is too small before anything is sampled

    def draw(self, step: int, attempt: int = 0) -> list[Prompt]:
        """The prompts of a step, of every level its share (`level_shares`), none twice. A further `attempt` of the same
        step takes those that come next, from the beginning again where a level has no others."""
        chosen: list[Prompt] = []
        for number, (level, wanted) in enumerate(level_shares(self._sizes, self.count, self.weights(step)).items()):
            pool = self._levels[level][: self.opened(step, level, wanted)]
            order = generator(self._seed, "rollout prompts", step, 0, number).permutation(len(pool))
            chosen.extend(pool[order[place % len(pool)]] for place in range(attempt * wanted, (attempt + 1) * wanted))
        return chosen

    def weights(self, step: int) -> dict[str, float] | None:
        """Weight of every level; None: all alike. The easiest is open from the start, the others open one by one."""
        if self._curriculum is None or self._curriculum.by != "level":
            return None
        opened = self._opened(step) * (len(self._order) - 1)
        floor = max(self._curriculum.floor, 1e-6)
        return {
            level: floor + (1 - floor) * min(max(opened - place + 1, 0.0), 1.0)
            for place, level in enumerate(self._order)
        }

    def opened(self, step: int, level: str, wanted: int) -> int:
        """Prompts of a level that may be drawn, easiest first; always enough not to rehearse them."""
        size = self._sizes[level]
        if self._curriculum is None or self._curriculum.by != "pass_rate":
            return size
        floor = self._curriculum.floor
        return min(size, max(_up(size * (floor + (1 - floor) * self._opened(step))), wanted * REHEARSAL))

    def _opened(self, step: int) -> float:
        over = self._curriculum.over if self._curriculum is not None else 1.0
        return min(1.0, step / max(1.0, over * self._steps))


def _up(value: float) -> int:
    """The next whole number above, without the rounding error of what should be whole."""
    return math.ceil(value - 1e-9)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts `step 2` before `step 10`."""
    return [
        (not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"([0-9]+)", name) if part
    ]
