"""The Modelfile that tells Ollama how to talk to a GGUF file: chat form, where an answer ends, context, licence.

Ollama renders chats from a Go template of its own and knows a template inside a GGUF file only if it is one of a list.
So ChatML is written out in Go; other forms are not translated, and the file says so. One difference stays: our ChatML
trims white space around a message, Ollama's templates cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketlm.data.tokens.chat import render
from pocketlm.data.tokens.tokenizer import END_OF_TEXT, IM_END, IM_START
from pocketlm.errors import InputError

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

CHATML = f"""\
{{{{- range .Messages }}}}{IM_START}{{{{ .Role }}}}
{{{{ .Content }}}}{IM_END}
{{{{ end }}}}{IM_START}assistant
"""
"""ChatML with the answer's header, in Go's template language; Ollama puts the system message among the messages."""

_SYSTEM = {"role": "system", "content": "Be brief."}
_USER = {"role": "user", "content": "Say it."}
_ANSWER = {"role": "assistant", "content": "It is 7 o'clock"}
_QUOTES = '"""'


def modelfile(gguf_name: str, tokenizer: Tokenizer, context: int, licence: str) -> str:
    """The Modelfile of a GGUF file in the same folder.

    Args:
        context: in tokens; Ollama takes 4,096 or less unless told.
        licence: text of the LICENSE instruction.

    Raises:
        InputError: the file's name cannot stand in a Modelfile.
    """
    if not gguf_name.isprintable() or gguf_name != gguf_name.strip():
        raise InputError(
            f"{gguf_name!r} cannot stand in a Modelfile: give the GGUF file a name without control characters"
        )
    chat = tokenizer.chat_template
    ends = {number: token for token, number in chat.special_tokens.items()} if chat is not None else {}
    stops = dict.fromkeys((ends.get(tokenizer.turn_end, IM_END), END_OF_TEXT))
    # Quotes and line breaks in one could begin another instruction. The GGUF file says where an answer ends, too.
    stops = {stop: None for stop in stops if stop.isprintable() and not set(stop) & set(_QUOTES)}
    return "\n".join(
        [
            f"# ollama create NAME -f {gguf_name.removesuffix('.gguf')}.Modelfile",
            f"FROM ./{gguf_name}",
            "",
            *_chat_lines(tokenizer),
            *(f'PARAMETER stop "{stop}"' for stop in stops),
            f"PARAMETER num_ctx {context}",
            "PARAMETER temperature 0",
            "",
            f"LICENSE {_quoted(licence)}",
            "",
        ]
    )


def _chat_lines(tokenizer: Tokenizer) -> list[str]:
    system = chatml_system(tokenizer)
    if system is None:
        return [
            "# The model's chat form is not ChatML and not translated here. Ollama takes the template inside the GGUF",
            "# file if it knows it; if answers make no sense, write it as TEMPLATE in Go's template language.",
            "",
        ]
    return [f"TEMPLATE {_quoted(CHATML)}", *([f"SYSTEM {_quoted(system)}"] if system else []), ""]


def chatml_system(tokenizer: Tokenizer) -> str | None:
    """The system message that the chat form, if it is ChatML, puts before a conversation without one ("": none);
    None for another form. Found by rendering conversations."""
    template = tokenizer.chat_template
    if template is None:
        return ""
    bare, led = [[_USER], [_USER, _ANSWER, _USER]], [[_SYSTEM, _USER], [_SYSTEM, _USER, _ANSWER, _USER]]
    try:
        found = [template.render(messages, True) for messages in (*bare, *led)]
    except InputError:  # it takes other conversations than these
        return None
    plain = [render(messages, True) for messages in (*bare, *led)]
    opening, closing = f"{IM_START}system\n", f"{IM_END}\n"
    lead = found[0].removesuffix(plain[0])
    if found != [*(lead + text for text in plain[:2]), *plain[2:]]:
        return None
    if not lead:
        return ""
    system = lead.removeprefix(opening).removesuffix(closing)
    return system if lead == f"{opening}{system}{closing}" else None


def _quoted(text: str) -> str:
    """A value of several lines; three quotes would end it."""
    return _QUOTES + text.replace(_QUOTES, "'''") + _QUOTES
