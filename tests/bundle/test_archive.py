"""A bundle loads if every file is what the manifest says, and never otherwise."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
import zipfile
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from support.bundles import CONTENTS, any_manifest, pack, write_any_bundle

from samedge.bundle import archive as module
from samedge.bundle.archive import open_bundle
from samedge.bundle.manifest import MANIFEST_NAME, encode_manifest
from samedge.errors import BundleError, IntegrityError, ParityError, SamedgeError, StorageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_any_bundle(tmp_path / "any-samedge")


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    return pack(folder, tmp_path / "any.samedge")


class TestFolder:
    def test_a_whole_bundle_opens(self, folder: Path) -> None:
        bundle = open_bundle(folder)
        assert bundle.manifest == any_manifest()
        assert bundle.path == bundle.folder == folder
        assert bundle.graph_path("decoder").read_bytes() == CONTENTS["decoder.onnx"]
        assert open_bundle(str(folder)).folder == folder

    def test_its_manifest_stands_for_it(self, folder: Path) -> None:
        assert open_bundle(folder / MANIFEST_NAME).folder == folder

    def test_a_role_that_it_lacks_is_an_error(self, folder: Path) -> None:
        with pytest.raises(BundleError, match=r"no decoder_single graph \(it has: encoder, decoder\)"):
            open_bundle(folder).graph_path("decoder_single")

    def test_other_files_beside_do_not_matter(self, folder: Path) -> None:
        (folder / "engine.plan").write_bytes(b"engines live beside the graphs")
        open_bundle(folder)

    @pytest.mark.parametrize("name", CONTENTS)
    def test_a_missing_file_is_named(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(IntegrityError, match=rf"{name}: this file of the bundle is missing\. Copy") as caught:
            open_bundle(folder)
        assert caught.value.facts["file"] == name

    @pytest.mark.parametrize("name", CONTENTS)
    def test_a_file_that_is_cut_short_is_named(self, folder: Path, name: str) -> None:
        (folder / name).write_bytes(CONTENTS[name][:-1])
        with pytest.raises(IntegrityError, match=rf"{name}: this file has \d+ bytes, but the manifest says \d+"):
            open_bundle(folder)

    @pytest.mark.parametrize("name", CONTENTS)
    def test_a_file_with_one_bit_changed_is_named(self, folder: Path, name: str) -> None:
        data = bytearray(CONTENTS[name])
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(IntegrityError, match=rf"{name}: .*SHA-256"):
            open_bundle(folder)
        assert open_bundle(folder, verify=False).manifest == any_manifest()

    def test_digests_of_weights_may_be_compared_later(self, folder: Path) -> None:
        opened = open_bundle(folder, weights_later=True)
        assert [record.file for record in opened.unchecked] == ["encoder.data"]
        opened.check_rest()
        assert not open_bundle(folder).unchecked
        assert not open_bundle(folder, verify=False, weights_later=True).unchecked
        (folder / "encoder.data").write_bytes(bytes(len(CONTENTS["encoder.data"])))
        with pytest.raises(IntegrityError, match=r"encoder\.data: .*SHA-256"):
            open_bundle(folder, weights_later=True).check_rest()
        (folder / "encoder.data").write_bytes(b"")
        with pytest.raises(IntegrityError, match=r"encoder\.data: this file has 0 bytes"):
            open_bundle(folder, weights_later=True)

    def test_a_folder_in_place_of_a_file_is_an_error(self, folder: Path) -> None:
        (folder / "decoder.onnx").unlink()
        (folder / "decoder.onnx").mkdir()
        with pytest.raises(IntegrityError, match=r"decoder\.onnx: this file of the bundle is missing"):
            open_bundle(folder)

    def test_without_a_manifest_it_did_not_end(self, folder: Path) -> None:
        (folder / MANIFEST_NAME).unlink()
        with pytest.raises(BundleError, match=r"has ONNX graphs and no manifest\.json.*samedge export"):
            open_bundle(folder)

    def test_any_other_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"not a bundle: it has no manifest\.json.*samedge export"):
            open_bundle(tmp_path)

    def test_what_a_killed_export_left_never_loads(self, folder: Path) -> None:
        leftover = folder.rename(folder.with_name(f".tmp-{folder.name}-123-abc"))
        with pytest.raises(BundleError, match=r"left behind by an unfinished export"):
            open_bundle(leftover)
        with pytest.raises(BundleError, match=r"left behind"):
            open_bundle(leftover / MANIFEST_NAME)

    def test_no_such_path(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"there is no such bundle.*samedge export"):
            open_bundle(tmp_path / "nothing")

    @pytest.mark.parametrize("name", ["sam_b.pt", "sam_vit_h_4b8939.pth", "mobile_sam.safetensors", "SAM_L.PT"])
    def test_a_checkpoint_says_what_to_do(self, name: str, tmp_path: Path) -> None:
        for path in (Path(name), tmp_path / name):
            with pytest.raises(BundleError, match=rf"samedge export {name}, or use samedge\.SAM\('{name}'\)"):
                open_bundle(path)

    def test_no_permission_is_a_storage_error(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, _: str) -> NoReturn:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(StorageError, match=r"cannot read this: Permission denied\. Check the permissions"):
            open_bundle(folder)


class TestManifest:
    def rewrite(self, folder: Path, old: str, new: str) -> None:
        path = folder / MANIFEST_NAME
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('"schema": 1', '"schema": 2', r"schema 2, and this samedge reads schema 1\. Update samedge"),
            ('"schema": 1', '"schema": "x"', r"schema 'x'"),
            ('"schema": 1,', "", r"schema None"),
            ('"io": "native"', '"io": "morse"', r"the manifest is not valid: .*morse.*\$\.io"),
            ('"io": "native",', "", r"missing required field `io`"),
            ('"io": "native"', '"io": "native", "extra": 1', r"unknown field `extra`"),
            ('"size": ', '"size": "', r"not valid"),
            ('"encoder.onnx"', '"../encoder.onnx"', r"names a file outside the bundle: '\.\./encoder\.onnx'"),
            ('"encoder.onnx"', '"/etc/passwd"', r"names a file outside the bundle"),
            ('"encoder.onnx"', '"..\\\\encoder.onnx"', r"names a file outside the bundle"),
            ('"encoder.onnx"', '"C:encoder.onnx"', r"names a file outside the bundle"),
            ('"encoder.onnx"', '""', r"names a file outside the bundle"),
            ("{", "", r"not valid JSON"),
            ("{", "[" * 100_000, r"not valid JSON"),
            ("{", "{" + " " * (1 << 24), r"not valid JSON \(more than 16,777,216 bytes"),
            ('"image_size": 128', '"image_size": -1', r"not valid: .*>= 1.*image_size"),
            ('"image_size": 128', '"image_size": 10000000', r"not valid: .*<= 16384.*image_size"),
            ('"mask_threshold": 0.0', '"mask_threshold": 1e308', r"not valid: .*mask_threshold"),
            ('"mask_threshold": 0.0', '"mask_threshold": NaN', r"not valid"),
            ('"size": ', '"size": -', r"not valid: .*>= 0.*size"),
            ('"size": ', '"size": ' + "9" * 5000, r"not valid"),
        ],
    )
    def test_one_that_is_wrong_is_a_bundle_error(self, folder: Path, old: str, new: str, message: str) -> None:
        self.rewrite(folder, old, new)
        with pytest.raises(BundleError, match=rf"manifest\.json: .*{message}"):
            open_bundle(folder)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff\xfe\x00",
            b"null",
            b"[]",
            b'"manifest"',
            b"PK\x03\x04",
            '{"schema": 1}'.encode("utf-16"),
            '\ufeff{"schema": 1}'.encode(),
        ],
    )
    def test_other_content_is_a_bundle_error(self, folder: Path, content: bytes) -> None:
        (folder / MANIFEST_NAME).write_bytes(content)
        with pytest.raises(BundleError, match=r"manifest\.json: "):
            open_bundle(folder)


class TestParity:
    def test_a_failed_verdict_is_refused_without_force(self, tmp_path: Path) -> None:
        folder = write_any_bundle(tmp_path / "bad", verdict="failed")
        with pytest.raises(ParityError, match=r"mask IoU 0\.5000 at worst.*--force"):
            open_bundle(folder)
        with pytest.raises(ParityError, match=r"bad\.samedge"):
            open_bundle(pack(folder, tmp_path / "bad.samedge"))
        assert open_bundle(folder, force=True).manifest.parity.verdict == "failed"

    def test_force_does_not_load_damaged_files(self, tmp_path: Path) -> None:
        folder = write_any_bundle(tmp_path / "bad", verdict="failed")
        (folder / "decoder.onnx").write_bytes(b"other")
        with pytest.raises(IntegrityError):
            open_bundle(folder, force=True)

    def test_an_unchecked_one_opens(self, tmp_path: Path) -> None:
        assert open_bundle(write_any_bundle(tmp_path / "new", verdict="unchecked")).manifest.parity.mask_iou_min == 0.5


class TestArchive:
    def test_it_is_unpacked_into_the_cache_once(self, archive: Path, folder: Path, cache: Path) -> None:
        bundle = open_bundle(archive)
        assert bundle.path == archive
        assert bundle.folder.parent == cache / "bundles"
        assert bundle.manifest == any_manifest()
        assert {path.name: path.read_bytes() for path in bundle.folder.iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
        before = (bundle.folder / "encoder.onnx").stat().st_ino
        assert open_bundle(archive).folder == bundle.folder
        assert (bundle.folder / "encoder.onnx").stat().st_ino == before
        assert [path.name for path in (cache / "bundles").iterdir()] == [bundle.folder.name]

    def test_one_that_was_compressed_opens_too(self, folder: Path, tmp_path: Path) -> None:
        assert open_bundle(pack(folder, tmp_path / "small.zip", zipfile.ZIP_DEFLATED)).manifest == any_manifest()

    def test_another_bundle_gets_another_folder(self, archive: Path, tmp_path: Path) -> None:
        other = pack(write_any_bundle(tmp_path / "other", verdict="unchecked"), tmp_path / "other.samedge")
        assert open_bundle(archive).folder != open_bundle(other).folder

    @pytest.mark.parametrize("name", CONTENTS)
    def test_a_damaged_copy_in_the_cache_is_made_again(self, archive: Path, name: str) -> None:
        unpacked = open_bundle(archive).folder
        (unpacked / name).write_bytes(b"damaged")
        assert (open_bundle(archive).folder / name).read_bytes() == CONTENTS[name]

    @pytest.mark.parametrize("keep", [0, 10, 200, 2000, -1])
    def test_one_that_is_cut_short_is_an_error(self, archive: Path, keep: int, cache: Path) -> None:
        archive.write_bytes(archive.read_bytes()[:keep])
        with pytest.raises(BundleError, match=r"any\.samedge: the file is not a bundle, or is damaged"):
            open_bundle(archive)
        assert not any(cache.rglob("*.onnx"))

    @pytest.mark.parametrize("at", [100, 900, 1500])
    def test_one_with_a_changed_byte_is_an_error(self, archive: Path, at: int, cache: Path) -> None:
        data = bytearray(archive.read_bytes())
        data[at] ^= 0xFF
        archive.write_bytes(data)
        with pytest.raises(BundleError, match=r"any\.samedge"):
            open_bundle(archive)
        assert not any(cache.rglob("*.onnx"))

    def test_an_encrypted_one_is_an_error(self, archive: Path) -> None:
        data = bytearray(archive.read_bytes())
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = data.find(signature)
            while at >= 0:
                struct.pack_into("<H", data, at + offset, 1)
                at = data.find(signature, at + 4)
        archive.write_bytes(data)
        with pytest.raises(BundleError, match=r"encrypted"):
            open_bundle(archive)

    def test_a_zip_without_a_manifest_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "photos.zip"
        with zipfile.ZipFile(path, "w") as photos:
            photos.writestr("photo.jpg", b"x")
        with pytest.raises(BundleError, match=r"not a bundle: it contains no manifest\.json"):
            open_bundle(path)

    def test_any_other_file_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "sam_b.onnx"
        path.write_bytes(b"graph")
        with pytest.raises(BundleError, match=r"sam_b\.onnx: the file is not a bundle.*a folder or a \.samedge file"):
            open_bundle(path)

    @pytest.mark.parametrize("name", CONTENTS)
    def test_a_file_that_it_lacks_is_named(self, folder: Path, name: str, tmp_path: Path) -> None:
        (folder / name).unlink()
        with pytest.raises(IntegrityError, match=rf"it lacks the file '{name}'"):
            open_bundle(pack(folder, tmp_path / "any.samedge"))

    def test_a_file_of_another_size_or_content_is_named(self, folder: Path, tmp_path: Path, cache: Path) -> None:
        for data, message in ((b"longer" * 9, "has 54 bytes, but the manifest says 9"), (b"D" * 9, "SHA-256")):
            (folder / "decoder.onnx").write_bytes(data)
            with pytest.raises(IntegrityError, match=rf"decoder\.onnx.*{message}"):
                open_bundle(pack(folder, tmp_path / "any.samedge"))
        assert not any((cache / "bundles").iterdir())

    def test_nothing_is_written_outside_the_cache(self, archive: Path, tmp_path: Path, cache: Path) -> None:
        with zipfile.ZipFile(archive, "a") as packed:
            packed.writestr("../../evil.txt", b"evil")
            packed.writestr("/evil.txt", b"evil")
            packed.writestr("extra.txt", b"not in the manifest")
        bundle = open_bundle(archive)
        assert {path.name for path in bundle.folder.iterdir()} == {*CONTENTS, MANIFEST_NAME}
        assert not list(tmp_path.parent.rglob("evil.txt"))
        assert not list(cache.rglob("evil.txt"))

    def test_a_manifest_that_leads_outside_is_refused(self, folder: Path, tmp_path: Path, cache: Path) -> None:
        manifest = any_manifest()
        graph = manifest.graphs[0]
        evil = msgspec.structs.replace(graph, graph=msgspec.structs.replace(graph.graph, file="../../evil.onnx"))
        (folder / MANIFEST_NAME).write_bytes(encode_manifest(msgspec.structs.replace(manifest, graphs=(evil,))))
        archive = pack(folder, tmp_path / "evil.samedge")
        with zipfile.ZipFile(archive, "a") as packed:
            packed.writestr("../../evil.onnx", CONTENTS["encoder.onnx"])
        with pytest.raises(BundleError, match=r"outside the bundle"):
            open_bundle(archive)
        assert not list(cache.rglob("*.onnx"))

    def test_a_manifest_too_large_to_be_one_is_not_read(self, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_MANIFEST_LIMIT", 100)
        with pytest.raises(BundleError, match=r"the manifest has \d+ bytes"):
            open_bundle(archive)

    def test_a_full_disk_leaves_nothing_that_loads(
        self, archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("shutil.copyfileobj", full)
        with pytest.raises(StorageError, match=r"No space left on device\. Free some space"):
            open_bundle(archive)
        assert not any((cache / "bundles").iterdir())
        monkeypatch.undo()
        monkeypatch.setenv("SAMEDGE_CACHE", str(cache))
        open_bundle(archive)

    def test_a_cache_that_cannot_be_made_is_a_storage_error(
        self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(StorageError):
            open_bundle(archive)

    def test_two_that_unpack_at_once_do_not_harm_each_other(self, archive: Path, cache: Path) -> None:
        results: list[Path | SamedgeError] = []
        barrier = threading.Barrier(8)

        def unpack() -> None:
            barrier.wait()
            try:
                results.append(open_bundle(archive).folder)
            except SamedgeError as error:
                results.append(error)

        threads = [threading.Thread(target=unpack) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(results)) == 1
        assert isinstance(results[0], Path)
        assert [path.name for path in (cache / "bundles").iterdir()] == [results[0].name]

    def test_what_killed_processes_left_is_removed_after_a_day(self, archive: Path, cache: Path) -> None:
        old, new = cache / "bundles" / ".tmp-old-1", cache / "bundles" / ".tmp-new-2"
        for leftover in (old, new):
            leftover.mkdir(parents=True)
            (leftover / "encoder.onnx").write_bytes(b"half")
        yesterday = time.time() - 2 * 24 * 60 * 60
        os.utime(old, (yesterday, yesterday))
        open_bundle(archive)
        assert not old.exists()
        assert new.exists()
