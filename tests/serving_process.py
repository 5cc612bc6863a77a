"""A server process over a scripted engine, for tests that send signals: `python -m tests.serving_process '{...}'`.

The argument's fields: slots, seconds (of a step), tokens (of an answer), limits. It prints its address and serves.
"""

from __future__ import annotations

import json
import sys

from pocketlm.serving.limits import Limits
from pocketlm.serving.serve_settings import ServeSettings
from pocketlm.serving.server import bound_socket, run
from tests.serving_world import ScriptedEngine, served, tokenizer


def main() -> None:
    given = json.loads(sys.argv[1])
    limits = Limits(**given.get("limits", {}))
    words = tokenizer().encode("the ") * given.get("tokens", 10)
    engine = ScriptedEngine(
        slots=given.get("slots", 4),
        seconds=given.get("seconds", 0.0),
        script=lambda request, sample: [*words[: given.get("tokens", 10)], tokenizer().im_end],
    )
    with bound_socket("127.0.0.1", 0) as listener:
        settings = ServeSettings(limits=limits)
        run({"toy": served(engine, limits)}, settings, None, listener, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
