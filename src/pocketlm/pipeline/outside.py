"""What a stage read from outside of its run: whether it still is what it was when the artifact was made.

A run folder answers for its own files. What lies elsewhere belongs to others, who may change it or take it away, and
the run is none the worse for it: what would need that file again then rests on hashes, and the file is named. It is no
difference between what a run states and what it holds.

Not covered: telling a file that somebody changed since from a recorded hash that was rewritten with the whole run; the
seal tells.
"""

from __future__ import annotations

from collections.abc import Callable

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact

SHOWN_DIGITS = 16


def changed_outside(artifact: Artifact, what: str, identity: Callable[[], str]) -> str:
    """Why what a stage read from outside is no evidence any more, for a reader; empty while it is as it was.

    Args:
        what: the file or files, by name and place, as in `outside file /data/pairs.jsonl`.
        identity: of their content now, as the stage makes its `external`; InputError or OSError when they are gone.
    """
    recorded = artifact.external
    was = f"recorded is the content hash {recorded[:SHOWN_DIGITS]}" if recorded else "no content hash is recorded"
    try:
        now = identity()
    except (InputError, OSError) as error:
        return f"the {what} cannot be read as it was ({error}); {was}"
    if now == recorded:
        return ""
    return f"the {what} changed: its content hash is {now[:SHOWN_DIGITS]} now, {was}"
