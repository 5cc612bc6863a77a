"""A checkpoint while the process dies, the power fails or the disk refuses, at each operation of a save."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from pocketlm.errors import InputError, Interrupted
from pocketlm.model import storage as model_storage
from pocketlm.pipeline import storage
from pocketlm.pipeline.storage import TEMPORARY_PREFIX, folder_problems
from pocketlm.training.checkpoint import Checkpoint, CheckpointFolder
from tests.faulty_disk import FaultyDisk, Killed
from tests.small_training import StopAfter, make_context, make_trainer

STEPS: dict[str, Any] = {"steps": 10, "log_every": 2}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_trainer(make_context(tmp_path_factory.mktemp("whole")), **STEPS).run()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped after step 4 and has the checkpoints of steps 2 and 4."""
    work = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Interrupted):
        make_trainer(make_context(work, StopAfter(4)), **STEPS, checkpoint_every=2).run()
    assert names(work) == ["step-00-00000002", "step-00-00000004"]
    return work


def names(work: Path) -> list[str]:
    return sorted(path.name for path in (work / "checkpoints").iterdir())


def save_under(disk: FaultyDisk, work: Path, **settings: Any) -> None:
    """Go on to step 6 and save there, on that disk; then stop."""
    trainer = make_trainer(make_context(work, StopAfter(2)), **STEPS, **settings)
    save = trainer.checkpoints.save

    def save_on_it(*arguments: Any) -> None:
        with disk:
            save(*arguments)

    trainer.checkpoints.save = save_on_it  # type: ignore[method-assign]
    trainer.run()


