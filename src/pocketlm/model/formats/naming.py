"""Weights that another format names and cuts differently: the tensors of a shape, and the model made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer

LONGEST_CONTEXT = 1 << 20
LARGEST_SIDE = (1 << 31) - 1
MOST_HEADS = 1 << 16
EXPORTED_LAYOUTS = ("llama", "qwen3")


@dataclass(frozen=True)
class Naming:
    """What a format calls the tensors of a decoder.

    Attributes:
        top: our name -> theirs, outside of the layers.
        layer: our name within a layer -> theirs; several lie one above the other in our fused matrix.
        prefix: what stands before their names of layer number {}.
    """

    top: Mapping[str, str]
    layer: Mapping[str, tuple[str, ...]]
    prefix: str

    def parts(self, name: str) -> tuple[str, ...]:
        """Their names of our tensor `name`, from its first row to its last."""
        if not name.startswith("blocks."):
            return (self.top[name],)
        _, number, inner = name.split(".", 2)
        return tuple(self.prefix.format(number) + part for part in self.layer[inner])


def require_exportable(settings: ModelSettings) -> None:
    """InputError for a layout that only this program computes (`research`)."""
    if settings.layout not in EXPORTED_LAYOUTS:
        raise InputError(
            f"a model of the layout {settings.layout} cannot be exported: transformers, llama.cpp and the tools built "
            f"on them compute the layouts {' and '.join(EXPORTED_LAYOUTS)}, and would compute something else from its "
            "weights. Train one of these to ship it"
        )


def build_model(
    settings: ModelSettings,
    naming: Naming,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    origin: Path,
) -> Transformer:
    """The model of foreign tensors, fp32, read one after the other.

    Names and shapes are compared before anything is allocated: memory is bounded by what the file holds, whatever its
    header claims.

    Args:
        shapes: every tensor that `origin` holds.
        read: the tensor of one of these names.

    Raises:
        InputError: a tensor is missing, unknown or misshapen, or the shape is out of reach.
    """
    _require_tensors(settings, naming, shapes, origin)
    model = Transformer(settings)
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            for part, target in zip(naming.parts(name), split_rows(settings, name, weight), strict=True):
                target.copy_(read(part))
    return model


def split_rows(settings: ModelSettings, name: str, weight: Tensor) -> tuple[Tensor, ...]:
    """Views of the matrices that lie one above the other in our tensor `name`; of most tensors there is one."""
    sizes = next((rows for end, rows in settings.fused_rows().items() if name.endswith(end)), [weight.shape[0]])
    return weight.split(sizes)


def _require_tensors(
    settings: ModelSettings, naming: Naming, shapes: Mapping[str, tuple[int, ...]], origin: Path
) -> None:
    if settings.context > LONGEST_CONTEXT:
        raise InputError(
            f"{origin}: a context of {settings.context:,} positions; at most {LONGEST_CONTEXT:,} can be read"
        )
    projected = (settings.heads + 2 * settings.kv_heads) * settings.head_dim
    if max(settings.vocabulary, settings.width, projected, 2 * settings.ffn_width) > LARGEST_SIDE:
        raise InputError(f"{origin}: a matrix with more than {LARGEST_SIDE:,} rows or columns")
    if settings.layers > len(shapes):
        raise InputError(f"{origin}: {settings.layers:,} layers, but the weights hold only {len(shapes)} tensors")
    expected: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        one_layer = Transformer(settings.model_copy(update={"layers": 1, "context": 1}))
    for name, weight in one_layer.state_dict().items():
        numbers = range(settings.layers) if name.startswith("blocks.") else range(1)
        sides = [tuple(part.shape) for part in split_rows(settings, name, weight)]
        for number in numbers:
            parts = naming.parts(name.replace("blocks.0.", f"blocks.{number}.", 1))
            expected.update(zip(parts, sides, strict=True))
    for part, shape in expected.items():
        if part not in shapes:
            raise InputError(f"{origin}: the weights have no tensor {part}, which a {settings.layout} model needs")
        if shapes[part] != shape:
            raise InputError(f"{origin}: tensor {part} is {list(shapes[part])}, the settings ask for {list(shape)}")
    if unknown := sorted(shapes.keys() - expected.keys()):
        raise InputError(f"{origin}: the weights hold {unknown[0]}, which a {settings.layout} model does not have")
