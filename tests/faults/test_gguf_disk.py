"""A GGUF export while the process dies or the disk refuses, at each operation: both files whole, or none to be seen."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pocketlm.evaluation.models.gguf_export import write_gguf_file
from pocketlm.evaluation.models.model_card import Provenance
from pocketlm.pipeline.storage import TEMPORARY_PREFIX
from tests.evaluation_world import trained
from tests.faulty_disk import FaultyDisk, Killed


def export(folder: Path) -> None:
    model, tokenizer = trained()
    write_gguf_file(folder / "tiny.gguf", model, tokenizer, "q8_0", Provenance("Tiny", "d"))


def seen(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, bytes]]:
    """How many operations an export takes, and the files that it makes."""
    folder = tmp_path_factory.mktemp("whole")
    with FaultyDisk(folder) as disk:
        export(folder)
    return len(disk.operations), seen(folder)


def test_a_full_disk_leaves_nothing(tmp_path: Path, whole: tuple[int, dict[str, bytes]]) -> None:
    operations, files = whole
    refused = 0
    for at in range(operations):
        folder = tmp_path / str(at)
        folder.mkdir()
        with FaultyDisk(folder, at, errno.ENOSPC) as disk:
            try:
                export(folder)
            except OSError as error:
                refused += error.errno == errno.ENOSPC
        if disk.failed and "tiny.gguf" not in seen(folder):
            assert list(folder.iterdir()) == [], disk.operations[at]
        else:
            assert seen(folder) == files, "only the folder's own fsync, after the rename, may still fail"
    assert refused >= 4


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_leaves_whole_files_or_none_and_the_export_can_be_done_again(
    tmp_path: Path, whole: tuple[int, dict[str, bytes]], torn: bool
) -> None:
    operations, files = whole
    for at in range(operations):
        folder = tmp_path / str(at)
        folder.mkdir()
        with FaultyDisk(folder, at, torn=torn), pytest.raises(Killed):
            export(folder)
        found = seen(folder)
        assert found.items() <= files.items(), f"operation {at}"
        if "tiny.gguf" not in found:
            export(folder)
        assert seen(folder) == files
