"""Exports that are kept: made once, found again, made anew when the checkpoint or the kept bundle is another."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from support.bundles import write_any_bundle

import samedge
from samedge.api import cached
from samedge.api.cached import cached_bundle
from samedge.errors import CheckpointError, MissingExtraError, StorageError
from samedge.options import ExportOptions
from samedge.types import Progress


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAMEDGE_CACHE", str(folder))
    return folder


@pytest.fixture
def exports(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts a small bundle in place of every export; returns what was asked for."""
    calls: list[dict[str, Any]] = []

    def export(model: str, options: ExportOptions, progress: Progress | None) -> Path:
        output = Path(str(options.output))
        calls.append({"model": model, "image_size": options.image_size, "progress": progress})
        shutil.rmtree(output, ignore_errors=True)
        return write_any_bundle(output, verdict="failed" if "bad" in model else "passed")

    monkeypatch.setattr(cached, "export_bundle", export)
    return calls


def checkpoint(tmp_path: Path, content: bytes = b"weights", name: str = "sam.pt") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_made_once(tmp_path: Path, cache: Path, exports: list[dict[str, Any]]) -> None:
    path = checkpoint(tmp_path)
    first = cached_bundle(path)
    assert first.parent == cache / "exports"
    assert first.name.startswith("sam-")
    assert first.name.endswith(samedge.__version__)
    assert cached_bundle(str(path)) == first
    assert cached_bundle(checkpoint(tmp_path / ".." / tmp_path.name)) == first
    assert exports == [{"model": str(path), "image_size": None, "progress": None}]


def test_other_weights_under_the_same_name_are_another_bundle(tmp_path: Path, exports: list[dict[str, Any]]) -> None:
    first = cached_bundle(checkpoint(tmp_path))
    assert cached_bundle(checkpoint(tmp_path, b"weights of the next epoch")) != first
    assert len(exports) == 2


def test_the_image_size_and_the_version_are_part_of_the_place(
    tmp_path: Path, exports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(tmp_path)
    places = {cached_bundle(path), cached_bundle(path, image_size=512), cached_bundle(path, image_size=640)}
    monkeypatch.setattr(cached, "__version__", "99")
    places.add(cached_bundle(path))
    assert len(places) == 4
    assert [call["image_size"] for call in exports] == [None, 512, 640, None]


def test_a_damaged_bundle_is_made_anew(tmp_path: Path, exports: list[dict[str, Any]]) -> None:
    path = checkpoint(tmp_path)
    bundle = cached_bundle(path)
    (bundle / "decoder.onnx").write_bytes(b"cut")
    assert cached_bundle(path) == bundle
    assert (bundle / "decoder.onnx").read_bytes() != b"cut"
    assert len(exports) == 2


def test_a_bundle_that_failed_is_not_made_again_and_again(tmp_path: Path, exports: list[dict[str, Any]]) -> None:
    path = checkpoint(tmp_path, name="bad.pt")
    assert cached_bundle(path) == cached_bundle(path)
    assert len(exports) == 1


def test_progress_is_handed_on(tmp_path: Path, exports: list[dict[str, Any]]) -> None:
    def progress(step: str, share: float) -> None:
        raise NotImplementedError

    cached_bundle(checkpoint(tmp_path), progress=progress)
    assert exports[0]["progress"] is progress


def test_a_checkpoint_that_cannot_be_read_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(CheckpointError):
        cached_bundle(checkpoint(tmp_path))
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_no_such_file(cache: Path) -> None:
    with pytest.raises(StorageError, match=r"no_such\.pt: there is no such file"):
        cached_bundle("no_such.pt")


def test_an_absent_package_is_named_with_its_install_command(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "samedge.export.sam_bundle", raising=False)
    monkeypatch.setitem(sys.modules, "samedge.export.graphs.trace", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'samedge\[export,cpu\]'"):
        cached.cached_bundle(checkpoint(tmp_path))
