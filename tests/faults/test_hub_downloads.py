"""Data sets on the Hub, from a server on this machine that misbehaves: resumed, verified, or refused by name."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketlm.data.sources import remote, sources
from pocketlm.data.sources.row_forms import Fault
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.sources.sources import Account, content_identity, read_source
from pocketlm.errors import InputError
from tests.hub_stand_in import COMMIT, FORMER, REPOSITORY, Hub, hub_server
from tests.read_sources import entries

PATH = f"hf://datasets/{REPOSITORY}"
LINES = b"".join(json.dumps({"text": f"line {number} with some words"}).encode() + b"\n" for number in range(40_000))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(sources, "_identified", {})  # of the hubs of other tests
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        server.files = {
            "README.md": b"# the card",
            "data/small file.jsonl": b'{"text": "small"}\n',
            "data/large.jsonl": LINES,
            "other/readme.txt": b"other",
            "image.png": b"png",
        }
        server.large = {"data/large.jsonl"}
        yield server


def texts(path: str = PATH, **settings: object) -> list[bytes | Fault]:
    return [entry.content for entry in entries(path, **settings)]


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")


def refused(message: str, path: str = PATH, **settings: object) -> str:
    with pytest.raises(InputError, match=message) as caught:
        texts(path, **settings)
    return str(caught.value)


def test_everything_readable_but_the_card_at_the_present_commit(hub: Hub) -> None:
    hub.page = 2  # the list of files comes in pages
    account = Account()
    found = entries(PATH, account)
    assert len(found) == 40_002
    assert found[0].id == "mine/data/large.jsonl:1"
    assert found[0].origin == f"hf://datasets/{REPOSITORY}@{COMMIT}/data/large.jsonl"
    assert [entry.id for entry in found[-2:]] == ["mine/data/small file.jsonl:1", "mine/other/readme.txt"]
    assert account.revision == COMMIT
    assert account.passed_over == {".md": 1, ".png": 1}


def test_globs_folders_files_and_the_card_by_name(hub: Hub) -> None:
    assert [entry.id for entry in entries(f"{PATH}/data/sm*.jsonl")] == ["mine/small file.jsonl:1"]
    assert [entry.id for entry in entries(f"{PATH}/**/*.txt")] == ["mine/other/readme.txt"]
    assert [entry.id for entry in entries(f"{PATH}/other")] == ["mine/readme.txt"]
    assert texts(f"{PATH}/README.md") == [b"# the card"]


def test_only_what_is_read_is_downloaded_and_only_once(hub: Hub) -> None:
    identity = content_identity("mine", SourceSettings(path=f"{PATH}/other"))
    assert hub.downloads() == []
    assert texts(f"{PATH}/other") == texts(f"{PATH}/other") == [b"other"]
    assert len(hub.downloads()) == 1
    assert identity == content_identity("mine", SourceSettings(path=f"{PATH}/other"))


def test_a_revision_in_the_path_or_in_the_settings(hub: Hub) -> None:
    same = [SourceSettings(path=f"{PATH}@v1.0/other"), SourceSettings(path=f"{PATH}/other", revision="v1.0")]
    assert len({content_identity("mine", settings) for settings in same}) == 1
    assert same[1].identity() == SourceSettings(path=PATH).identity()  # the commit stands in the content's identity
    refused("names another revision", f"{PATH}@v1.0", revision="main")
    before = content_identity("mine", SourceSettings(path=f"{PATH}/other"))
    hub.commit = "c" * 40
    assert content_identity("mine", SourceSettings(path=f"{PATH}/other")) != before


def test_a_branch_that_moves_between_identity_and_reading(hub: Hub) -> None:
    content_identity("mine", SourceSettings(path=f"{PATH}/other"))
    hub.commit = "c" * 40
    refused("its files changed while the run began", f"{PATH}/other")


def test_a_downloaded_commit_is_read_without_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts(f"{PATH}@{COMMIT}/other") == [b"other"]
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert texts(f"{PATH}@{COMMIT}/other") == [b"other"]
    assert len(hub.requests) == asked
    refused("HF_HUB_OFFLINE forbids", f"{PATH}/other")


def test_busy_or_broken_twice_everywhere(hub: Hub) -> None:
    hub.busy = 2
    assert texts(f"{PATH}/other") == [b"other"]
    hub.busy = 2
    assert len(texts(f"{PATH}/data/large.jsonl")) == 40_000
    hub.broken = 2
    assert texts(f"{PATH}/other") == [b"other"]
    hub.busy = 99
    assert "4 times in a row" in refused("answers 503")


def test_short_bodies_are_resumed_where_they_broke_off(hub: Hub) -> None:
    hub.short = [1_000_000, 0, 200_000]
    assert len(texts(f"{PATH}/data/large.jsonl")) == 40_000
    assert hub.downloads() == [None, "bytes=1000000-", "bytes=1000000-", "bytes=1200000-"]


def test_a_download_goes_on_in_the_next_process(hub: Hub, tmp_path: Path) -> None:
    hub.short = [500_000, 0, 0, 0, 0]
    message = refused(r"broke off at 500,000 of 1,\d+,\d+ bytes", f"{PATH}/data/large.jsonl")
    assert "continues where it broke off" in message
    assert files_below(tmp_path / "cache") == ["large.jsonl.part"]
    hub.requests.clear()
    hub.short = []
    assert len(texts(f"{PATH}/data/large.jsonl")) == 40_000
    assert hub.downloads() == ["bytes=500000-"]
    assert files_below(tmp_path / "cache") == ["large.jsonl"]


def test_a_server_that_ignores_ranges(hub: Hub) -> None:
    hub.ignores_ranges = True
    hub.short = [1_000_000]
    assert len(texts(f"{PATH}/data/large.jsonl")) == 40_000
    assert hub.downloads() == [None, "bytes=1000000-"]


@pytest.mark.parametrize("name", ["data/large.jsonl", "data/small file.jsonl"])
def test_wrong_bytes_are_never_read(hub: Hub, tmp_path: Path, name: str) -> None:
    right = hub.files[name]
    hub.served[name] = b"X" + right[1:]
    message = refused("hash is .* instead of .*, twice", f"{PATH}/{name}")
    assert name in message
    assert len(hub.downloads()) == 2
    assert files_below(tmp_path / "cache") == []
    hub.served[name] = right + b"more"
    refused("sent more bytes than the file has", f"{PATH}/{name}")
    del hub.served[name]
    assert texts(f"{PATH}/{name}")


def test_a_download_that_was_damaged_on_this_machine_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    assert texts(f"{PATH}/other") == [b"other"]
    (file,) = (tmp_path / "cache").rglob("readme.txt")
    file.write_bytes(b"OTHER")
    assert texts(f"{PATH}/other") == [b"other"]


def test_gated_without_and_with_a_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = True
    message = refused("gated, private, or there is no such data set")
    assert f"Accept the terms at {hub.address}/datasets/{REPOSITORY}" in message
    assert "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert texts(f"{PATH}/other") == [b"other"]
    sent = {kind: authorization for kind, _, _, authorization in hub.requests}
    assert sent == {"hub": "Bearer secret", "storage": None}
    for path in (tmp_path / "cache").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()


def test_a_renamed_data_set_gets_the_token_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = True
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert texts(f"hf://datasets/{FORMER}/other") == [b"other"]
    assert {(kind, authorization) for kind, _, _, authorization in hub.requests} == {
        ("hub", "Bearer secret"),
        ("storage", None),
    }


def test_a_disk_that_is_full_is_not_taken_for_a_bad_network(hub: Hub) -> None:
    """A refusal of the disk is raised as it is, not tried again."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(read_source("mine", SourceSettings(path=f"{PATH}/other"), tick=full))
    assert len(hub.downloads()) == 1


def test_what_is_not_there_names_the_nearest(hub: Hub) -> None:
    assert "Nearest: owner/texts, " in refused("no data set owner/textes", "hf://datasets/owner/textes")
    assert "v1.0" in refused("no revision 'v1'", f"{PATH}@v1")
    assert "data/large.jsonl" in refused("holds no readable file", f"{PATH}/data/largo.jsonl")
    refused("looks like hf://datasets/OWNER/NAME", "hf://owner/texts")


def test_nobody_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "sources.mine.path = hf://" in refused("127.0.0.1:9 cannot be reached")


def test_no_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda path: _Usage)
    refused("MB free at .* download_folder")


class _Usage:
    free = 50_000_000


def test_a_local_source_uses_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def deny(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", deny)
    (tmp_path / "a.txt").write_text("some text")
    assert texts(str(tmp_path)) == [b"some text"]
