"""Rendering of a foreign chat template in a child process, where it can be stopped.

jinja2's sandbox keeps a template from Python's internals, but not from looping for ever or from making a string of a
terabyte. So it is rendered beside us (`chat_template_child.py`), with bounds on characters, processor time and memory.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from pocketlm.data.unicode import half_a_pair
from pocketlm.errors import InputError

CHILD = Path(__file__).with_name("chat_template_child.py")
MOST_CHARACTERS = 4_000_000
"""Of one rendering."""
MOST_SECONDS = 5.0
"""Of processor time for one rendering."""
MOST_MEMORY = 1 << 30
"""Address space of the child."""
MOST_ANSWER_BYTES = 1 << 28
GENERATION_MARKS = "\ufdd1", "\ufdd2"
"""Noncharacters that stand around what a `{% generation %}` block rendered."""

Message = Mapping[str, str]
Cut = tuple[int, bool]
"""How many of the messages are rendered, and whether the generation prompt follows them."""


class TemplateRefusal(InputError):
    """A conversation that the template does not take; others it may."""


class TemplateProcess:
    """Renders one template; the child is started when it is first needed, and again after it was ended.

    Args:
        source: Jinja source.
        variables: what it may name besides the messages: bos_token, eos_token, ...
        origin: the file, for messages.
    """

    def __init__(self, source: str, variables: Mapping[str, str], origin: str) -> None:
        self._given = {"template": source, "variables": dict(variables), "marks": list(GENERATION_MARKS)}
        self._origin = origin
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None

    def render(self, messages: Sequence[Message], cuts: Sequence[Cut]) -> list[str]:
        """The text of every cut.

        Raises:
            TemplateRefusal: the template says that it does not take these messages.
            InputError: the template is broken, reaches out of its sandbox, or takes more than is allowed.
        """
        if self._process is None:
            self._start()
        answer = self._exchange({"messages": [dict(message) for message in messages], "cuts": list(cuts)})
        texts = [str(text) for text in answer["texts"]]
        if any(map(half_a_pair, texts)):
            raise self._fault("it writes half of a surrogate pair")
        return texts

    def close(self) -> None:
        """End the child."""
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _start(self) -> None:
        command = [sys.executable, "-IB", str(CHILD), str(MOST_CHARACTERS), str(MOST_SECONDS), str(MOST_MEMORY)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=tempfile.gettempdir(),
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, self._process)
        self._exchange(self._given)

    def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        process = cast("subprocess.Popen[bytes]", self._process)
        to_child, from_child = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        line = b""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            to_child.write(json.dumps(request).encode() + b"\n")
            to_child.flush()
            line = from_child.readline(MOST_ANSWER_BYTES)
        if not line.endswith(b"\n"):
            self.close()
            ended = process.returncode == -signal.SIGPROF
            reason = f"it takes more than {MOST_SECONDS:g} s" if ended else "its process ended, out of memory perhaps"
            raise self._fault(reason)
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise TemplateRefusal(
                f"{self._origin}: the chat template does not take this conversation: {answer['refused']}"
            )
        if "fault" in answer:
            self.close()
            raise self._fault(answer["fault"])
        return answer

    def _fault(self, reason: str) -> InputError:
        return InputError(
            f"{self._origin}: the chat template cannot be rendered: {reason}. Mend it, or replace it by the template "
            "that the model was made with"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # nothing happens to one that has ended
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was not yet written has no reader
            cast(IO[bytes], stream).close()
