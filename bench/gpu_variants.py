"""The ways to train that `bench.gpu` measures: L20-Edu's set-up and ours, gain by gain.

A variant is a setting of the trainer, another objective, or, where it says so, a change that is no setting yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from bench.gpu_checks import BACKENDS
from bench.gpu_world import RECIPE, Scale, determinism, recipe_optimizer
from pocketlm.model import loss as loss_module
from pocketlm.model.transformer import Transformer
from pocketlm.training.batches import Batch
from pocketlm.training.device import compute_type
from pocketlm.training.objective import LanguageModelObjective

BASELINE = "hugging_face_checkpointing"
DEFAULT = "ours_micro_2"  # the middle micro-batch
MUON = "ours_muon"  # as our arm of the race trains


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        change: what it is, as the table says it.
        needs: checks that must have passed.
        within: what is changed around the run.
        steps: of a block; blocks are what medians are taken over.
    """

    change: str
    micro: int
    needs: tuple[str, ...] = ()
    compile: bool = True
    objective: Any = None
    prepare_model: Callable[[Transformer], Any] | None = None
    within: Callable[[], Any] = nullcontext
    settings: tuple[tuple[str, Any], ...] = ()
    steps: int = 1
    reuse_traces: bool = True
    hugging_face: bool = False
    checkpointing: bool = False


class PlainObjective:
    """The loss of a plain script: logits of all rows at once, widened to fp32."""

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BTV = model(batch.tokens_BT).float()
        total = F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), reduction="sum")
        return total / batch.targets, {}


def variants(scale: Scale, kind: str) -> dict[str, Variant]:
    """All variants, in the order in which they are measured: what counts first, then the gains one by one."""
    base, (small, middle, large) = scale.baseline_micro, scale.micro
    fused = ("loss.kernel", f"loss.head.{'bf16' if kind == 'cuda' else 'fp32'}")
    ours = (*fused, "step.bf16.adamw", "step.bf16.compiled")
    slow, fast = {"steps": scale.slow_steps}, {"steps": scale.fast_steps}
    theirs = {**slow, "within": lambda: determinism(0)}  # a plain script asks for no determinism, which may cost

    def standard(change: str, micro: int = middle, **more: Any) -> Variant:
        return Variant(change, micro, **{"needs": ours, **fast, **more})

    def forced(name: str) -> Variant:
        return standard(
            f"attention on {name} alone",
            needs=(*ours, f"attention.{name}"),
            within=lambda: sdpa_kernel([BACKENDS[name]]),
            reuse_traces=False,
        )

    plain = ("step.bf16.adamw",)
    return {
        DEFAULT: standard(f"ours as trained: micro-batch {middle}"),
        BASELINE: Variant("L20-Edu's set-up: eager, gradient checkpointing", base, hugging_face=True, compile=False,
                          checkpointing=True, **theirs),
        "ours_eager": Variant("ours, eager, plain loss, no checkpointing", base, plain, False, PlainObjective(),
                              **slow),
        "ours_compiled": Variant("+ compiled", base, (*plain, "step.bf16.compiled"), objective=PlainObjective(),
                                 **slow),
        "ours_chunked": standard("+ head and loss in chunks, without the kernel", base, within=_without_kernel, **slow),
        "ours_fused": standard("+ the kernel of the loss", base, **slow),
        "ours_micro_1": standard(f"+ micro-batch {small}", small),
        "ours_micro_3": standard(f"+ micro-batch {large}", large),
        **{f"ours_{name}": forced(name) for name in (("flash", "cudnn") if kind == "cuda" else ("flash", "math"))},
        MUON: standard(f"Muon as {RECIPE} has it", needs=(*ours, "step.bf16.muon"),
                       settings=tuple(recipe_optimizer().items())),
        "ours_bf16_stream": standard(
            "residual stream in bf16 (no setting: a hook on the embedding)", prepare_model=_bf16_stream
        ),
        "ours_z_loss": standard("z-loss", needs=(*ours, *(f"{name}.z_loss" for name in fused)),
                                objective=LanguageModelObjective(z_loss=1e-4)),
        "ours_large_chunks": standard("head in chunks of 16,384 tokens (no setting)", within=_large_chunks),
        "ours_strict": standard(
            "runtime.deterministic", needs=(*ours, "repeat.strict", "resume.strict"), within=lambda: determinism(2),
            reuse_traces=False,
        ),
        "ours_not_deterministic": standard("no deterministic mode (no setting)", within=lambda: determinism(0)),
        "hugging_face_compiled": Variant("transformers, compiled, no checkpointing", base, hugging_face=True, **theirs),
        "hugging_face_compiled_checkpointing": Variant(
            "transformers, compiled, gradient checkpointing", base, hugging_face=True, checkpointing=True, **theirs
        ),
    }  # fmt: skip


@contextmanager
def _without_kernel() -> Iterator[None]:
    with patch.object(loss_module, "_has_triton", lambda: False):
        yield


@contextmanager
def _large_chunks() -> Iterator[None]:
    elements = 49_152 * 16_384
    with patch.dict(loss_module._CHUNK_ELEMENTS, dict.fromkeys(loss_module._CHUNK_ELEMENTS, elements)):
        yield


def _bf16_stream(model: Transformer) -> None:
    model.embedding.register_forward_hook(lambda module, inputs, output: output.to(compute_type(output.device)))
