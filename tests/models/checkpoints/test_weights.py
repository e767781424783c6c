"""Released weights by name: from the cache, from a mirror, and only if they are the known ones."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.file_server import FileServer, serve

from samedge.errors import DownloadError, StorageError, UsageError
from samedge.models.checkpoints import weights
from samedge.models.checkpoints.weights import KNOWN_WEIGHTS, KnownWeights, fetch_weights, licence_of


def checkpoint_bytes(seed: int) -> bytes:
    file = io.BytesIO()
    generator = torch.Generator().manual_seed(seed)
    torch.save({"weight": torch.randn(100, 100, generator=generator)}, file)
    return file.getvalue()


CONTENT, OTHER = checkpoint_bytes(1), checkpoint_bytes(2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def mirror(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serve(FileServer(CONTENT)) as server:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("SAMEDGE_MIRROR", f"{server.address}/sam/")
        yield server


def know(monkeypatch: pytest.MonkeyPatch, name: str, **changes: str | None) -> None:
    known = KNOWN_WEIGHTS[name]
    entry = KnownWeights(known.file, known.base, **{"sha256": None, **changes})  # type: ignore[arg-type]
    monkeypatch.setitem(weights.KNOWN_WEIGHTS, name, entry)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324  git's


YOLO_FILES = (
    "yolov8n.pt", "yolov8s.pt", "yolov8m.pt", "yolov8l.pt", "yolov8x.pt", "yolov8n-seg.pt", "yolov8s-seg.pt",
    "yolov8m-seg.pt", "yolov8l-seg.pt", "yolov8x-seg.pt", "FastSAM-s.pt", "FastSAM-x.pt",
)  # fmt: skip


class TestTable:
    def test_addresses(self) -> None:
        addresses = {name: f"{known.base}/{known.file}" for name, known in KNOWN_WEIGHTS.items()}
        meta, assets = "https://dl.fbaipublicfiles.com/segment_anything", "https://github.com/ultralytics/assets"
        assert addresses == {
            "sam_b.pt": f"{assets}/releases/download/v8.3.0/sam_b.pt",
            "sam_l.pt": f"{assets}/releases/download/v8.3.0/sam_l.pt",
            "sam_h.pt": f"{meta}/sam_vit_h_4b8939.pth",
            "mobile_sam.pt": "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
            "sam_vit_b_01ec64.pth": f"{meta}/sam_vit_b_01ec64.pth",
            "sam_vit_l_0b3195.pth": f"{meta}/sam_vit_l_0b3195.pth",
            "sam_vit_h_4b8939.pth": f"{meta}/sam_vit_h_4b8939.pth",
        } | {name: f"{assets}/releases/download/v8.3.0/{name}" for name in YOLO_FILES}
        assert {KNOWN_WEIGHTS[name].licence for name in YOLO_FILES} == {"AGPL-3.0 (Ultralytics)"}

    def test_digests_are_digests(self) -> None:
        for known in KNOWN_WEIGHTS.values():
            assert known.sha256 is None or len(bytes.fromhex(known.sha256)) == 32
            assert known.git_blob is None or len(bytes.fromhex(known.git_blob)) == 20
        assert KNOWN_WEIGHTS["mobile_sam.pt"].git_blob == "7ef2d090979fd9853adf17b7a99c8b94a1c5a6a7"

    def test_needs_no_torch(self) -> None:
        program = "import sys, samedge.models.checkpoints.weights; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program]).returncode == 0


class TestFetching:
    def test_from_a_mirror_once(self, cache: Path, mirror: FileServer) -> None:
        path = fetch_weights("sam_b.pt")
        assert path == cache / "sam_b.pt"
        assert path.read_bytes() == CONTENT
        assert fetch_weights("sam_b.pt") == path
        assert [asked for asked, _, _ in mirror.requests] == ["/sam/sam_b.pt"]

    def test_two_names_of_one_file_share_it(
        self, cache: Path, mirror: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("sam_h.pt", "sam_vit_h_4b8939.pth"):
            know(monkeypatch, name, sha256=sha256(CONTENT))
        assert fetch_weights("sam_h.pt") == fetch_weights("sam_vit_h_4b8939.pth") == cache / "sam_vit_h_4b8939.pth"
        assert len(mirror.requests) == 1

    def test_goes_on_after_a_cut(self, cache: Path, mirror: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.sleep", lambda _: None)
        mirror.cuts = [20_000, 0, 0, 0]
        with pytest.raises(DownloadError, match="broke off"):
            fetch_weights("sam_b.pt", timeout=5)
        assert not (cache / "sam_b.pt").exists()
        assert fetch_weights("sam_b.pt").read_bytes() == CONTENT
        assert mirror.requests[-1][1:] == ("bytes=20000-", 206)
        assert {path.name for path in cache.iterdir()} == {"sam_b.pt", "sam_b.pt.lock", "sam_b.pt.sha256"}

    def test_progress(self, mirror: FileServer) -> None:
        seen: list[tuple[int, int | None]] = []
        fetch_weights("sam_b.pt", progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (len(CONTENT), len(CONTENT))

    def test_two_processes_at_once(self, cache: Path, mirror: FileServer) -> None:
        mirror.pause = 0.1
        program = "from samedge.models.checkpoints.weights import fetch_weights; print(fetch_weights('sam_b.pt'))"
        processes = [
            subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
            for _ in range(3)
        ]
        assert [process.communicate(timeout=60)[0].strip() for process in processes] == [str(cache / "sam_b.pt")] * 3
        assert (cache / "sam_b.pt").read_bytes() == CONTENT
        assert len(mirror.requests) == 1

    def test_an_unknown_name(self) -> None:
        with pytest.raises(UsageError, match=r"mobile_sam\.pt"):
            fetch_weights("sam_xxl.pt")

    @pytest.mark.parametrize("address", ["file:///etc", "ftp://example.org", "nonsense"])
    def test_a_mirror_that_is_no_address(self, cache: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        monkeypatch.setenv("SAMEDGE_MIRROR", address)
        with pytest.raises(UsageError, match="SAMEDGE_MIRROR"):
            fetch_weights("sam_b.pt")

    def test_without_a_network_one_sentence_says_what_to_do(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            weights, "KNOWN_WEIGHTS", {"mobile_sam.pt": KnownWeights("mobile_sam.pt", "https://name.invalid", None)}
        )
        monkeypatch.delenv("SAMEDGE_MIRROR", raising=False)
        with pytest.raises(DownloadError) as caught:
            fetch_weights("mobile_sam.pt")
        text = str(caught.value)
        assert "\n" not in text
        for part in ("https://name.invalid/mobile_sam.pt", str(cache / "mobile_sam.pt"), "SAMEDGE_MIRROR", "by hand"):
            assert part in text

    def test_a_file_put_into_the_cache_by_hand_is_taken(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        know(monkeypatch, "mobile_sam.pt", sha256=sha256(CONTENT), git_blob=blob_id(CONTENT))
        monkeypatch.setenv("SAMEDGE_MIRROR", "http://127.0.0.1:9")
        cache.mkdir(parents=True)
        (cache / "mobile_sam.pt").write_bytes(CONTENT)
        assert fetch_weights("mobile_sam.pt") == cache / "mobile_sam.pt"

    def test_a_cache_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cache").write_text("a file in the way")
        monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
        with pytest.raises(StorageError, match="cache"):
            fetch_weights("sam_b.pt")


class TestDigests:
    @pytest.mark.parametrize(
        "known",
        [
            {"sha256": sha256(CONTENT)},
            {"git_blob": blob_id(CONTENT)},
            {"sha256": sha256(CONTENT), "git_blob": blob_id(CONTENT)},
        ],
        ids=["sha256", "git", "both"],
    )
    def test_of_the_known_file(
        self, cache: Path, mirror: FileServer, monkeypatch: pytest.MonkeyPatch, known: dict[str, str]
    ) -> None:
        know(monkeypatch, "mobile_sam.pt", **known)
        assert fetch_weights("mobile_sam.pt").read_bytes() == CONTENT
        assert not (cache / "mobile_sam.pt.sha256").exists()

    @pytest.mark.parametrize(
        "known",
        [
            {"sha256": sha256(OTHER)},
            {"git_blob": blob_id(OTHER)},
            {"sha256": sha256(CONTENT), "git_blob": blob_id(OTHER)},
        ],
        ids=["sha256", "git", "both"],
    )
    @pytest.mark.parametrize("there", [False, True], ids=["fetched", "in the cache"])
    def test_of_another_file(
        self, cache: Path, mirror: FileServer, monkeypatch: pytest.MonkeyPatch, known: dict[str, str], there: bool
    ) -> None:
        know(monkeypatch, "mobile_sam.pt", **known)
        if there:
            cache.mkdir(parents=True)
            (cache / "mobile_sam.pt").write_bytes(CONTENT)
        with pytest.raises(DownloadError, match="not the known mobile_sam") as caught:
            fetch_weights("mobile_sam.pt")
        assert caught.value.sha256 == sha256(CONTENT)
        assert [path.name for path in cache.iterdir()] == ["mobile_sam.pt.lock"]

    def test_the_real_names_refuse_anything_else(self, cache: Path, mirror: FileServer) -> None:
        for name in ("mobile_sam.pt", "sam_h.pt", "sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth"):
            with pytest.raises(DownloadError, match="not the known"):
                fetch_weights(name)

    def test_seen_first_is_recorded_and_enforced(self, cache: Path, mirror: FileServer) -> None:
        path = fetch_weights("sam_l.pt")
        record = cache / "sam_l.pt.sha256"
        assert record.read_text().strip() == sha256(CONTENT)
        path.unlink()
        mirror.content = OTHER
        with pytest.raises(DownloadError, match="seen first") as caught:
            fetch_weights("sam_l.pt")
        assert str(record) in str(caught.value)
        assert not path.exists()
        mirror.content = CONTENT
        assert fetch_weights("sam_l.pt") == path
        path.write_bytes(OTHER)
        with pytest.raises(DownloadError, match="seen first"):
            fetch_weights("sam_l.pt")
        record.unlink()
        mirror.content = OTHER
        assert fetch_weights("sam_l.pt").read_bytes() == OTHER

    def test_a_login_page_does_not_become_the_known_weights(self, cache: Path, mirror: FileServer) -> None:
        mirror.content = b"<html>Welcome to the airport</html>"
        with pytest.raises(DownloadError, match="no checkpoint"):
            fetch_weights("sam_b.pt")
        assert [path.name for path in cache.iterdir()] == ["sam_b.pt.lock"]
        mirror.content = CONTENT
        assert fetch_weights("sam_b.pt").read_bytes() == CONTENT


class TestLicence:
    def test_by_digest(self, tmp_path: Path) -> None:
        for name in ("mobile_sam.pt", "sam_h.pt", "sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth"):
            digest = KNOWN_WEIGHTS[name].sha256
            assert digest is not None
            assert licence_of(tmp_path / "renamed.bin", digest) == "Apache-2.0"

    def test_of_a_file_that_was_fetched(self, cache: Path, mirror: FileServer, tmp_path: Path) -> None:
        path = fetch_weights("sam_b.pt")
        licence = licence_of(path, sha256(CONTENT))
        assert licence is not None
        assert licence.startswith("Apache-2.0")
        assert licence_of(path, sha256(OTHER)) is None
        assert licence_of(tmp_path / "sam_b.pt", sha256(CONTENT)) is None

    def test_of_any_other_file(self, cache: Path) -> None:
        assert licence_of(cache / "sam_b.pt", sha256(CONTENT)) is None
        assert licence_of(cache / "mine.pt", sha256(CONTENT)) is None
