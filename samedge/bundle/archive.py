"""Opening and verification of bundles: folders with a manifest, and ``.samedge`` files.

A ``.samedge`` file is unpacked once into the cache, under the digest of its manifest, which lists the digests of all
other files.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from samedge.bundle.manifest import MANIFEST_NAME, FileRecord, GraphRole, Manifest, parse_manifest, read_manifest
from samedge.bundle.plain_graphs import SUBFOLDER, find_pair, is_half, pair_manifest, read_plain_graph
from samedge.errors import BundleError, EngineError, IntegrityError, ParityError
from samedge.families import DEFAULT, Family, family_of_graph
from samedge.storage.atomic import TEMPORARY_PREFIX, abandoned, staged_folder
from samedge.storage.files import ENGINE_STORE, cache_folder, sha256_file, storage_errors

ARCHIVE_SUFFIX: Final = ".samedge"
CHECKPOINT_SUFFIXES: Final = (".pt", ".pth", ".safetensors")
ENGINE_SUFFIXES: Final = (".engine", ".plan", ".trt")
GRAPH_SUFFIXES: Final = (".onnx", ".engine", ".plan", ".xml")
"""Suffixes of single graphs, which some families run without a bundle."""

_MANIFEST_LIMIT: Final = 1 << 24
_AGAIN: Final = "Copy the bundle again, or export the checkpoint again"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files exist and match its manifest.

    Attributes:
        path: The folder or file that was opened.
        folder: Folder of the unpacked files.
        manifest: Its manifest.
        unchecked: Weight files whose SHA-256 `check_rest` still has to verify.
    """

    path: Path
    folder: Path
    manifest: Manifest
    unchecked: tuple[FileRecord, ...] = ()

    def graph_path(self, role: GraphRole) -> Path:
        """Return the path of the graph with this role; raise BundleError if there is none."""
        return self.folder / self.manifest.graph(role).graph.file

    def engine_folders(self) -> list[Path]:
        """Return the existing folders that may hold engines built from it: beside it, then the user's store."""
        return [path for path in (engines_folder(self.path), cache_folder() / ENGINE_STORE) if path.is_dir()]

    def check_rest(self) -> None:
        """Verify the remaining files; raise IntegrityError if one differs from the manifest."""
        for record in self.unchecked:
            _verify_digest(self.folder, record)


def engines_folder(bundle: Path) -> Path:
    """Return the folder for the engines of a bundle: ``NAME-engines`` beside it."""
    path = bundle.resolve()
    return path.with_name(f"{path.name.removesuffix(ARCHIVE_SUFFIX)}-engines")


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Return True if a path names a bundle (a folder, a manifest or a ``.samedge`` file), not a checkpoint.

    An ONNX encoder or decoder of a SAM, from any exporter, stands for the pair.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        return is_half(path)
    # An engine is neither: `open_bundle` explains what to do with it.
    return (
        (path.is_dir() and not _has_weights(path))
        or path.suffix in (ARCHIVE_SUFFIX, *ENGINE_SUFFIXES)
        or path.name == MANIFEST_NAME
    )


def _has_weights(folder: Path) -> bool:
    """Return True for a folder of transformers' weights, which is a checkpoint."""
    names = ("model.safetensors", "pytorch_model.bin")
    return not (folder / MANIFEST_NAME).is_file() and any(
        (folder / f"{name}{end}").is_file() for name in names for end in ("", ".index.json")
    )


def open_bundle(
    path: str | os.PathLike[str], *, force: bool = False, verify: bool = True, weights_later: bool = False
) -> Bundle:
    """Open a bundle.

    Args:
        path: Its folder, ``manifest.json``, or ``.samedge`` file; or a folder with the ONNX graphs of a SAM, from any
            exporter, or one of these graphs, with its partner beside it.
        force: Open the bundle even if its parity verdict is "failed".
        verify: Verify size and SHA-256 of every file.
        weights_later: Verify only the size of external weights, enough to open them safely, and leave their SHA-256 to
            `Bundle.check_rest`. Has no effect on ``.samedge`` files.

    Raises:
        BundleError: It is not a bundle, or is incomplete.
        IntegrityError: A file is missing or differs from the manifest.
        ParityError: Its graphs do not reproduce the checkpoint's masks.
        StorageError: A file cannot be read or unpacked.
    """
    path, is_folder = _find(path)
    plain = _plain_bundle(path, is_folder)
    if plain is not None:
        return plain
    if is_folder:
        manifest = _folder_manifest(path)
        later = manifest.weights if verify and weights_later else ()
        bundle = Bundle(path, path, manifest, later)
        if verify:
            verify_files(path, manifest, later)
    else:
        bundle = _open_archive(path, verify=verify)
    verdict = bundle.manifest.parity
    if verdict.verdict == "failed" and not force:
        raise ParityError(
            f"the graphs do not reproduce the checkpoint's {bundle.manifest.model_family.answers} "
            f"(mask IoU {verdict.mask_iou_min:.4f} at worst), so the bundle is not loaded",
            where=path,
            cure="Export it again at a higher precision, or load it with force=True (--force)",
            parity=verdict,
        )
    return bundle


