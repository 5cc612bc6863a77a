"""Paired tests, corrections and intervals of rates against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest

from pocketlm.statistics.paired_tests import holm, mcnemar
from pocketlm.statistics.pass_until import rate_until
from pocketlm.statistics.rates import wilson

contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
multitest = pytest.importorskip("statsmodels.stats.multitest")
proportion = pytest.importorskip("statsmodels.stats.proportion")


@pytest.mark.parametrize("seed", range(20))
def test_mcnemar_and_holm(seed: int) -> None:
    world = np.random.default_rng(seed)
    p_values = []
    for gain in world.uniform(0, 0.3, 6):
        first, second = world.random(120) < 0.4 + gain, world.random(120) < 0.4
        table = [[int((first & second).sum()), int((first & ~second).sum())]]
        table.append([int((~first & second).sum()), int((~first & ~second).sum())])
        found = mcnemar(first.tolist(), second.tolist())
        assert found.p == pytest.approx(contingency.mcnemar(table, exact=True).pvalue)
        assert (found.for_first, found.for_second) == (table[0][1], table[1][0])
        p_values.append(found.p)
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1].tolist())


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (3, 40), (39, 40), (512, 1319)])
def test_intervals_of_rates(successes: int, n: int) -> None:
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx(
        proportion.proportion_confint(successes, n, method="wilson"), abs=1e-12
    )
    capped = rate_until(max(successes + 1, 2), successes, n)
    assert (capped.low, capped.high) == pytest.approx(
        proportion.proportion_confint(successes, n, method="beta"), abs=1e-12
    )
