"""torch.compile for the fixed shapes of training, while rollouts and scores keep the plain module.

On a CPU it gains about a seventh at these sizes (bench/results/training.json) and takes half a minute or more to
compile, so it is used there only when `runtime.compile` asks for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pocketlm.model.transformer import Transformer


class CompiledHidden:
    """Swaps `model.hidden` for its compiled form within `active()`; does nothing when not wanted.

    Without a working C++ or Triton compiler torch falls back to the plain form.
    """

    def __init__(self, model: Transformer, wanted: bool | None):
        self._model, self._compiled = model, None
        if wanted if wanted is not None else model.head_weight_VD.device.type == "cuda":
            import torch._dynamo

            torch._dynamo.config.suppress_errors = True
            self._compiled = torch.compile(model.hidden, dynamic=False)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use the compiled form in here."""
        if self._compiled is None:
            yield
            return
        self._model.hidden = self._compiled  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self._model.hidden
