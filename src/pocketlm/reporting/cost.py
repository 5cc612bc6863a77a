"""What the work of a run cost: time, memory, energy and tokens of every stage, from the ledger and the figures.

All of it depends on clock and machine and stands outside of every digest. No price is assumed: hours and kilowatt-hours
are given, and what to multiply them with is the reader's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.pipeline import figures
from pocketlm.pipeline.figures import Block, Figure
from pocketlm.pipeline.ledger import LEDGER
from pocketlm.reporting import formatting
from pocketlm.reporting.reading import RunView, StageView, read_run

SECONDS_PER_HOUR = 3600
JOULES_PER_KILOWATT_HOUR = 3.6e6

TABLE_NOTE = (
    "Time is that of the process that finished the stage; work before an interruption is not in it, so a stage that "
    "was continued has no rates. Trained tokens are those that the weights were updated on, tokens per second those of "
    "the whole stage, with its validation. Peak memory is that of the whole process up to the end of the stage. All of "
    "it stands outside of every digest."
)
WITHOUT_METER = "Energy was not measured: this machine shows no meter."


@dataclass(frozen=True)
class StageCost:
    """One stage's share. `starts`: how often it was begun before it was committed; None: not measured."""

    stage: str
    starts: int
    seconds: float | None
    peak_memory_bytes: int | None
    energy_joules: float | None
    trained_tokens: int | None
    sampled_tokens: int | None

    @property
    def tokens_per_second(self) -> float | None:
        """Trained tokens per second of the stage; None where it trained none or was interrupted."""
        whole = self.trained_tokens and self.seconds and self.starts <= 1
        return self.trained_tokens / self.seconds if whole and self.trained_tokens and self.seconds else None

    @property
    def joules_per_million_tokens(self) -> float | None:
        """Energy of the stage per million trained tokens; None where either is unknown or it was interrupted."""
        if not self.trained_tokens or self.energy_joules is None or self.starts > 1:
            return None
        return self.energy_joules * 1e6 / self.trained_tokens

    def to_json(self) -> dict[str, Any]:
        """All of it, for `report.json`."""
        return {
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "energy_joules": self.energy_joules,
            "trained_tokens": self.trained_tokens,
            "sampled_tokens": self.sampled_tokens,
            "tokens_per_second": self.tokens_per_second,
            "joules_per_million_tokens": self.joules_per_million_tokens,
        }


def stage_costs(run: RunView) -> list[StageCost]:
    """The costs of every committed stage, in recipe order."""
    starts: dict[str, int] = {}
    needed: dict[int, int] = {}
    for line in run.ledger:
        name = line["body"].get("stage")
        if line["event"] == "stage_started":
            starts[name] = starts.get(name, 0) + 1
        elif line["event"] == "stage_committed":
            needed[line["sequence"]] = starts.pop(name, 0)
    return [_cost(stage, needed.get(stage.committed["sequence"], 0) if stage.committed else 0) for stage in run.stages]


def _cost(stage: StageView, starts: int) -> StageCost:
    work = stage.work
    measured = work.get("seconds"), work.get("peak_memory_bytes"), work.get("energy_joules")
    return StageCost(
        stage.name, starts, *measured, figures.trained_tokens(stage.metrics), _count(stage.metrics, "sampled_tokens")
    )


def _count(metrics: Mapping[str, Figure], name: str) -> int | None:
    value = metrics.get(name, {}).get("value")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class RunCost:
    """Sums over the stages; `energy_joules` is None where no stage was metered."""

    seconds: float
    peak_memory_bytes: int | None
    energy_joules: float | None
    trained_tokens: int


def total(costs: list[StageCost]) -> RunCost:
    """What the whole run cost."""
    metered = [one.energy_joules for one in costs if one.energy_joules is not None]
    return RunCost(
        sum(one.seconds or 0.0 for one in costs),
        max((one.peak_memory_bytes or 0 for one in costs), default=0) or None,
        sum(metered) if metered else None,
        sum(one.trained_tokens or 0 for one in costs),
    )


def price_sentence(cost: RunCost) -> str:
    """What to multiply with a price; none is assumed."""
    hours = f"{cost.seconds / SECONDS_PER_HOUR:,.3g} hours of the machine"
    if cost.energy_joules is None:
        return f"In money: {hours} times its price per hour. No price is assumed here. {WITHOUT_METER}"
    energy = f"{cost.energy_joules / JOULES_PER_KILOWATT_HOUR:,.3g} kWh times the price of electricity"
    return (
        f"In money: {hours} times its price per hour, or {energy} where the machine is yours. No price is assumed here."
    )


def cost_blocks(run: RunView) -> list[Block]:
    """A chart of seconds and a table of everything, by stage."""
    costs = stage_costs(run)
    whole = total(costs)
    columns = ["stage", "time", "peak memory", "trained tokens", "tokens per second"]
    columns += ["energy", "J per million tokens"] if whole.energy_joules is not None else []
    rows = [
        {
            "stage": one.stage,
            "time": formatting.duration(one.seconds) + (f" (start {one.starts})" if one.starts > 1 else ""),
            "peak memory": formatting.data_size(one.peak_memory_bytes),
            "trained tokens": one.trained_tokens,
            "tokens per second": None if one.tokens_per_second is None else round(one.tokens_per_second),
            "energy": formatting.energy(one.energy_joules),
            "J per million tokens": one.joules_per_million_tokens,
        }
        for one in costs
    ]
    timed = [{"stage": one.stage, "seconds": one.seconds} for one in costs]
    chart = figures.bar_chart("Seconds per stage", timed, "stage", "seconds")
    return [chart, figures.table("Time, memory and tokens of every stage", columns, rows, TABLE_NOTE)]


def execution_of(run_folder: Path) -> dict[str, str]:
    """What a model card states of a run beyond its artifacts, in words; empty where the folder holds no ledger."""
    if not (run_folder / LEDGER).is_file():
        return {}
    run = read_run(run_folder)
    cost = total(stage_costs(run))
    started = run.events("run_started")
    machine = dict((started[-1]["body"].get("environment") if started else None) or {})
    versions = machine.pop("versions", {})
    facts = {
        "time of the processes that finished the stages": formatting.duration(cost.seconds),
        "tokens trained on in the whole run, controls included": f"{cost.trained_tokens:,}",
        "energy": formatting.energy(cost.energy_joules),
        "peak memory": formatting.data_size(cost.peak_memory_bytes),
        **{f"machine: {name}": formatting.number(value) for name, value in machine.items()},
        **{f"version: {name}": str(value) for name, value in versions.items()},
        "commit": str(started[-1]["body"].get("commit") or "") if started else "",
        "seal": run.seal or "not sealed: the run has not finished",
    }
    return {name: value for name, value in facts.items() if value}