def bundle_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Return the manifest of a bundle, given as in `open_bundle`, whatever its verdict, without verifying its files.

    Raises:
        BundleError: It is not a bundle, or its manifest is damaged.
        StorageError: It cannot be read.
    """
    path, is_folder = _find(path)
    plain = _plain_bundle(path, is_folder)
    if plain is not None:
        return plain.manifest
    if is_folder:
        return _folder_manifest(path)
    with _archive_errors(path), zipfile.ZipFile(path) as archive:
        return parse_manifest(_read_manifest_entry(archive, path), f"{path}/{MANIFEST_NAME}")


def model_family(path: str | os.PathLike[str]) -> Family:
    """Return the family of a bundle, or of a graph without one; the default family, whose errors fit, for others."""
    if Path(path).suffix.lower() in (*ENGINE_SUFFIXES, *GRAPH_SUFFIXES) and not is_half(Path(path)):
        return family_of_graph(Path(path))
    try:
        return bundle_manifest(path).model_family
    except BundleError:
        return DEFAULT


def verify_files(folder: Path, manifest: Manifest, sizes_only: Collection[FileRecord] = ()) -> None:
    """Verify the size of every file, and the SHA-256 of those not in `sizes_only`.

    Raises:
        IntegrityError: A file is missing or differs from the manifest.
    """
    for record in manifest.files:
        file = folder / record.file
        with storage_errors(file, "read"):
            size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise IntegrityError("this file of the bundle is missing", where=file, cure=_AGAIN, file=record.file)
        if size != record.size:
            raise IntegrityError(
                f"this file has {size} bytes, but the manifest says {record.size}: it is truncated or another file",
                where=file,
                cure=_AGAIN,
                file=record.file,
            )
        if record not in sizes_only:
            _verify_digest(folder, record)


def _verify_digest(folder: Path, record: FileRecord) -> None:
    digest = sha256_file(folder / record.file)
    if digest != record.sha256:
        raise IntegrityError(
            f"this is not the exported file: its SHA-256 is {digest[:12]}…, but the manifest says "
            f"{record.sha256[:12]}…",
            where=folder / record.file,
            cure=_AGAIN,
            file=record.file,
        )


def _find(path: str | os.PathLike[str]) -> tuple[Path, bool]:
    """Return the path of a bundle's folder or file, and whether it is a folder."""
    path = Path(path)
    if path.name == MANIFEST_NAME:
        path = path.parent
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        raise BundleError(
            "this is a checkpoint, not a bundle",
            where=path,
            cure=f"Export it first: samedge export {path.name}, or use samedge.SAM({path.name!r}), which exports it",
        )
    if path.suffix.lower() in ENGINE_SUFFIXES:
        raise BundleError(
            "this is a single TensorRT engine, not the bundle that it was built from",
            where=path,
            cure="Load that bundle with backend 'tensorrt' or 'tensorrt-rtx'; for an engine of another tool, export "
            f"the checkpoint: samedge export CHECKPOINT --format trt. To inspect it: samedge info {path.name}",
        )
    if path.name.startswith(TEMPORARY_PREFIX):
        raise BundleError("this was left behind by an unfinished export", where=path, cure="Export again")
    with storage_errors(path, "read"):
        is_folder, is_file = path.is_dir(), path.is_file()
    if not is_folder and not is_file:
        raise BundleError("there is no such bundle", where=path, cure="Check the path, or create one: samedge export")
    return path, is_folder


