"""Times in words, and what training would take on a GPU that is not here: datasheets, nothing measured."""

from __future__ import annotations

from pocketlm.planning.peaks import PEAKS

REACHED = 0.33
"""Share of the dense bf16 peak that the run of L20-Edu-135M reached: 38,541 tokens/s x 1.0193 GFLOP (causal) of
119.5 TFLOP/s (arXiv 2606.22189)."""


def elsewhere(operations: float) -> str:
    """One line: how long `operations` FLOP take on each device whose peak is known."""
    times = (f"{peak.name} {duration(operations / (REACHED * peak.teraflops * 1e12))}" for peak in PEAKS)
    return (
        f"on a GPU: {', '.join(times)}, if it reaches {REACHED:.0%} of its dense bf16 peak, as L20-Edu's run did with "
        "135M parameters; small models and steps reach less, sampling and scoring come on top"
    )


def duration(seconds: float) -> str:
    """A time with the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:,.1f} days"
