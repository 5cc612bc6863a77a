"""The child process in which a foreign chat template is rendered: a stand-alone script, started with `python -I`.

    chat_template_child.py CHARACTERS SECONDS MEMORY_BYTES

The first line on standard input is {"template", "variables", "marks": [start, end]}; every later line is
{"messages", "cuts": [[how many messages, whether the generation prompt follows], ...]}. Each is answered by one line:
{} or {"texts": [...]}, {"refused": reason} where the template called raise_exception, {"fault": reason} otherwise.

What a rendering may take is bounded: characters as they are made, processor time by a timer whose signal ends the
process, memory by the address space. Files cannot be written.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TODAY = datetime(2024, 7, 26)
"""What strftime_now says: a text that changes from day to day could not be made again. Llama 3.2's own default."""
NOT_REPEATABLE = {"globals": "lipsum", "filters": "random"}


class Refused(TemplateError):
    """The template itself does not take these messages."""


class TooLong(Exception):
    """The rendering is longer than allowed."""


class GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant says, put between two marks."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a call of `_marked` on its content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        marks: Any = self.environment.globals["generation_marks"]
        return f"{marks[0]}{caller()}{marks[1]}"


def environment_with(marks: list[str]) -> ImmutableSandboxedEnvironment:
    """What transformers gives a chat template, less what is not the same each time."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )

    def raise_exception(message: object) -> None:
        raise Refused(str(message))

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    for kind, name in NOT_REPEATABLE.items():
        getattr(environment, kind).pop(name)
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    environment.globals["generation_marks"] = marks
    return environment


def rendered(template: Any, variables: dict[str, str], request: dict[str, Any], limits: tuple[int, float]) -> list[str]:
    """The texts of all cuts of a conversation."""
    texts = []
    for count, asked in request["cuts"]:
        signal.setitimer(signal.ITIMER_PROF, limits[1])
        pieces, size = [], 0
        messages = request["messages"][:count]
        for piece in template.generate(messages=messages, add_generation_prompt=asked, tools=None, **variables):
            size += len(piece)
            if size > limits[0]:
                raise TooLong(f"it renders more than {limits[0]:,} characters")
            pieces.append(piece)
        texts.append("".join(pieces))
    return texts


def answer_to(make: Callable[[], dict[str, Any]]) -> None:
    """Write what `make` returns, or why it failed, as one line."""
    try:
        answer = make()
    except Refused as error:
        answer = {"refused": str(error)[:500]}
    except TooLong as error:
        answer = {"fault": str(error)}
    except MemoryError:
        answer = {"fault": "it takes more memory than allowed"}
    except Exception as error:  # whatever a template does wrong is its fault
        answer = {"fault": f"{type(error).__name__}: {error}"[:500]}
    signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve requests until standard input ends."""
    limits = int(sys.argv[1]), float(sys.argv[2])
    given = json.loads(sys.stdin.readline())
    environment = environment_with(given["marks"])
    memory = int(sys.argv[3])
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    template: Any = None

    def compile_template() -> dict[str, Any]:
        nonlocal template
        signal.setitimer(signal.ITIMER_PROF, limits[1])
        template = environment.from_string(given["template"])
        return {}

    answer_to(compile_template)

    def render(line: str) -> dict[str, Any]:
        return {"texts": rendered(template, given["variables"], json.loads(line), limits)}

    for line in sys.stdin:
        answer_to(partial(render, line))


if __name__ == "__main__":
    main()
