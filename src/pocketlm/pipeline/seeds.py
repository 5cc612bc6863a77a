"""Random streams derived from (seed, purpose, indices), so that nothing random needs saving."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def derive_seed(root: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed that depends on every argument and on nothing else (blake2b over their text)."""
    text = "\x1f".join([str(root), purpose, *(str(index) for index in indices)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(root: int, purpose: str, *indices: int) -> numpy.random.Generator:
    """A numpy generator (PCG64) seeded by `derive_seed`."""
    import numpy

    return numpy.random.default_rng(derive_seed(root, purpose, *indices))
