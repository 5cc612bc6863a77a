"""What goes wrong in reinforcement learning while the reward still looks well: named rules over the log.

| alarm | fires when |
| --- | --- |
| `dead_groups` | so few groups are live that steps teach next to nothing |
| `entropy` | the tokens' entropy has collapsed: the model no longer explores |
| `length` | completions have grown long against the start |
| `truncated` | many completions are cut: the cap teaches, not the answer |
| `pass_at_k` | held-out pass@k has fallen below the start's: what was sharpened before is lost |
| `verifier_failures` | the verifier fails on more than a few completions |
| `engine_distance` | engine and trainer disagree: what is sampled is not from the model that is trained |

The first five look at means over the last rows of the log, against the first ones where they compare, once there are
so many rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.posttraining.rlvr.figures import total

if TYPE_CHECKING:
    from pocketlm.posttraining.rlvr.rlvr_settings import AlarmSettings

Row = Mapping[str, Any]


class RlvrWatcher:
    """The alarms of a run, and its ends: an alarm of `stop_on`, or a budget that is spent.

    Args:
        token_budget: sampled tokens after which training ends, with the step in which it is reached.
        updates: steps that share a batch: only the first of them compares engine and trainer.
        start: the score before the first step, for pass@k.
    """

    def __init__(self, settings: AlarmSettings, start: Row, token_budget: int | None = None, updates: int = 1) -> None:
        self._settings, self._start = settings, start
        self._token_budget, self._updates = token_budget, updates

    def alarms(self, log: Sequence[Row], scores: Sequence[Row]) -> dict[str, str]:
        """Alarms that hold over the last rows, each with what to say and do."""
        limits, window = self._settings, self._settings.window
        now = log[-window:]
        found = {**self._drifts(log[:window], now), **self._pass_at_k(scores)} if len(log) >= window else {}
        failed = _mean(now, "verifier_failures", 0.0)
        if failed > limits.verifier_failures:
            found["verifier_failures"] = (
                f"the verifier failed on {failed:.1%} of the completions, which were left out: mend the reward"
            )
        # Of a batch that is used again only the first update is free of what the updates themselves changed.
        recent = [row["engine_distance"] for row in log[-self._updates :] if row.get("engine_distance") is not None]
        if recent and min(recent) > limits.engine_distance:
            found["engine_distance"] = (
                f"engine and trainer differ by {min(recent):.3g} nats a token: what is sampled is not what is trained; "
                "set runtime.precision to float32"
            )
        return found

    def ended(self, log: Sequence[Row]) -> str:
        """The alarm that ends training, or the budget that is spent; empty to go on."""
        fatal = [name for name in log[-1].get("alarms", []) if name in self._settings.stop_on]
        if fatal:
            return f"stopped at step {log[-1]['step']} by the alarm {', '.join(fatal)}"
        spent = total(log, "sampled_tokens") if self._token_budget is not None else 0
        if self._token_budget is not None and spent >= self._token_budget:
            return f"spent its budget at step {log[-1]['step']}: {spent:,} of {self._token_budget:,} sampled tokens"
        return ""

    def _drifts(self, first: Sequence[Row], now: Sequence[Row]) -> dict[str, str]:
        limits, found = self._settings, {}
        dead = 1 - _mean(now, "live_groups", 1.0)
        if dead > limits.dead_groups:
            found["dead_groups"] = (
                f"{dead:.0%} of the groups are dead: steps teach next to nothing; filter the prompts by pass rate, or "
                "take larger groups"
            )
        before, after = _mean(first, "entropy", 0.0), _mean(now, "entropy", 0.0)
        if after < limits.entropy * before:
            found["entropy"] = (
                f"the entropy a token fell from {before:.3g} to {after:.3g} nats: the model hardly explores any more; "
                "lower the learning rate, or take harder prompts"
            )
        before, after = _mean(first, "completion_tokens", 1.0), _mean(now, "completion_tokens", 1.0)
        if after > limits.length * before:
            found["length"] = (
                f"completions grew from {before:.1f} to {after:.1f} tokens; look at samples for text that earns "
                "nothing, and take the normalisation `constant`"
            )
        cut = _mean(now, "truncated", 0.0)
        if cut > limits.truncated:
            found["truncated"] = (
                f"{cut:.0%} of the completions are cut at rollouts.max_tokens: raise it, or set rollouts.over_long to "
                "masked"
            )
        return found

    def _pass_at_k(self, scores: Sequence[Row]) -> dict[str, str]:
        if not scores or not ("pass@k" in scores[-1] and "pass@k" in self._start):
            return {}
        before, now = self._start, scores[-1]
        fall = before["pass@k"] - now["pass@k"]
        noise = 2 * math.hypot(before["pass@k.error"], now["pass@k.error"])
        if fall <= max(self._settings.pass_at_k, noise):
            return {}
        return {
            "pass_at_k": f"held-out pass@k fell from {before['pass@k']:.1%} to {now['pass@k']:.1%}: problems that "
            "could be solved before are lost; end here, or lower the learning rate"
        }


def _mean(rows: Sequence[Row], name: str, otherwise: float) -> float:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else otherwise
