"""Where the cache is, on every system."""

from __future__ import annotations

import sys
from pathlib import Path

import platformdirs
import pytest
from platformdirs import macos, unix, windows

from samedge.errors import StorageError
from samedge.storage.files import cache_folder

SYSTEMS = {"linux": unix.Unix, "darwin": macos.MacOS, "win32": windows.Windows}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAMEDGE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize(
    ("system", "environment", "expected"),
    [
        ("linux", {}, "/home/me/.cache/samedge"),
        ("linux", {"XDG_CACHE_HOME": "/fast"}, "/fast/samedge"),
        ("darwin", {"XDG_CACHE_HOME": "/fast"}, "/home/me/Library/Caches/samedge"),
        ("win32", {}, "/home/me/AppData/Local/samedge"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/samedge"),
        ("linux", {"SAMEDGE_CACHE": "/named", "XDG_CACHE_HOME": "/fast"}, "/named"),
        ("win32", {"SAMEDGE_CACHE": "/named", "LOCALAPPDATA": "/local"}, "/named"),
    ],
)
def test_the_place(system: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platformdirs, "PlatformDirs", SYSTEMS[system])
    # The known folder of Windows, as its shell answers.
    local = environment.get("LOCALAPPDATA", "/home/me/AppData/Local")
    monkeypatch.setattr(windows, "get_win_folder", lambda _name: local)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: str) -> str:
        return path

    monkeypatch.setattr("os.path.expanduser", homeless)
    with pytest.raises(StorageError, match=r"Set SAMEDGE_CACHE to a folder"):
        cache_folder()
