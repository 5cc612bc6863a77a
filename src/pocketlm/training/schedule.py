"""Learning rate as a pure function of the step.

`learning_rate` is that of a run of one phase. `rate_share` and `warm_up` are its parts: a run of several phases is made
of the same two.
"""

import math

from pocketlm.training.settings import RateShape, TrainingSettings


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Rate of step `step` (from 0).

    Linear warm-up; then `wsd` stays at the peak and falls over the last `decay_fraction` of all steps as `decay_shape`
    says (arXiv 2405.18392), `cosine` and `linear` fall from the end of the warm-up on, `constant` stays.
    """
    begin, peak = settings.warmup_steps, settings.learning_rate
    if step < begin:
        return warm_up(0.0, peak, step, begin)
    shape: RateShape
    if settings.schedule == "wsd":
        begin = max(begin, settings.steps - round(settings.decay_fraction * settings.steps))
        shape = settings.decay_shape
    else:
        shape = settings.schedule
    return peak * rate_share(shape, (step - begin) / max(1, settings.steps - begin), 1.0, settings.final_fraction)


def rate_share(shape: RateShape, done: float, begin: float, end: float) -> float:
    """Rate on the way from `begin` to `end`, of which the share `done` lies behind (taken as 0 below 0, 1 above 1).

    `one_minus_sqrt` falls steeply at first, the best cooldown of arXiv 2405.18392, section 3; `constant` stays at
    `begin`.
    """
    done = min(1.0, max(0.0, done))
    if shape == "constant":
        return begin
    if shape == "cosine":
        remaining = 0.5 * (1 + math.cos(math.pi * done))
    elif shape == "one_minus_sqrt":
        remaining = 1 - math.sqrt(done)
    else:
        remaining = 1 - done
    return end + (begin - end) * remaining


def warm_up(begin: float, end: float, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of a linear warm-up that leaves `begin` and is at `end` in its last step."""
    return begin + (end - begin) * (step + 1) / steps
