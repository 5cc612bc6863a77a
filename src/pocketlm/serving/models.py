"""A model that is served: its tokenizer, its worker, and how its chat form is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.data.tokens.chat import Message, encode_chat
from pocketlm.errors import InputError
from pocketlm.generation.grammar import Grammars
from pocketlm.serving.limits import Limits
from pocketlm.serving.token_texts import TokenTexts
from pocketlm.serving.worker import Worker

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.config import ModelSettings

CACHE_BYTES = 4 << 30
"""Key-value cache that the default number of slots stays within, with the places where prompts are prefilled."""
MOST_SLOTS = 16


@dataclass
class ServedModel:
    """One model under its name.

    Attributes:
        name: what requests call it.
        tokenizer: with the model's chat form.
        context: longest prompt plus continuation in tokens.
        vocabulary: rows of the model's head; `tokens` of them have a meaning.
        fingerprint: changes when the weights or the program do.
        worker: owns the engine.
        created: in seconds since 1970.
    """

    name: str
    tokenizer: Tokenizer
    context: int
    vocabulary: int
    tokens: int
    fingerprint: str
    worker: Worker
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._rendering = threading.Lock()  # a template's process answers one at a time

    @cached_property
    def texts(self) -> TokenTexts:
        """Of single tokens."""
        return TokenTexts(self.tokenizer)

    @cached_property
    def grammars(self) -> Grammars:
        """For `response_format` and tools."""
        return Grammars(self.tokenizer, self.vocabulary)

    @cached_property
    def stops(self) -> tuple[int, ...]:
        """Tokens that end a text: the document border, and the end of a turn if the chat form has one."""
        try:
            with self._rendering:  # a template is asked where its turns end
                return tuple({self.tokenizer.end_of_text, self.tokenizer.turn_end})
        except InputError:  # a template without a turn's end; a chat says so
            return (self.tokenizer.end_of_text,)

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """A conversation up to the assistant's next turn.

        Raises:
            InputError: the template does not take it.
        """
        with self._rendering:
            _ = self.tokenizer.turn_end  # refuses a chat form in which nobody could see where an answer ends
            return encode_chat(self.tokenizer, messages, add_generation_prompt=True)[0]


@contextmanager
def single_thread() -> Iterator[int]:
    """Let torch compute in the calling thread alone; gives the number of threads that it had.

    OpenMP keeps a pool of threads for each thread that ever computed with several. Where all pools together have more
    threads than there are cores, none of them waits actively any more: an engine's steps with their 150 barriers then
    take half as long again. So the engine's thread is to have the only pool.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def open_model(
    name: str,
    path: Path,
    limits: Limits,
    slots: int | None = None,
    context: int | None = None,
    threads: int | None = None,
) -> ServedModel:
    """Load the model that a MODEL argument means, with an engine of its own.

    Args:
        slots: sequences decoded at the same time; unset: what `CACHE_BYTES` hold, at most `MOST_SLOTS`.
        context: longest prompt plus continuation; unset: the model's.
        threads: of its computations; unset: torch's number in this thread.

    Raises:
        InputError: there is no model, or it has a shorter context.
    """
    import hashlib

    import torch

    from pocketlm import __version__
    from pocketlm.evaluation.models.loading import locate
    from pocketlm.generation.live import LiveEngine
    from pocketlm.model.packing import pack

    location = locate(path)
    with single_thread() as before:
        model, tokenizer = location.load()
        model.requires_grad_(False)
        shape = model.settings
        if context is not None and context > shape.context:
            raise InputError(f"--context {context} is longer than {name}'s context of {shape.context}; give it or less")
        length = context or shape.context
        slots = slots or _default_slots(shape, length, model.head_weight_VD.element_size())
        pack(model)
        engine = LiveEngine(model, slots, length, tokenizer.decode)
    engine_threads = threads or before
    identity = f"{location.digest} {__version__} {torch.__version__}"
    return ServedModel(
        name,
        tokenizer,
        length,
        shape.vocabulary,
        shape.known_tokens,
        f"fp_{hashlib.sha256(identity.encode()).hexdigest()[:12]}",
        Worker(name, engine, limits, lambda: torch.set_num_threads(engine_threads)),
    )


def _default_slots(shape: ModelSettings, length: int, item_bytes: int) -> int:
    """As many as `CACHE_BYTES` hold, with the places where prompts are prefilled."""
    from pocketlm.generation.live import SHELF

    places = CACHE_BYTES // (2 * shape.layers * shape.kv_heads * shape.head_dim * length * item_bytes)
    return max(1, min(MOST_SLOTS, places - min(SHELF, places // 2)))
