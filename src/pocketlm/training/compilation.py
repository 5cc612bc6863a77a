"""torch.compile for the fixed shapes of training, while rollouts and scores keep the plain module.

On a CPU it gains 10 to 20 % in float32 and 60 % in bfloat16 (bench/results/training.json) and takes half a minute
to some minutes to compile, so it is used there only when `runtime.compile` asks for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pocketlm.model.transformer import Transformer

SHAPES_COMPILED = 64
"""Shapes of a batch that are compiled, each once; rollouts have as many as their longest text has lengths."""


class CompiledHidden:
    """Swaps `model.hidden` for its compiled form within `active()`; does nothing when not wanted.

    Where torch cannot compile (no C++ or Triton compiler, too many shapes) it says so once through `warn`, and the
    plain form is used from there on.
    """

    def __init__(self, model: Transformer, wanted: bool | None, warn: Callable[[str], None]):
        self._model, self._warn = model, warn
        self._compiled: Callable[..., Tensor] | None = None
        if wanted if wanted is not None else model.head_weight_VD.device.type == "cuda":
            import torch._dynamo

            torch._dynamo.config.recompile_limit = SHAPES_COMPILED
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            self._compiled = torch.compile(model.hidden, dynamic=False)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use the compiled form in here."""
        if self._compiled is None:
            yield
            return
        self._model.hidden = self._hidden  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del self._model.hidden

    def _hidden(self, *arguments: Any) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException

        if self._compiled is not None:
            try:
                return self._compiled(*arguments)
            except TorchDynamoException as error:
                reason = str(error).strip().splitlines()[0]
                self._warn(f"torch.compile does not work here, training goes on without it: {reason}")
                self._compiled = None
        return Transformer.hidden(self._model, *arguments)
