"""A model beside byte n-grams that were fitted on exactly the bytes that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.evaluation.held_out.text import HeldOutText
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import Block, Figure, figure, table
from pocketlm.statistics.rates import Estimate

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact

ORDERS = {"trigram": 3, "six_gram": 6}
TITLES = {"model": "this model", "trigram": "byte trigram", "six_gram": "interpolated byte 6-gram"}


@dataclass(frozen=True)
class NgramComparison:
    """Bits per byte of the same documents.

    Attributes:
        estimates: of the model and of every n-gram, by the names of `TITLES`.
        gains: bits per byte that the model needs fewer than each n-gram.
        training_bytes: what the n-grams were fitted on.
    """

    estimates: dict[str, Estimate]
    gains: dict[str, Estimate]
    training_bytes: int

    def metrics(self) -> dict[str, Figure]:
        """`heldout.bits_per_byte.NAME` and, for the n-grams, `heldout.bits_per_byte_below.NAME`."""
        return {
            **{f"heldout.bits_per_byte.{name}": _figure(estimate) for name, estimate in self.estimates.items()},
            **{f"heldout.bits_per_byte_below.{name}": _figure(gain) for name, gain in self.gains.items()},
        }

    def block(self) -> Block:
        """The table of the report."""
        return _block({name: _figure(estimate) for name, estimate in self.estimates.items()}, self.training_bytes)


def stated_block(artifact: Artifact) -> Block:
    """The table that the figures of a trained model give."""
    stated = {name: artifact.metrics[f"heldout.bits_per_byte.{name}"] for name in ("model", *ORDERS)}
    return _block(stated, artifact.metrics["training_bytes"])


def _block(bits: Mapping[str, Figure], training_bytes: int) -> Block:
    columns = ["predictor", "bits per byte", "95 % interval"]
    rows = [
        dict(
            zip(columns, [TITLES[name], round(one["value"], 4), f"{one['low']:.3f} to {one['high']:.3f}"], strict=True)
        )
        for name, one in bits.items()
    ]
    note = (
        "All bytes of the held-out documents; intervals by bootstrap over documents. The n-grams (modified "
        f"Kneser-Ney) were fitted on the same {training_bytes:,} bytes that the model was trained on."
    )
    return table("Held-out text", columns, rows, note)


def compare_with_ngrams(
    model: Transformer, text: HeldOutText, read: Sequence[bytes], context: Context
) -> NgramComparison:
    """Bits per byte of `text` under the model and under n-grams fitted on `read`, what the model was trained on.

    Raises:
        Interrupted: a stop was requested.
    """
    bits = {"model": text.model_bits(model)}
    for name, order in ORDERS.items():
        context.check_stop()
        bits[name] = text.ngram_bits(read, order)
    return NgramComparison(
        {name: text.per_byte(values, context.generator("bootstrap")) for name, values in bits.items()},
        {name: text.per_byte(bits[name] - bits["model"], context.generator("bootstrap")) for name in ORDERS},
        sum(map(len, read)),
    )


def _figure(estimate: Estimate) -> Figure:
    return figure(estimate.value, n=estimate.n, low=estimate.low, high=estimate.high, unit="bits per byte")
