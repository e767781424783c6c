"""Opening a bundle: a folder with a manifest, or one ``.samedge`` file; every file is what the manifest says.

A ``.samedge`` file is unpacked once into the cache, under the digest of its manifest, which names the digest of every
other file. Knows files and nothing of engines.
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
"""Of files with one graph, which some families run without a bundle."""

_MANIFEST_LIMIT: Final = 1 << 24
_AGAIN: Final = "Copy the bundle again, or export the checkpoint again"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were found and checked.

    Attributes:
        path: The folder or file that was opened.
        folder: Where its files are.
        manifest: What it says about itself.
        unchecked: Files of weights whose SHA-256 is not compared yet; `check_rest` does that.
    """

    path: Path
    folder: Path
    manifest: Manifest
    unchecked: tuple[FileRecord, ...] = ()

    def graph_path(self, role: GraphRole) -> Path:
        """Return the path of the graph with this role.

        Raises:
            BundleError: The bundle has none.
        """
        return self.folder / self.manifest.graph(role).graph.file

    def engine_folders(self) -> list[Path]:
        """Return the folders that may hold engines built from it: the one beside it, then the user's store.

        Raises:
            StorageError: No cache folder is available.
        """
        return [path for path in (engines_folder(self.path), cache_folder() / ENGINE_STORE) if path.is_dir()]

    def check_rest(self) -> None:
        """Compare the files that opening has left unchecked with the manifest.

        Raises:
            IntegrityError: Names the file that is different.
            StorageError: A file cannot be read.
        """
        for record in self.unchecked:
            _verify_digest(self.folder, record)


def engines_folder(bundle: Path) -> Path:
    """Return the folder for the engines of a bundle: ``NAME-engines`` beside it."""
    path = bundle.resolve()
    return path.with_name(f"{path.name.removesuffix(ARCHIVE_SUFFIX)}-engines")


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Return True if a path names a bundle (a folder, a manifest or a ``.samedge`` file), not a checkpoint.

    Half of a SAM, an ONNX graph of any tool, stands for the pair.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        return is_half(path)
    # An engine is neither: what opens bundles says what to do with it.
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
        path: Its folder, its ``manifest.json``, or a ``.samedge`` file; or a folder with the ONNX graphs of a SAM, from
            any tool, or one of these files, with its partner beside it.
        force: Open a bundle whose parity verdict is "failed" as well.
        verify: Compare size and SHA-256 of every file with the manifest.
        weights_later: Of the weights that lie beside graphs compare the size alone, which lets them be opened safely,
            and leave their SHA-256 to `Bundle.check_rest`. For folders; a file is always compared whole.

    Raises:
        BundleError: It is not a bundle, or not a whole one.
        IntegrityError: A file is missing or is not the one that the manifest names.
        ParityError: Its graphs do not give the checkpoint's masks.
        StorageError: The file system said no.
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
        what = bundle.manifest.model_family.answers
        raise ParityError(
            f"the graphs do not give the checkpoint's {what} (mask IoU {verdict.mask_iou_min:.4f} at worst), so the "
            "bundle is not loaded",
            where=path,
            cure="Export it again at a higher precision, or load it with force=True (--force)",
            parity=verdict,
        )
    return bundle


def bundle_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Return what a bundle says about itself; none of its other files is read, whatever its verdict.

    Args:
        path: Its folder, its ``manifest.json``, or a ``.samedge`` file.

    Raises:
        BundleError: It is not a bundle, or its manifest is damaged.
        StorageError: The file system said no.
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
    """Return the family of a bundle, or of a graph file without one.

    What is neither is of the default family, which says what is wrong with it when it is opened.
    """
    if Path(path).suffix.lower() in (*ENGINE_SUFFIXES, *GRAPH_SUFFIXES) and not is_half(Path(path)):
        return family_of_graph(Path(path))
    try:
        return bundle_manifest(path).model_family
    except BundleError:
        return DEFAULT


