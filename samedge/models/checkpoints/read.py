"""Checkpoint files read as data: torch's two formats and safetensors, without executing anything that is in them.

What a file is follows from its first bytes, never from its name.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, NoReturn

import torch
from torch import Tensor

from samedge.errors import CheckpointError, StorageError, UnsafeCheckpointError, missing_extra, storage_errors
from samedge.models.checkpoints.pickled import FOREIGN_ROOT, MAX_PICKLE, read_pickled
from samedge.models.checkpoints.state_dict import extract_state
from samedge.models.checkpoints.ultralytics import unpack_model
from samedge.storage.digest import sha256_file

_ZIP: Final = b"PK\x03\x04"
_DOWNLOAD_AGAIN: Final = "Get the file again"
_SAVE_AGAIN: Final = "Load it where it was made and save its weights alone: torch.save(model.state_dict(), path)"
_MAX_HEADER: Final = 100_000_000
_PLAIN_GLOBALS: Final = re.compile(r"(torch|collections)\b")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a file.

    Attributes:
        state: Tensors by key, on the CPU: without wrappers and prefixes, floating point numbers float32 and finite.
        sha256: SHA-256 of the file in hex.
        path: The file.
        metadata: What the file says about itself: a safetensors file in its header, Ultralytics' in the model object
            (the names of `samedge.models.checkpoints.ultralytics`). Empty for other formats.
    """

    state: dict[str, Tensor]
    sha256: str
    path: Path
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the weights of a checkpoint.

    Reads what ``torch.save`` writes (also before torch 1.6) and safetensors. The weights may be wrapped as training
    scripts do it (state_dict.py). Where Ultralytics saved a model object instead of weights, its classes are read as
    stand-ins (pickled.py).

    Args:
        path: The file.

    Raises:
        UnsafeCheckpointError: The file asks for code to be executed; nothing was executed.
        CheckpointError: The file is damaged, or is no checkpoint, or its weights cannot be used.
        StorageError: The file cannot be read.
        MissingExtraError: It is a safetensors file and the package safetensors is not installed.
    """
    path = Path(path)
    head = _read_head(path)
    sha256 = sha256_file(path)
    content: object
    metadata: dict[str, str] = {}
    if _is_safetensors(head):
        content, metadata = _read_safetensors(path)
    elif head.startswith(_ZIP):
        content, metadata = _read_zip(path)
    else:
        _refuse_text(head, path)
        content = _torch_load(path, mmap=False)
    return Checkpoint(extract_state(content, path), sha256, path, metadata)


def _read_head(path: Path) -> bytes:
    with storage_errors(path, "read"):
        if not path.exists():
            raise StorageError("there is no such file", where=path, cure="Check the path")
        if path.is_dir():
            bundle = (path / "manifest.json").is_file()
            raise CheckpointError(
                "this is a bundle, not a checkpoint" if bundle else "this is a folder, not a checkpoint",
                where=path,
                cure="A bundle is loaded as it is, without export" if bundle else "Name the file in it",
            )
        if not path.is_file():
            raise CheckpointError("this is not a regular file", where=path, cure="Name a checkpoint file")
        with path.open("rb") as file:
            head = file.read(512)
    if not head:
        raise CheckpointError("the file is empty", where=path, cure=_DOWNLOAD_AGAIN)
    return head


def _refuse_text(head: bytes, path: Path) -> None:
    """Say what a text file under a checkpoint's name usually is."""
    if head.startswith(b"version https://git-lfs"):
        what, cure = "this is a Git LFS pointer, not the checkpoint itself", "Fetch the file with: git lfs pull"
    elif head.lstrip()[:1] == b"<":
        what, cure = "this is a web page, not a checkpoint", "The download went wrong: get the file itself"
    elif all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        what, cure = "this is a text file, not a checkpoint", "Name a .pt, .pth or .safetensors file"
    else:
        return
    raise CheckpointError(what, where=path, cure=cure)


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise missing_extra("safetensors", "export", "reading a .safetensors file") from error
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"this safetensors file cannot be read: {error}", where=path, cure=_DOWNLOAD_AGAIN
        ) from error


def _read_zip(path: Path) -> tuple[object, dict[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            # torch can write zeros instead of checksums, and checks none when it reads.
            damaged = archive.testzip() if any(member.CRC for member in members) else None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError("the file is cut off or damaged", where=path, cure=_DOWNLOAD_AGAIN) from error
    if damaged is not None:
        raise CheckpointError(
            f"the file is damaged: the checksum of {damaged!r} does not match", where=path, cure=_DOWNLOAD_AGAIN
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise UnsafeCheckpointError("this is a TorchScript program, not weights", where=path, cure=_SAVE_AGAIN)
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(
            "this is a zip file, but not a checkpoint", where=path, cure="If the checkpoint is in it, unpack it first"
        )
    # Mapped into memory, compressed members would be read as if they were the numbers.
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if any(name.startswith(FOREIGN_ROOT) for name in _foreign_globals(path)):
        return unpack_model(read_pickled(path), path)
    return _torch_load(path, mmap=stored), {}


def _torch_load(path: Path, *, mmap: bool) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # By name torch takes a file for safetensors or not, and mapping works by name only.
            if mmap and path.suffix != ".safetensors":
                content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:
                with path.open("rb") as file:
                    content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  whatever a foreign byte stream makes the unpickler stumble over
        _refuse(path, error)
    return content


def _refuse(path: Path, error: Exception) -> NoReturn:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    foreign = named.group(1) if named else next(_foreign_globals(path), None)
    if foreign is not None:
        raise UnsafeCheckpointError(
            f"the file has objects of {foreign} in it, whose code would have to run to read it; nothing was run",
            where=path,
            cure=_SAVE_AGAIN,
            foreign=foreign,
        ) from error
    reason = str(error).split(". ")[-1 if "Unsupported" in str(error) else 0] or type(error).__name__
    raise CheckpointError(
        f"this is damaged, cut off or no checkpoint ({type(error).__name__}: {reason[:200]})",
        where=path,
        cure="Get the file again, or save it with torch.save(model.state_dict(), path)",
    ) from error


def _foreign_globals(path: Path) -> Iterator[str]:
    """Yield the classes and functions that a file's pickles name, other than torch's own; executes nothing."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith("/data.pkl"):
                        with archive.open(name) as file:
                            yield from _globals_of_pickle(io.BytesIO(file.read(MAX_PICKLE)))
        else:
            with path.open("rb") as opened:
                # In memory: a damaged length then ends at the end, instead of asking for that much.
                content = io.BytesIO(opened.read(MAX_PICKLE))
            for _ in range(5):  # the old format: magic number, version, system, content, keys of storages
                yield from _globals_of_pickle(content)
    except Exception:  # noqa: BLE001  the file is refused anyway; this only looks for a better reason
        return


def _globals_of_pickle(file: IO[bytes]) -> Iterator[str]:
    strings = ["", ""]
    for opcode, argument, _ in pickletools.genops(file):
        if isinstance(argument, str):
            strings = [strings[1], argument]
        name = None
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            name = ".".join(strings)
        if name is not None and not _PLAIN_GLOBALS.match(name):
            yield name
