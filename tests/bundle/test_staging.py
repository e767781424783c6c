"""A bundle appears whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from multiprocessing import get_context
from pathlib import Path

import pytest

from samedge.bundle.manifest import MANIFEST_NAME
from samedge.bundle.staging import check_target, staged_bundle
from samedge.errors import ExportError, StorageError


def fill(folder: Path, text: str = "x") -> None:
    (folder / "graph.onnx").write_text(text)
    (folder / MANIFEST_NAME).write_text(text)


def test_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with staged_bundle(target) as stage:
        fill(stage)
        assert not target.exists()
        assert stage.parent == target.parent  # the same file system, so that the rename is atomic
    assert sorted(path.name for path in target.iterdir()) == ["graph.onnx", MANIFEST_NAME]
    assert list(target.parent.iterdir()) == [target]


def test_archive_holds_the_folder_uncompressed(tmp_path: Path) -> None:
    target = tmp_path / "bundle.samedge"
    with staged_bundle(target) as stage:
        fill(stage)
    with zipfile.ZipFile(target) as archive:
        assert sorted(archive.namelist()) == ["graph.onnx", MANIFEST_NAME]
        assert all(item.compress_type == zipfile.ZIP_STORED for item in archive.infolist())
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["bundle", "bundle.samedge"])
def test_an_error_leaves_the_old_bundle_and_nothing_else(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with staged_bundle(target) as stage:
        fill(stage, "old")

    def break_half_way() -> None:
        with staged_bundle(target) as stage:
            fill(stage, "new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        break_half_way()
    assert list(tmp_path.iterdir()) == [target]
    if target.is_dir():
        assert (target / "graph.onnx").read_text() == "old"


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for text in ("old", "new"):
        with staged_bundle(target) as stage:
            fill(stage, text)
    assert (target / "graph.onnx").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_not_a_bundle_is_not_replaced(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("cat")
    with pytest.raises(ExportError, match="holds no bundle"):
        check_target(photos)
    with pytest.raises(ExportError, match="there is a file"):
        check_target(photos / "cat.jpg")
    archive = tmp_path / "folder.samedge"
    archive.mkdir()
    with pytest.raises(ExportError, match="there is a folder"):
        check_target(archive)


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Free some space") as caught, staged_bundle(tmp_path / "bundle"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Check the permissions"), staged_bundle(tmp_path / "bundle"):
        pass


def test_a_file_in_the_way_of_the_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), staged_bundle(tmp_path / "file" / "bundle"):
        pass


@pytest.mark.parametrize("name", ["bundle", "bundle.samedge"])
def test_a_killed_export_leaves_nothing_that_loads_and_the_next_one_cleans_up(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    script = f"""
        import os, signal
        from pathlib import Path
        from samedge.bundle.staging import staged_bundle
        with staged_bundle(Path({str(target)!r})) as stage:
            (stage / "graph.onnx").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert not list(tmp_path.rglob(MANIFEST_NAME))
    with staged_bundle(target) as stage:
        fill(stage)
    assert list(tmp_path.iterdir()) == [target]


def export_many(target: Path, text: str) -> None:
    for _ in range(25):
        with staged_bundle(target) as stage:
            fill(stage, text)


def test_two_processes_at_once_do_no_harm(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    context = get_context("spawn")
    workers = [context.Process(target=export_many, args=(target, text)) for text in ("one", "two")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "graph.onnx").read_text() == (target / MANIFEST_NAME).read_text()