@pytest.fixture(scope="module")
def operations(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What a save does, in order, as the interpreter reports it."""
    work = tmp_path_factory.mktemp("counted") / "work"
    shutil.copytree(stopped, work)
    disk = FaultyDisk(work)
    with pytest.raises(Interrupted):
        save_under(disk, work)
    return disk.operations


def test_a_save_writes_syncs_renames_and_only_then_removes(operations: list[tuple[str, str]]) -> None:
    kinds = [kind for kind, _ in operations]
    rename = kinds.index("os.rename")
    synced = {os.path.basename(path) for kind, path in operations[:rename] if kind == "fsync"}
    assert {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"} <= synced
    assert operations[rename + 1] == ("fsync", "checkpoints")
    assert set(kinds[: rename + 2]) >= {"os.mkdir", "weights", "open", "fsync"}
    removed = [path for kind, path in operations[rename:] if kind in ("os.remove", "os.rmdir")]
    assert len(removed) == 5
    assert all("step-00-00000002" in path for path in removed)
    assert not {"os.remove", "os.rmdir"} & set(kinds[:rename])


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "power lost"])
def test_killed_at_any_operation_of_a_save_the_run_ends_with_the_same_bits(
    tmp_path: Path, stopped: Path, operations: list[tuple[str, str]], expected: Any, torn: bool
) -> None:
    renamed = [kind for kind, _ in operations].index("os.rename")
    for at in range(len(operations)):
        work = tmp_path / str(at)
        shutil.copytree(stopped, work)
        disk = FaultyDisk(work, at, torn=torn)
        with pytest.raises(Killed):
            save_under(disk, work)
        assert disk.operations[: at + 1][-1][0] == operations[at][0]
        events: list[tuple[str, Any]] = []
        assert make_trainer(make_context(work, events=events), **STEPS).run() == expected
        after = 6 if at > renamed else 4
        assert events == [("training_resumed", {"stage": "pretrain", "step": after})], operations[at]
        assert not [name for name in names(work) if name.startswith(TEMPORARY_PREFIX) or name.endswith(".corrupt")]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_refuses_any_operation_ends_the_run_with_one_message(
    tmp_path: Path, stopped: Path, operations: list[tuple[str, str]], expected: Any, error: int
) -> None:
    renamed = [kind for kind, _ in operations].index("os.rename")
    messages = 0
    for at in range(len(operations)):
        work = tmp_path / str(at)
        shutil.copytree(stopped, work)
        with pytest.raises((InputError, Interrupted)) as raised:
            save_under(FaultyDisk(work, at, error), work)
        if isinstance(raised.value, InputError):
            messages += 1
            for part in (os.strerror(error), "checkpoint of step 6", "it takes 0.2", "MB are free", "before it stand"):
                assert part in str(raised.value)
        assert folder_problems(work / "checkpoints" / "step-00-00000004") == []
        if error == errno.ENOSPC:
            assert not [name for name in names(work) if name.startswith(TEMPORARY_PREFIX)], operations[at]
        assert make_trainer(make_context(work), **STEPS).run() == expected
    assert messages >= renamed if error != errno.ENOSPC else messages > 10


def test_stopped_again_at_once_the_only_checkpoint_is_not_put_at_risk(tmp_path: Path) -> None:
    """Saving the step that is saved already would have to move the old folder out of the way."""
    with pytest.raises(Interrupted):
        make_trainer(make_context(tmp_path, StopAfter(3)), **STEPS).run()
    disk = FaultyDisk(tmp_path)
    with disk, pytest.raises(Interrupted):
        make_trainer(make_context(tmp_path, StopAfter(0)), **STEPS).run()
    assert [operation for operation in disk.operations if operation[0] != "os.mkdir"] == []


class SmallDisk:
    """Writes of a save go through until so many bytes are written; the next byte is refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room, self.written = 1 << 40, 0
        self.full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(model_storage, "save_file", self._save_file)
        monkeypatch.setattr(Path, "write_bytes", self._write_bytes())
        monkeypatch.setattr(storage, "open", self._open, raising=False)

    def take(self, data: bytes) -> bytes:
        kept = data[: max(self.room - self.written, 0)]
        self.written += len(kept)
        return kept

    def _save_file(self, tensors: Any, path: Path, **options: Any) -> None:
        data = safetensors.torch.save(tensors, **options)
        kept = self.take(data)
        with open(path, "wb") as stream:
            stream.write(kept)
        if len(kept) < len(data):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def _write_bytes(self) -> Callable[[Path, bytes], int]:
        def write_bytes(path: Path, data: bytes) -> int:
            kept = self.take(data)
            with open(path, "wb") as stream:
                stream.write(kept)
            if len(kept) < len(data):
                raise self.full
            return len(data)

        return write_bytes

    @contextmanager
    def _open(self, path: Path, mode: str = "r", **options: Any) -> Iterator[Any]:
        with open(path, mode, **options) as stream:
            if "w" in mode:
                write = stream.write

                class Limited:
                    flush, fileno = stream.flush, stream.fileno

                    def write(own, data: bytes) -> int:
                        kept = self.take(data)
                        write(kept)
                        if len(kept) < len(data):
                            raise self.full
                        return len(data)

                yield Limited()
            else:
                yield stream


def small(step: int) -> Checkpoint:
    tensors = {"model": {"w": torch.arange(5.0) + step}, "optimizer": {"w:m": torch.ones(7)}}
    return Checkpoint(tensors, {"step": step})


def test_a_disk_that_is_full_at_any_byte_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(monkeypatch)
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", lambda *_, **__: pytest.fail("nothing is damaged"))
    checkpoints.save(1, small(1))
    disk.written = 0
    checkpoints.save(2, small(2))
    whole = disk.written
    files = list((tmp_path / "checkpoints" / "step-00-00000002").iterdir())
    assert sum(path.stat().st_size for path in files) == whole
    for room in range(whole):
        disk.room, disk.written = room, 0
        with pytest.raises(
            InputError, match=r"step 3 could not be written \(No space left on device\): it takes 0\.000"
        ):
            checkpoints.save(3, small(3))
        assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00-00000001", "step-00-00000002"], room
    newest = checkpoints.load_newest()
    assert newest is not None
    assert newest.state == {"step": 2}
    disk.room, disk.written = whole, 0
    checkpoints.save(3, small(3))


ON_A_REAL_DISK = """
import os, resource, sys
from pathlib import Path
import torch
from pocketlm.errors import InputError
from pocketlm.training.checkpoint import Checkpoint, CheckpointFolder

kind, folder = sys.argv[1], Path(sys.argv[2])
def content(step):
    tensors = {"model": {"w": torch.full((3000,), float(step))}, "optimizer": {"m": torch.ones(6000)}}
    return Checkpoint(tensors, {"step": step})
def damaged(*arguments, **body):
    raise SystemExit(f"damaged: {body}")
checkpoints = CheckpointFolder(folder / "checkpoints", damaged, kept=1)
checkpoints.save(1, content(1))
refused = saved = 0
for step in range(2, 40):
    room = step - 2  # pages of 4 kB
    if kind == "full":
        free = os.statvfs(folder).f_bavail
        with open(folder / "filler", "wb") as stream:
            stream.write(bytes(4096 * (free - room)))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * room + 7, resource.RLIM_INFINITY))
    before = checkpoints.load_newest().state["step"]
    try:
        checkpoints.save(step, content(step))
        saved += 1
    except InputError as error:
        assert "could not be written" in str(error), error
        assert ("No space left" if kind == "full" else "File too large") in str(error), error
        refused += 1
        assert checkpoints.load_newest().state["step"] == before
    else:
        assert checkpoints.load_newest().state["step"] == step
    if kind == "full":
        (folder / "filler").unlink()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(refused, saved, len(os.listdir(folder / "checkpoints")))
"""


@pytest.mark.parametrize("kind", ["full", "limited"])
def test_what_the_system_itself_answers(tmp_path: Path, kind: str) -> None:
    """A real full disk (a small one in memory, where the system lets us make it), and a real limit on file sizes."""
    command = [sys.executable, "-c", ON_A_REAL_DISK, kind, str(tmp_path)]
    if kind == "full":
        alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        mount = f"mount -t tmpfs -o size=256k none '{tmp_path}'"
        if not shutil.which("unshare") or subprocess.run([*alone, mount], check=False).returncode:
            pytest.skip("this system lets us mount no file system")
        command = [*alone, f'{mount} && exec "$@"', "sh", *command]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    refused, saved, left = map(int, result.stdout.split())
    assert refused >= 8
    assert saved >= 8
    assert left == 1
