"""Files in an object store, from a server on this machine: found, downloaded in pieces, verified by size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketlm.data.sources import remote
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.sources.sources import content_identity
from pocketlm.errors import InputError
from tests.object_store_stand_in import BUCKET, Store, object_store
from tests.read_sources import entries

LINES = b"".join(json.dumps({"text": f"line {number} " + "w" * 400}).encode() + b"\n" for number in range(30_000))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    with object_store() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        server.files = {"texts/a.txt": b"first", "texts/b/c.jsonl": LINES, "texts/x.csv": b"1,2"}
        yield server


def test_folders_globs_and_files(store: Store) -> None:
    found = entries(f"s3://{BUCKET}/texts")
    assert [entry.id for entry in found[:2]] == ["mine/a.txt", "mine/b/c.jsonl:1"]
    assert found[0].origin == f"s3://{BUCKET}/texts/a.txt"
    assert len(found) == 30_001
    assert [entry.content for entry in entries(f"s3://{BUCKET}/texts/*.txt")] == [b"first"]
    assert [entry.id for entry in entries(f"s3://{BUCKET}/texts/a.txt")] == ["mine/a.txt"]
    assert store.signed == {False}


def test_downloaded_once_and_again_when_it_changed(store: Store) -> None:
    settings = SourceSettings(path=f"s3://{BUCKET}/texts/a.txt")
    before = content_identity("mine", settings)
    asked = len(store.ranges)
    assert entries(settings.path)[0].content == b"first"
    assert len(store.ranges) == asked
    store.files["texts/a.txt"] = b"second"
    assert content_identity("mine", settings) != before
    assert entries(settings.path)[0].content == b"second"


def test_a_download_that_broke_off_is_resumed(store: Store, tmp_path: Path) -> None:
    assert len(LINES) > 8 << 20
    settings = SourceSettings(path=f"s3://{BUCKET}/texts/b/c.jsonl")
    part = tmp_path / "part"
    entries(settings.path)
    (done,) = (tmp_path / "cache").rglob("c.jsonl")
    done.rename(part)
    part.write_bytes(LINES[: 8 << 20])
    part.rename(done.with_name("c.jsonl.part"))
    store.ranges.clear()
    assert len(entries(settings.path)) == 30_000
    assert {asked.partition("-")[0] for _, asked in store.ranges if asked} == {f"bytes={8 << 20}"}


def test_busy_and_broken_connections_pass(store: Store) -> None:
    store.busy = 2
    store.cut = [1_000]
    assert len(entries(f"s3://{BUCKET}/texts/b/*.jsonl")) == 30_000


def test_an_object_that_changes_between_listing_and_reading(store: Store) -> None:
    store.changed = "Sat, 21 Nov 2026 11:00:00 GMT"
    with pytest.raises(InputError, match=r"texts/a\.txt: changed while it was read"):
        entries(f"s3://{BUCKET}/texts/a.txt")


def test_refused_by_name(store: Store) -> None:
    with pytest.raises(InputError, match=r"holds no readable file.*Nearest: texts/a\.txt"):
        entries(f"s3://{BUCKET}/texts/a.tx")
    store.denied = True
    with pytest.raises(InputError, match=r"cannot be listed .*AWS_NO_SIGN_REQUEST"):
        entries(f"s3://{BUCKET}/texts")
