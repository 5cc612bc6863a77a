"""The behaviour tasks by name.

The items are published with the package. Whoever trains on them, or on text that quotes them, measures memory: their
scores are for models that never saw them. No contamination index looks for them (docs/behaviour.md says why).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pocketlm.evaluation.behaviour import bullets, endings, execution, facts, json_objects, system
from pocketlm.evaluation.behaviour.task import BehaviourTask

FACTS, JSON, BULLETS = "behaviour_facts", "behaviour_json", "behaviour_bullets"
ENDINGS, SYSTEM, EXECUTION = "behaviour_endings", "behaviour_system", "behaviour_execution"

_OTHERS = {
    FACTS: facts.items,
    JSON: json_objects.items,
    BULLETS: bullets.items,
    SYSTEM: system.items,
    EXECUTION: execution.items,
}

TASKS: Mapping[str, BehaviourTask] = {
    FACTS: BehaviourTask("short facts, word for word in the first sentence", 48, facts.items, facts.check),
    JSON: BehaviourTask("a JSON object with given keys and values", 128, json_objects.items, json_objects.check),
    BULLETS: BehaviourTask("exactly N bullet points", 320, bullets.items, bullets.check),
    ENDINGS: BehaviourTask("answers that end by themselves", 256, partial(endings.items, _OTHERS), endings.check),
    SYSTEM: BehaviourTask("rules of a system message, over three turns", 96, system.items, system.check),
    EXECUTION: BehaviourTask("steps of a running sum before the first error", 348, execution.items, execution.check),
}
