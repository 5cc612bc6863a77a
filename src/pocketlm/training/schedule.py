"""Learning rate as a pure function of the step."""

import math

from pocketlm.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Rate of step `step` (from 0).

    Linear warm-up; then `wsd` stays at the peak and falls linearly over the last `decay_fraction` of all steps
    (arXiv 2405.18392), `cosine` falls from the end of the warm-up on, `constant` stays.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "cosine":
        begin = settings.warmup_steps
    else:
        begin = max(settings.warmup_steps, settings.steps - round(settings.decay_fraction * settings.steps))
    done = max(0.0, (step - begin) / max(1, settings.steps - begin))
    remaining = 0.5 * (1 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1 - done
    return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * remaining)