def verify_files(folder: Path, manifest: Manifest, sizes_only: Collection[FileRecord] = ()) -> None:
    """Compare size and SHA-256 of every file with the manifest.

    Args:
        folder: Where the files are.
        manifest: What they should be.
        sizes_only: Files whose SHA-256 is left alone.

    Raises:
        IntegrityError: Names the file that is missing or different.
        StorageError: A file cannot be read.
    """
    for record in manifest.files:
        file = folder / record.file
        with storage_errors(file, "read"):
            size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise IntegrityError("this file of the bundle is missing", where=file, cure=_AGAIN, file=record.file)
        if size != record.size:
            raise IntegrityError(
                f"this file has {size} bytes, and the manifest says {record.size}: it is cut short or not the one that "
                "was exported",
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
            f"this file is not the one that was exported: its SHA-256 is {digest[:12]}…, and the manifest says "
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
            "this is a checkpoint, and a bundle is needed",
            where=path,
            cure=f"Export it first: samedge export {path.name}, or use samedge.SAM({path.name!r}), which does that",
        )
    if path.suffix.lower() in ENGINE_SUFFIXES:
        raise BundleError(
            "this is one TensorRT engine, and the bundle is needed that it was built from",
            where=path,
            cure="Load that bundle, with backend 'tensorrt' or 'tensorrt-rtx'; for an engine that another tool made, "
            f"export its checkpoint: samedge export CHECKPOINT --format trt. What this is: samedge info {path.name}",
        )
    if path.name.startswith(TEMPORARY_PREFIX):
        raise BundleError("this was left behind by an export that did not end", where=path, cure="Export again")
    with storage_errors(path, "read"):
        is_folder, is_file = path.is_dir(), path.is_file()
    if not is_folder and not is_file:
        raise BundleError("there is no such bundle", where=path, cure="Check the path, or make one: samedge export")
    return path, is_folder


def open_pair(encoder: str | os.PathLike[str], decoder: str | os.PathLike[str]) -> Bundle:
    """Open the encoder and decoder of a SAM, ONNX files of any tool, as a bundle.

    Raises:
        BundleError: A file is not that part of a SAM, or they do not belong together.
        EngineError: A file is not ONNX.
        StorageError: A file cannot be read.
    """
    folder = Path(encoder).parent
    return Bundle(
        Path(encoder), folder, pair_manifest(folder, read_plain_graph(Path(encoder)), read_plain_graph(Path(decoder)))
    )


def _plain_bundle(path: Path, is_folder: bool) -> Bundle | None:
    """Return graphs without a manifest, of any tool, as a bundle; None if there are none."""
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
        return None  # it is not ONNX either
    return Bundle(path, path.parent, pair_manifest(path.parent, *pair))


def _folder_manifest(folder: Path) -> Manifest:
    if (folder / MANIFEST_NAME).is_file():
        return read_manifest(folder / MANIFEST_NAME)
    raise BundleError(
        f"the folder is not a bundle: it has no {MANIFEST_NAME}", where=folder, cure="Make one: samedge export"
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
            f"the file is not a bundle: there is no {MANIFEST_NAME} in it", where=path, cure="Make one: samedge export"
        ) from error
    if entry.file_size > _MANIFEST_LIMIT:
        raise BundleError(f"the manifest has {entry.file_size} bytes", where=path, cure=_AGAIN)
    return archive.read(entry)


def _unpack(archive: zipfile.ZipFile, data: bytes, manifest: Manifest, folder: Path, path: Path) -> None:
    """Unpack what the manifest names, and only that, and rename the folder when all of it is there and right."""
    for leftover in abandoned(folder.parent):
        shutil.rmtree(leftover, ignore_errors=True)
    # A folder that is there by then was unpacked by another process: its name is the digest of its content.
    with staged_folder(folder, replace=False) as stage:
        for record in manifest.files:
            try:
                entry = archive.getinfo(record.file)
            except KeyError as error:
                raise IntegrityError(
                    f"the file {record.file!r} is missing in it", where=path, cure=_AGAIN, file=record.file
                ) from error
            if entry.file_size != record.size:
                raise IntegrityError(
                    f"the file {record.file!r} in it has {entry.file_size} bytes, and the manifest says {record.size}",
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
