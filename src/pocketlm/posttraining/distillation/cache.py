"""What a teacher says about a fixed set of examples: its likeliest tokens at every learned position, kept on disk.

Files of a block of examples, in the stage's scratch space: `00000.ids.npy` [positions, K] (uint16, or uint32 for large
vocabularies), `00000.log_probabilities.npy` [positions, K] (float16), and `00000.json` with their digests, written
last. A run that is killed goes on with the blocks that are there; one whose bits changed is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from numpy.typing import NDArray

from pocketlm.errors import InputError
from pocketlm.model.head_rows import head_likeliest
from pocketlm.model.loss import IGNORE
from pocketlm.pipeline.storage import require_disk_space, sha256_file, write_bytes_atomic, write_json_atomic
from pocketlm.posttraining.packing import example_tree, pack

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.posttraining.examples import Example

EXAMPLES_A_BLOCK = 64
MEGABYTE = 1_000_000


class TeacherCache:
    """The likeliest tokens of a teacher for examples, by number.

    Args:
        folder: for the blocks; of this teacher, these examples and this `k` alone.
        k: tokens kept at each position, below the vocabulary.
        maximum_megabytes: that the blocks may take.

    Raises:
        InputError: they would take more, an example is longer than the teacher's context, or k is no choice.
    """

    def __init__(
        self, folder: Path, teacher: Transformer, examples: Sequence[Example], k: int, maximum_megabytes: float
    ) -> None:
        shape = teacher.settings
        if k >= shape.known_tokens:
            raise InputError(f"distil.k is {k}, but there are only {shape.known_tokens} tokens; keep fewer of them")
        self.folder, self.k = folder, k
        self._teacher, self._examples = teacher, examples
        self._id_type = numpy.uint16 if shape.vocabulary <= 1 << 16 else numpy.uint32
        learned = [sum(example.trained[1:]) for example in examples]
        longest = max(len(example.tokens) - 1 for example in examples)
        if longest > shape.context:
            raise InputError(
                f"an example takes {longest} positions, more than the teacher's context of {shape.context}; give a "
                "teacher with a longer context, or shorter examples"
            )
        self.positions = sum(learned)
        self.bytes = self.positions * k * (2 + numpy.dtype(self._id_type).itemsize)
        if self.bytes > maximum_megabytes * MEGABYTE:
            raise InputError(
                f"the {k} likeliest tokens at {self.positions:,} positions take {self.bytes / MEGABYTE:,.1f} MB, more "
                f"than distil.maximum_megabytes ({maximum_megabytes:g}); lower distil.k, give fewer examples, or raise "
                "the limit"
            )
        self._starts = [0]  # of each example in its block
        for number, count in enumerate(learned):
            self._starts.append(0 if (number + 1) % EXAMPLES_A_BLOCK == 0 else self._starts[-1] + count)
        self._learned = learned

    @property
    def blocks(self) -> int:
        """How many there are."""
        return -(-len(self._examples) // EXAMPLES_A_BLOCK)

    def fill(self, after_each: Callable[[int], None], compute: torch.dtype = torch.float32) -> None:
        """Make the blocks that are missing or damaged. `after_each` hears how many are there: a place to stop."""
        self.folder.mkdir(parents=True, exist_ok=True)
        require_disk_space(self.folder, self.bytes)
        for block in range(self.blocks):
            if not self._whole(block):
                self._make(block, compute)
            after_each(block + 1)

    def of(self, number: int) -> tuple[NDArray[Any], NDArray[numpy.float16]]:
        """Ids and log-probabilities, both [learned positions, K], of an example, in the order of its positions."""
        block, start = number // EXAMPLES_A_BLOCK, self._starts[number]
        ids, values = (
            numpy.load(path, mmap_mode="r", allow_pickle=False)[start : start + self._learned[number]]
            for path in self._files(block)
        )
        return ids, values

    def mass_left_out(self) -> float:
        """Mean probability of all tokens but the kept ones, over all positions."""
        total = 0.0
        for block in range(self.blocks):
            values = numpy.load(self._files(block)[1], allow_pickle=False)
            total += float((1 - numpy.exp(values.astype(numpy.float64)).sum(1)).clip(min=0).sum())
        return total / self.positions

    def _files(self, block: int) -> tuple[Path, Path]:
        return self.folder / f"{block:05}.ids.npy", self.folder / f"{block:05}.log_probabilities.npy"

    def _record(self, block: int) -> Path:
        return self.folder / f"{block:05}.json"

    def _whole(self, block: int) -> bool:
        try:
            known = json.loads(self._record(block).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return all(path.is_file() and sha256_file(path) == known.get(path.name) for path in self._files(block))

    @torch.no_grad()
    def _make(self, block: int, compute: torch.dtype) -> None:
        examples = self._examples[block * EXAMPLES_A_BLOCK : (block + 1) * EXAMPLES_A_BLOCK]
        teacher = self._teacher
        device = teacher.head_weight_VD.device
        rows = pack([example_tree(one.tokens, one.trained) for one in examples], teacher.settings.context)
        found: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        for place in range(len(rows.tokens_BT)):  # row by row: the teacher may be large
            row = slice(place, place + 1)
            learned_BT = rows.targets_BT[row] != IGNORE
            with torch.autocast(device.type, compute, enabled=compute != torch.float32):
                hidden_BTD = teacher.hidden(
                    rows.tokens_BT[row].to(device), rows.positions_BT[row].to(device), rows.mask_B1TS[row].to(device)
                )
                values_NK, ids_NK = head_likeliest(hidden_BTD[learned_BT.to(device)], teacher.known_head_VD, self.k)
            ids = ids_NK.cpu().numpy().astype(self._id_type)
            values = values_NK.float().cpu().numpy().astype(numpy.float16)
            trees_N = rows.trees_BT[row][learned_BT].numpy()
            for number in numpy.unique(trees_N).tolist():
                found[number] = ids[trees_N == number], values[trees_N == number]
        digests = {}
        empty = numpy.zeros((0, self.k), self._id_type), numpy.zeros((0, self.k), numpy.float16)
        for kind, path in enumerate(self._files(block)):
            parts = [found.get(number, empty)[kind] for number in range(len(examples))]
            buffer = io.BytesIO()
            numpy.save(buffer, numpy.concatenate(parts), allow_pickle=False)
            write_bytes_atomic(path, buffer.getvalue())
            digests[path.name] = hashlib.sha256(buffer.getvalue()).hexdigest()
        write_json_atomic(self._record(block), digests)
