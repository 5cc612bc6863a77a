"""What a stage looks for in the log of its own run."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Row = Mapping[str, Any]


class Watcher(Protocol):
    """Asked whenever a row of the log closes. Its answers depend on what it is handed alone, so that a run that was
    killed ends where the other would."""

    def alarms(self, log: Sequence[Row], scores: Sequence[Row]) -> Mapping[str, str]:
        """What is alarming now: name -> what to say about it. Each name is said once; the rows of the log keep all.

        Args:
            log: rows so far, at least one.
            scores: rows of the validation so far.
        """

    def ended(self, log: Sequence[Row]) -> str:
        """Why training ends here; empty to go on. The last row names the alarms that were found in it."""