def open_pair(encoder: str | os.PathLike[str], decoder: str | os.PathLike[str]) -> Bundle:
    """Open the ONNX encoder and decoder of a SAM, from any exporter, as a bundle.

    Raises:
        BundleError: A file is not that part of a SAM, or they do not belong together.
        EngineError: A file is not ONNX.
        StorageError: A file cannot be read.
    """
    path, partner = Path(encoder), Path(decoder)
    manifest = pair_manifest(path.parent, read_plain_graph(path), read_plain_graph(partner))
    return Bundle(path, path.parent, manifest)


def _plain_bundle(path: Path, is_folder: bool) -> Bundle | None:
    """Return graphs without a manifest, from any exporter, as a bundle; None if there are none."""
    if is_folder:
        with storage_errors(path, "read"):
            graphs = any(path.glob("*.onnx")) or any((path / SUBFOLDER).glob("*.onnx"))
            described = (path / MANIFEST_NAME).is_file()
        if described or not graphs:
            return None
        return Bundle(path, path, pair_manifest(path, *find_pair(path)))
    if path.suffix.lower() != ".onnx":
        return None
    try:
        pair = find_pair(path.parent, path)
    except EngineError:
        return None  # not ONNX either
    return Bundle(path, path.parent, pair_manifest(path.parent, *pair))


def _folder_manifest(folder: Path) -> Manifest:
    if (folder / MANIFEST_NAME).is_file():
        return read_manifest(folder / MANIFEST_NAME)
    raise BundleError(
        f"the folder is not a bundle: it has no {MANIFEST_NAME}", where=folder, cure="Create one: samedge export"
    )


def _open_archive(path: Path, *, verify: bool) -> Bundle:
    cache = cache_folder() / "bundles"
    with _archive_errors(path), zipfile.ZipFile(path) as archive:
        data = _read_manifest_entry(archive, path)
        manifest = parse_manifest(data, f"{path}/{MANIFEST_NAME}")
        folder = cache / sha256(data).hexdigest()[:32]
        if folder.is_dir():
            try:
                if verify:
                    verify_files(folder, manifest)
            except IntegrityError:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                return Bundle(path, folder, manifest)
        _unpack(archive, data, manifest, folder, path)
        return Bundle(path, folder, manifest)


@contextmanager
def _archive_errors(path: Path) -> Iterator[None]:
    try:
        with storage_errors(path, "read"):
            yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        cure = _AGAIN if path.suffix == ARCHIVE_SUFFIX else f"Give a bundle: a folder or a {ARCHIVE_SUFFIX} file"
        raise BundleError(f"the file is not a bundle, or is damaged: {error}", where=path, cure=cure) from error


def _read_manifest_entry(archive: zipfile.ZipFile, path: Path) -> bytes:
    try:
        entry = archive.getinfo(MANIFEST_NAME)
    except KeyError as error:
        raise BundleError(
            f"the file is not a bundle: it contains no {MANIFEST_NAME}", where=path, cure="Create one: samedge export"
        ) from error
    if entry.file_size > _MANIFEST_LIMIT:
        raise BundleError(f"the manifest has {entry.file_size} bytes", where=path, cure=_AGAIN)
    return archive.read(entry)


def _unpack(archive: zipfile.ZipFile, data: bytes, manifest: Manifest, folder: Path, path: Path) -> None:
    """Unpack the files listed in the manifest, and only those, into a folder that appears once they are verified."""
    for leftover in abandoned(folder.parent):
        shutil.rmtree(leftover, ignore_errors=True)
    # If the folder exists by then, another process unpacked the same content: its name is the digest.
    with staged_folder(folder, replace=False) as stage:
        for record in manifest.files:
            try:
                entry = archive.getinfo(record.file)
            except KeyError as error:
                raise IntegrityError(
                    f"it lacks the file {record.file!r}", where=path, cure=_AGAIN, file=record.file
                ) from error
            if entry.file_size != record.size:
                raise IntegrityError(
                    f"its file {record.file!r} has {entry.file_size} bytes, but the manifest says {record.size}",
                    where=path,
                    cure=_AGAIN,
                    file=record.file,
                )
            with storage_errors(stage / record.file):
                (stage / record.file).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, (stage / record.file).open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        verify_files(stage, manifest)
        with storage_errors(folder):
            (stage / MANIFEST_NAME).write_bytes(data)
