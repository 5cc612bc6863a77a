"""Energy and money for one successful task. What is not known is said to be unknown; nothing is guessed.

Energy is what this machine's counters add up to while the tasks are asked (NVML of the GPUs, RAPL of the CPU packages):
of the whole machine, idle share and other work included. It is known only where the server runs here and every kind of
processor that can do the work has a counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.pipeline.environment import EnergyMeter
from pocketlm.pipeline.figures import Figure, figure
from pocketlm.statistics.rates import wilson

JOULES_PER_KILOWATT_HOUR = 3.6e6
SECONDS_PER_HOUR = 3600
DRIVER = Path("/proc/driver/nvidia/gpus")

ENERGY_FORMULA = "joules of all rounds of this way / tasks that succeeded"
COST_FORMULA = (
    "(price per hour x hours of all rounds of this way + price per kWh x kWh of them) / tasks that succeeded; "
    "a price that was not given is left out"
)
NO_PRICE = "no price was given (--price-per-hour, --price-per-kwh)"
NO_READING = "a counter ran over or vanished"
NO_SUCCESS = "no task succeeded"


@dataclass(frozen=True)
class Prices:
    """In any one currency; None: not given."""

    per_hour: float | None = None
    per_kilowatt_hour: float | None = None

    def cost(self, seconds: float, joules: float | None) -> float | None:
        """Of so much time and energy, with the prices that were given; None without one, or without the energy."""
        if self.per_hour is None and self.per_kilowatt_hour is None:
            return None
        by_time = (self.per_hour or 0.0) * seconds / SECONDS_PER_HOUR
        if self.per_kilowatt_hour is None:
            return by_time
        return None if joules is None else by_time + self.per_kilowatt_hour * joules / JOULES_PER_KILOWATT_HOUR


@dataclass(frozen=True)
class Metering:
    """Which energy counters are read, or why none (`why_not`, then `counters` is empty)."""

    counters: tuple[str, ...]
    why_not: str = ""


def find_meter(here: bool) -> Metering:
    """Whether the energy of a server can be known. `here`: it runs on this machine."""
    if not here:
        return Metering((), "the server is on another machine, whose counters cannot be read from here")
    counters = EnergyMeter().counters
    if not counters:
        return Metering((), "this machine shows no energy counter")
    if DRIVER.is_dir() and not any(name.startswith("gpu") for name in counters):
        return Metering((), "the counter of the GPU needs nvidia-ml-py (extra `gpu`)")
    return Metering(counters)


def none(why: str, n: int | None = None) -> Figure:
    """A figure without a value, and why it has none."""
    return {"value": None, "why": why} | ({} if n is None else {"n": n})


def energy_per_success(joules: float | None, successes: int, n: int, why_not: str) -> Figure:
    """Joules for one successful task; the bounds are those of the success rate, turned round."""
    if joules is None:
        return none(why_not, n)
    return _per_success(joules, successes, n, "J")


def cost_per_success(prices: Prices, seconds: float, joules: float | None, successes: int, n: int, why: str) -> Figure:
    """Money for one successful task, by `COST_FORMULA`."""
    cost = prices.cost(seconds, joules)
    if cost is not None:
        return _per_success(cost, successes, n, "")
    unpriced = prices.per_hour is None and prices.per_kilowatt_hour is None
    return none(NO_PRICE if unpriced else f"the energy is unknown: {why}", n)


def total_joules(joules: Sequence[float | None]) -> float | None:
    """The sum, if every round has been metered."""
    known = [value for value in joules if value is not None]
    return sum(known) if known and len(known) == len(joules) else None


def _per_success(amount: float, successes: int, n: int, unit: str) -> dict[str, Any]:
    """amount / successes. The amount is taken as it was; what could have been otherwise is which tasks succeed."""
    if not successes:
        return none(NO_SUCCESS, n)
    rate = wilson(successes, n)
    return figure(amount / successes, n=n, low=amount / (n * rate.high), high=amount / (n * rate.low), unit=unit)
