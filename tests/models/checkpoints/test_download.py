"""Transfers that break off, start over and go on, against a server on this machine."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.file_server import FileServer, serve

from samedge.errors import DownloadError, StorageError
from samedge.models.checkpoints.download import download
from samedge.storage.locks import file_lock

CONTENT = bytes(range(256)) * 1200  # 300 kB


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def fetch(server: FileServer, part: Path, **options: Any) -> bytes:
    download(f"{server.address}/sam.pt", part, pause=0.0, timeout=5, **options)
    return part.read_bytes()


def statuses(server: FileServer) -> list[int]:
    return [status for _, _, status in server.requests]


def test_a_whole_file_with_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serve(FileServer(CONTENT)) as server:
        assert fetch(server, tmp_path / "x.part", progress=lambda done, total: seen.append((done, total))) == CONTENT
    assert statuses(server) == [200]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(seen) == seen
    assert [path.name for path in tmp_path.iterdir()] == ["x.part"]


def test_a_server_that_tells_no_length(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serve(FileServer(CONTENT, length=False)) as server:
        assert fetch(server, tmp_path / "x.part", progress=lambda done, total: seen.append((done, total))) == CONTENT
    assert seen[-1] == (len(CONTENT), None)


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_goes_on_where_the_connection_broke_off(tmp_path: Path, validator: str) -> None:
    with serve(FileServer(CONTENT, validator=validator, cuts=[100_000, 50_000])) as server:
        assert fetch(server, tmp_path / "x.part") == CONTENT
    assert [asked for _, asked, _ in server.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert statuses(server) == [200, 206, 206]


def test_goes_on_in_a_later_call(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with serve(FileServer(CONTENT, cuts=[70_000, 0, 0, 0])) as server:
        with pytest.raises(DownloadError, match="broke off") as caught:
            fetch(server, part)
        assert caught.value.received == part.stat().st_size == 70_000
        assert fetch(server, part) == CONTENT
    assert server.requests[-1][1] == "bytes=70000-"


@pytest.mark.parametrize("server", [FileServer(CONTENT, ranges=False), FileServer(CONTENT, validator=None)])
def test_starts_over_where_going_on_is_not_possible(tmp_path: Path, server: FileServer) -> None:
    server.cuts = [100_000]
    with serve(server):
        assert fetch(server, tmp_path / "x.part") == CONTENT
    assert statuses(server) == [200, 200]


def test_starts_over_where_the_file_has_changed(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with serve(FileServer(CONTENT, cuts=[90_000, 0, 0, 0])) as server:
        with pytest.raises(DownloadError):
            fetch(server, part)
        server.content = CONTENT[::-1]
        assert fetch(server, part) == CONTENT[::-1]
    assert statuses(server)[-1] == 200


def test_a_part_of_another_address_is_not_gone_on_with(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with serve(FileServer(CONTENT, cuts=[90_000, 0, 0, 0])) as first, pytest.raises(DownloadError):
        fetch(first, part)
    with serve(FileServer(CONTENT)) as second:
        assert fetch(second, part) == CONTENT
    assert [asked for _, asked, _ in second.requests] == [None]


@pytest.mark.parametrize("memory", ["", "{", "[]", "{}", '{"url": 1, "validator": []}'])
def test_a_part_whose_origin_is_not_known_is_not_gone_on_with(tmp_path: Path, memory: str) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"from who knows where")
    part.with_name("x.part.json").write_text(memory)
    with serve(FileServer(CONTENT)) as server:
        assert fetch(server, part) == CONTENT


def test_a_part_that_is_whole_needs_no_more_bytes(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with serve(FileServer(CONTENT)) as server:
        part.write_bytes(CONTENT)
        origin = {"url": f"{server.address}/sam.pt", "validator": server.identity()}
        part.with_name("x.part.json").write_text(json.dumps(origin))
        assert fetch(server, part) == CONTENT
    assert statuses(server) == [416]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with serve(FileServer(CONTENT, cuts=[90_000, 0, 0, 0])) as server:
        with pytest.raises(DownloadError):
            fetch(server, part)
        part.write_bytes(CONTENT + b"more")
        assert fetch(server, part) == CONTENT
    assert statuses(server)[-2:] == [416, 200]


def test_another_part_than_the_one_asked_for_is_not_taken(tmp_path: Path) -> None:
    with serve(FileServer(CONTENT, cuts=[90_000], shift=7)) as server:
        assert fetch(server, tmp_path / "x.part") == CONTENT
    assert statuses(server) == [200, 206, 200]


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    with serve(FileServer(CONTENT, statuses=[503, 429])) as server:
        assert fetch(server, tmp_path / "x.part") == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(tmp_path: Path, status: int) -> None:
    with serve(FileServer(CONTENT, statuses=[status] * 9)) as server, pytest.raises(DownloadError, match=str(status)):
        fetch(server, tmp_path / "x.part")
    assert statuses(server) == [status]


def test_a_server_that_stays_busy_is_given_up(tmp_path: Path) -> None:
    with serve(FileServer(CONTENT, statuses=[500] * 9)) as server, pytest.raises(DownloadError, match="500"):
        fetch(server, tmp_path / "x.part")
    assert 1 < len(server.requests) < 9


def test_a_server_that_brings_nothing_new_is_given_up(tmp_path: Path) -> None:
    # Without ranges it begins anew each time and breaks off now here, now there.
    with (
        serve(FileServer(CONTENT, ranges=False, cuts=[200_000, 90_000, 150_000] * 10)) as server,
        pytest.raises(DownloadError),
    ):
        fetch(server, tmp_path / "x.part")
    assert len(server.requests) < 9


def test_a_server_that_is_silent_is_given_up(tmp_path: Path) -> None:
    with serve(FileServer(CONTENT, pause=3.0)) as server, pytest.raises(DownloadError, match="broke off"):
        download(f"{server.address}/x", tmp_path / "x.part", pause=0.0, timeout=0.05)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:9/sam.pt", "cannot be reached"),
        ("http://name.invalid/sam.pt", "cannot be reached"),
        ("http://[::1/sam.pt", "no address"),
        ("http://127.0.0.1:port/sam.pt", "no address"),
    ],
)
def test_no_server(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(DownloadError, match=says) as caught:
        download(url, tmp_path / "x.part", pause=0.0)
    assert "\n" not in str(caught.value)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: Full() if path.name == "x.part" else opened(path, *a, **k))
    with serve(FileServer(CONTENT)) as server, pytest.raises(StorageError, match="Free some space"):
        fetch(server, tmp_path / "x.part")


@settings(max_examples=30)
@given(
    cuts=st.lists(st.integers(1, 200_000), max_size=5),
    ranges=st.booleans(),
    validator=st.sampled_from(["ETag", "Last-Modified", None]),
)
def test_what_arrives_is_the_file_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges: bool, validator: str | None
) -> None:
    part = tmp_path_factory.mktemp("part") / "x.part"
    with serve(FileServer(CONTENT, ranges=ranges, validator=validator, cuts=list(cuts))) as server:
        try:
            arrived = fetch(server, part)
        except DownloadError:
            assert not ranges or validator is None, "each connection brought something new"
        else:
            assert arrived == CONTENT


class TestLock:
    def test_excludes_another_process(self, tmp_path: Path) -> None:
        lock, log = tmp_path / "x.lock", tmp_path / "log"
        program = (
            "import sys, time, pathlib; from samedge.storage.locks import file_lock\n"
            f"with file_lock(pathlib.Path({str(lock)!r})):\n"
            f"  log = pathlib.Path({str(log)!r}).open('a'); log.write('in '); log.flush(); time.sleep(0.2)\n"
            "  log.write('out '); log.flush()"
        )
        with file_lock(lock):
            processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
            assert not log.exists()
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        assert log.read_text() == "in out " * 3

    def test_a_process_that_died_holds_nothing(self, tmp_path: Path) -> None:
        lock = tmp_path / "x.lock"
        program = (
            "import os, pathlib; from samedge.storage.locks import file_lock\n"
            f"with file_lock(pathlib.Path({str(lock)!r})): os._exit(1)"
        )
        assert subprocess.run([sys.executable, "-c", program]).returncode == 1
        with file_lock(lock):
            pass

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError), file_lock(tmp_path / "absent" / "x.lock"):
            pass
