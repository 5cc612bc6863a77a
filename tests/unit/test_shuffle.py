"""Key files, scratch files and engines."""

from __future__ import annotations

import errno
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketlm.data import scratch
from pocketlm.data.engine import open_engine
from pocketlm.data.scratch import load_arrays, read_some, read_text, save_arrays, write_text
from pocketlm.data.shuffle import key_count, key_ranges, stable_order, write_keys
from pocketlm.data.text import Text
from pocketlm.data.text_store import SpilledUnit, TextStore
from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.settings import Runtime

KEYS = st.lists(st.lists(st.sampled_from([0, 1, 5, 2**63, 2**64 - 1, 2**40]), max_size=8), max_size=5)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KEYS, st.integers(1, 9))
def test_every_row_comes_once_and_equal_keys_come_together(
    tmp_path: Path, units: list[list[int]], maximum: int
) -> None:
    paths = []
    for unit, keys in enumerate(units):
        paths.append(tmp_path / str(unit))
        rows = np.array([[place, 10 * place] for place in range(len(keys))], np.int64).reshape(-1, 2)
        write_keys(paths[-1], np.array(keys, np.uint64), rows)
    found = []
    ranges_of: dict[int, set[int]] = defaultdict(set)
    for number, part in enumerate(key_ranges(paths, maximum)):
        found += [
            (int(key), int(unit), int(row[0])) for key, unit, row in zip(part.keys, part.unit, part.rows, strict=True)
        ]
        assert (part.rows[:, 1] == 10 * part.rows[:, 0]).all()
        for key in part.keys.tolist():
            ranges_of[key].add(number)
    expected = sorted((key, unit, place) for unit, keys in enumerate(units) for place, key in enumerate(keys))
    assert found == expected
    assert key_count(paths) == len(expected)
    assert all(len(numbers) == 1 for numbers in ranges_of.values())


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 5, 2**63, 2**64 - 1]), max_size=40))
def test_order_is_stable(keys: list[int]) -> None:
    array = np.array(keys, np.uint64)
    assert stable_order(array).tolist() == np.argsort(array, kind="stable").tolist()


def test_a_shortened_key_file_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "a", np.arange(5, dtype=np.uint64), np.zeros((5, 1), np.int64))
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-8])
    with pytest.raises(CorruptionError, match="not as long as it says"):
        list(key_ranges([tmp_path / "a"]))


def test_texts_come_back_whole_and_in_part(tmp_path: Path) -> None:
    texts = ["", "one", "zwei äöü", "", "three\n"]
    text = Text.from_arrow(pa.array(["left out", *texts], pa.large_string())[1:])
    write_text(tmp_path / "t", text)
    whole = read_text(tmp_path / "t")
    assert [whole.bytes_of(at).decode() for at in range(5)] == texts
    some = read_some(tmp_path / "t", np.array([4, 1, 0]))
    assert [some.bytes_of(at).decode() for at in range(3)] == ["three\n", "one", ""]
    store = TextStore([SpilledUnit(tmp_path / "t", 5)] * 2)
    several = store.read(np.array([1, 2, 5, 6, 9]))
    assert [several.bytes_of(at).decode() for at in range(5)] == ["one", "zwei äöü", "", "one", "three\n"]
    assert len(store.read(np.empty(0, np.int64))) == 0


@pytest.mark.parametrize("read", [read_text, lambda path: read_some(path, np.array([0, 1]))])
def test_a_shortened_text_is_refused(tmp_path: Path, read: Callable[[Path], Text]) -> None:
    write_text(tmp_path / "t", Text.from_arrow(pa.array(["one", "two"], pa.large_string())))
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-1])
    with pytest.raises(CorruptionError, match="not as long as it says"):
        read(tmp_path / "t")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch.os, "replace", full)
    with pytest.raises(InputError, match=r"the disk is full; .* Free some space; the same command continues"):
        save_arrays(tmp_path / "a.npz", {"x": np.arange(10)})
    assert list(tmp_path.iterdir()) == []


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a.npz", {"x": np.arange(10), "none": np.empty((0, 3))})
    assert load_arrays(tmp_path / "a.npz")["none"].shape == (0, 3)
    (tmp_path / "a.npz").write_bytes(b"PK nonsense")
    with pytest.raises(CorruptionError, match=r"a\.npz: unreadable"):
        load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(("threads", "partitions"), [(1, 0), (2, 0), (4, 1), (2, 7), (3, 64)])
def test_results_come_in_the_order_of_the_tasks(threads: int, partitions: int) -> None:
    used = set()

    def square(value: int) -> int:
        used.add(threading.get_ident())
        return value * value

    with open_engine(Runtime(threads=threads, partitions=partitions)) as engine:
        assert list(engine.map(square, range(50))) == [value * value for value in range(50)]
        assert list(engine.map(square, [])) == []
    assert len(used) <= threads


def test_the_error_of_a_task_is_raised() -> None:
    def refuse(value: int) -> int:
        raise InputError(f"no {value}")

    with open_engine(Runtime(threads=2)) as engine, pytest.raises(InputError, match="no 3"):
        list(engine.map(refuse, [3]))
