"""The container GGUF (versions 2 and 3, little endian): metadata and tensors of a memory-mapped file.

Format: docs/gguf.md of github.com/ggml-org/ggml. The header is hostile until proven otherwise: every length is compared
with the bytes that are left before anything is read or allocated, tensors may neither leave the file nor overlap.
gguf's own GGUFReader makes a Python object of each array element and trusts the counts, hence this reader; block sizes
and dequantisation are gguf's.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.errors import CorruptionError, InputError

VERSIONS = (2, 3)
NUMBER_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
"""Tensor types that are read: those whose dequantisation the tests check against the formula."""

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LARGEST_COUNT = 1 << 16
_LARGEST_RANK = 4
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class ArrayPlace:
    """An array of the metadata, left in the file."""

    kind: int
    count: int
    offset: int


@dataclass(frozen=True)
class TensorPlace:
    """A tensor left in the file: its type's name, its shape (rows first), and where its bytes lie."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


class GGUFFile:
    """Header of a GGUF file; tensors are read on demand.

    Attributes:
        metadata: key -> number, text, truth value or ArrayPlace.
        tensors: name -> place.

    Raises:
        InputError: no such file, or a version, byte order or tensor type that is not read.
        CorruptionError: the file is truncated or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = np.asarray(np.memmap(path, np.uint8, mode="r"))
        except ValueError:
            raise CorruptionError(f"{path} is empty") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from None
        cursor = _Cursor(path, self._data)
        if bytes(self._data[:4]) != b"GGUF":
            raise CorruptionError(f"{path} is no GGUF file: it does not begin with GGUF")
        cursor.skip(4)
        version = cursor.number("<I")
        if version not in VERSIONS:
            raise InputError(f"{path}: GGUF version {version}; little-endian files of version 2 and 3 can be read")
        tensors = cursor.count("tensors")
        entries = cursor.count("metadata entries")
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = cursor.text()
            if key in self.metadata:
                raise CorruptionError(f"{path}: the metadata have {key!r} twice")
            self.metadata[key] = cursor.value(key)
        self.tensors = self._places(cursor, tensors)

    def strings(self, key: str) -> list[str]:
        """The texts of an array of the metadata; CorruptionError when it is none."""
        place = self.metadata.get(key)
        if not isinstance(place, ArrayPlace) or place.kind != _STRING:
            raise CorruptionError(f"{self.path}: {key} is not an array of texts")
        cursor = _Cursor(self.path, self._data, place.offset)
        return [cursor.text() for _ in range(place.count)]

    def numbers(self, key: str) -> list[int]:
        """The numbers of an array of the metadata; CorruptionError when it is none."""
        place = self.metadata.get(key)
        if not isinstance(place, ArrayPlace) or place.kind not in _SCALARS:
            raise CorruptionError(f"{self.path}: {key} is not an array of numbers")
        code = _SCALARS[place.kind]
        return list(struct.unpack_from(f"<{place.count}{code[1]}", self._data.data, place.offset))

    def tensor(self, name: str) -> np.ndarray:
        """A tensor, dequantised to float32."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        place = self.tensors[name]
        stored = self._data[place.offset : place.offset + place.size].reshape(*place.shape[:-1], -1)
        with np.errstate(all="ignore"):  # scales that are not finite give weights that are not, for the caller to see
            return np.array(dequantize(stored, GGMLQuantizationType[place.kind]), np.float32).reshape(place.shape)

    def _places(self, cursor: "_Cursor", count: int) -> dict[str, TensorPlace]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        found = [(cursor.text(), cursor.shape(), cursor.number("<I"), cursor.number("<Q")) for _ in range(count)]
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise CorruptionError(f"{self.path}: general.alignment is {alignment!r}, not a power of two from 8")
        start = -(-cursor.offset // alignment) * alignment
        kinds = {GGMLQuantizationType[name].value: name for name in NUMBER_TYPES}
        places: dict[str, TensorPlace] = {}
        for name, shape, number, offset in found:
            where = f"{self.path}: tensor {name!r}"
            if name in places:
                raise CorruptionError(f"{where} stands in the file twice")
            if number not in kinds:
                known = {item.value: item.name for item in GGMLQuantizationType}
                raise InputError(
                    f"{where} has the type {known.get(number, number)}; read are {', '.join(NUMBER_TYPES)}"
                )
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
            elements = 1
            for side in shape:
                elements *= side
            size = elements // block * block_bytes
            if not elements or shape[-1] % block:
                raise CorruptionError(f"{where} is {list(shape)}, which {kinds[number]} cannot store")
            if offset % alignment or start + offset + size > len(self._data):
                raise CorruptionError(f"{where} lies outside of the file, which is truncated or damaged")
            places[name] = TensorPlace(kinds[number], shape, start + offset, size)
        end, before = start, ""
        for name, place in sorted(places.items(), key=lambda item: item[1].offset):
            if place.offset < end:
                raise CorruptionError(f"{self.path}: the tensors {before!r} and {name!r} overlap")
            end, before = place.offset + place.size, name
        return places


class _Cursor:
    """Reads on from an offset; CorruptionError where the file ends too early."""

    def __init__(self, path: Path, data: np.ndarray, offset: int = 0) -> None:
        self.path, self.offset = path, offset
        self._data = data.data

    def skip(self, size: int) -> int:
        """Pass `size` bytes; returns where they begin."""
        start = self.offset
        if size > len(self._data) - start:
            raise CorruptionError(f"{self.path} ends within its header: it is truncated or damaged")
        self.offset += size
        return start

    def number(self, code: str) -> Any:
        value: Any = struct.unpack_from(code, self._data, self.skip(struct.calcsize(code)))[0]
        return value

    def count(self, what: str) -> int:
        number: int = self.number("<Q")
        if number > _LARGEST_COUNT:
            raise CorruptionError(f"{self.path} claims {number:,} {what}; at most {_LARGEST_COUNT:,} can be read")
        return number

    def text(self) -> str:
        size = self.number("<Q")
        start = self.skip(size)
        try:
            return str(self._data[start : start + size], "utf-8")
        except UnicodeDecodeError:
            raise CorruptionError(f"{self.path}: a text at byte {start} is not UTF-8") from None

    def shape(self) -> tuple[int, ...]:
        """The sides of a tensor, rows first; the file has them the other way round."""
        rank = self.number("<I")
        if not 1 <= rank <= _LARGEST_RANK:
            raise CorruptionError(f"{self.path}: a tensor with {rank} dimensions; there are 1 to {_LARGEST_RANK}")
        return tuple(self.number("<Q") for _ in range(rank))[::-1]

    def value(self, key: str) -> Any:
        kind = self.number("<I")
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise CorruptionError(f"{self.path}: {key} has the unknown type {kind}")
        inner, count = self.number("<I"), self.number("<Q")
        place = ArrayPlace(inner, count, self.offset)
        if inner in _SCALARS:
            self.skip(count * struct.calcsize(_SCALARS[inner]))
        elif inner == _STRING:
            for _ in range(count):  # ends with the file at the latest: a text takes 8 bytes or more
                self.skip(self.number("<Q"))
        else:
            raise CorruptionError(f"{self.path}: {key} is an array of the type {inner}, which is not read")
        return place
