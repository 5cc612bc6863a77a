"""How often the 95 % intervals hold the truth, and how often the tests claim what is not there, by simulation.

    python -m bench.statistics_coverage [--repetitions 4000] [--method NAME]

Every interval that evaluation states is drawn many times from worlds whose truth is known, with the functions that
evaluation calls. Prints a table and writes bench/results/statistics_coverage.json: coverage in percent with its
Monte-Carlo error, the misses on either side, and the median width. "holds" is 94 to 96 %, "wide" above, "narrow" below.
Rates of independent items are not simulated: all outcomes are enumerated. For tests the share of false claims at
p < 0.05 stands in place of the coverage; "holds" is 5 % or fewer, within the error.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np

from bench.common import RESULTS, write_result
from bench.statistics_worlds import RESAMPLES, Null, World, nulls, worlds
from pocketlm.statistics.rates import CONFIDENCE, wilson

TOLERANCE = 0.01
Row = dict[str, Any]


def coverage(world: World, repetitions: int, seed: int = 0) -> Row:
    """Coverage of a world's interval, with its Monte-Carlo error."""
    generator = np.random.default_rng([seed, len(world.scenario), world.n])
    found = [world.draw(generator) for _ in range(repetitions)]
    above = sum(estimate.low > truth + 1e-12 for estimate, truth in found)
    below = sum(estimate.high < truth - 1e-12 for estimate, truth in found)
    share = 1 - (above + below) / repetitions
    return {
        "method": world.method,
        "scenario": world.scenario,
        "n": world.n,
        "coverage": share,
        "error": math.sqrt(max(share * (1 - share), 1 / repetitions) / repetitions),
        "truth_below": above / repetitions,
        "truth_above": below / repetitions,
        "median_width": median(estimate.high - estimate.low for estimate, _ in found),
        "verdict": _verdict(share),
    }


def false_claims(null: Null, repetitions: int, seed: int = 0) -> Row:
    """Share of p < 0.05 where there is nothing to find."""
    generator = np.random.default_rng([seed, len(null.scenario), null.n])
    share = sum(null.draw(generator) < 1 - CONFIDENCE for _ in range(repetitions)) / repetitions
    error = math.sqrt(max(share * (1 - share), 1 / repetitions) / repetitions)
    verdict = "holds" if share <= 1 - CONFIDENCE + 2 * error else "narrow"
    name = {"method": null.method, "scenario": null.scenario, "n": null.n}
    return {**name, "false_claims": share, "error": error, "verdict": verdict}


def _verdict(share: float) -> str:
    if abs(share - CONFIDENCE) <= TOLERANCE + 1e-9:
        return "holds"
    return "wide" if share > CONFIDENCE else "narrow"


def wilson_rows(sizes: Sequence[int] = (5, 10, 20, 40, 100, 200, 1000)) -> Iterator[Row]:
    """Exact coverage of Wilson's interval at several rates, and averaged over rates from 0 to 1."""
    from scipy import stats

    for n in sizes:
        bounds = [wilson(successes, n) for successes in range(n + 1)]
        lows, highs = np.array([one.low for one in bounds]), np.array([one.high for one in bounds])
        grid = (np.arange(2000) + 0.5) / 2000
        named = {f"rate {rate:g}": np.array([rate]) for rate in (0.001, 0.01, 0.05, 0.2, 0.5, 0.99)}
        for scenario, rates in {"mean over all rates": grid, **named}.items():
            chances = stats.binom.pmf(np.arange(n + 1)[None], n, rates[:, None])
            held = (lows - 1e-12 <= rates[:, None]) & (rates[:, None] <= highs + 1e-12)
            share = float((chances * held).sum(axis=1).mean())
            width = float((chances * (highs - lows)).sum(axis=1).mean())
            row = {"method": "wilson", "scenario": scenario, "n": n, "coverage": share, "error": 0.0}
            yield {**row, "mean_width": width, "verdict": _verdict(share)}


def main() -> None:
    """Simulate everything, print the table, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--method", help="simulate this one again, and keep the rows of the others as recorded")
    options = parser.parse_args()
    repetitions = options.repetitions
    if options.method:
        rows = _with_method(options.method, repetitions)
    else:
        rows = list(wilson_rows())
        for world in worlds():
            rows.append(coverage(world, repetitions))
            print(_line(rows[-1]), flush=True)
        rows += [false_claims(null, repetitions) for null in nulls()]
    for row in rows:
        if row["method"] in ("wilson", "mcnemar", "sign_flip_test", "place_bias"):
            print(_line(row))
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("holds", "wide", "narrow")}
    print(f"{len(rows)} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    result = {"repetitions": repetitions, "resamples": RESAMPLES, "verdicts": counts, "rows": rows}
    print(write_result("statistics_coverage", result, ("scipy",)))


def _with_method(method: str, repetitions: int) -> list[Row]:
    """The recorded rows, those of one method made anew: each world draws from a stream of its own."""
    recorded = json.loads((RESULTS / "statistics_coverage.json").read_text(encoding="utf-8"))
    if recorded["repetitions"] != repetitions:
        raise SystemExit(f"the recorded rows have {recorded['repetitions']} repetitions, not {repetitions}")
    made = {(world.scenario, world.n): coverage(world, repetitions) for world in worlds() if world.method == method}
    for row in made.values():
        print(_line(row), flush=True)
    places = [(row["scenario"], row["n"]) for row in recorded["rows"] if row["method"] == method]
    if not made or sorted(places) != sorted(made):
        raise SystemExit(f"the worlds of {method!r} are not those recorded: simulate everything")
    return [made[row["scenario"], row["n"]] if row["method"] == method else row for row in recorded["rows"]]


def _line(row: Row) -> str:
    share = row["coverage"] if "coverage" in row else row["false_claims"]
    figures = f"{100 * share:6.2f} % +- {100 * row['error']:.2f}"
    return f"{row['method']:18} {row['scenario']:52} {row['n']:5} {figures}  {row['verdict']}"


if __name__ == "__main__":
    main()
