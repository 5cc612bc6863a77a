"""How sure a model was of an answer, from the log-probabilities of its tokens.

The log-probability of a token is the model's own, before mask, temperature and filters, as `logprobs` reports it: what
a grammar forced on a model that would have said something else makes the answer less sure. It says how sure the model
was, not whether it was right; `pocketlm bench-serve --router-curve` measures what it is worth on tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

Measure = Literal["mean", "window"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
WINDOW = 8
"""Tokens of a window."""


def confidence(log_probabilities: Sequence[float], measure: Measure = "mean") -> float | None:
    """The confidence of an answer, in nats per token, at most 0; None of an answer without tokens.

    `mean`: the mean log-probability of all its tokens. `window`: the lowest mean of any 8 tokens in a row (of all, if
    there are fewer), which a long sure text around an unsure word does not hide. A log-probability that is no finite
    number makes the confidence None.
    """
    count = len(log_probabilities)
    if not count or not all(map(math.isfinite, log_probabilities)):
        return None
    width = count if measure == "mean" else min(WINDOW, count)
    sums = (math.fsum(log_probabilities[at : at + width]) for at in range(count - width + 1))
    return min(sums) / width
