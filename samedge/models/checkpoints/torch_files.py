"""Files as ``torch.save`` writes them, now (zip) and before torch 1.6: where the pickle lies in them, and the numbers.

A record of numbers is used only if the file has all the bytes that the pickle claims. Records that are stored as they
are stay in the file, which is mapped into memory; nothing is allocated before the sizes are known to be there.
"""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from samedge.errors import CheckpointError, UnsafeCheckpointError
from samedge.models.checkpoints.pickled import Pickled, mapping, unpickle
from samedge.storage.files import storage_errors

MAX_EXPANSION: Final = 64
"""Limit of a member's expansion on unpacking: weights hardly compress, and zeros a thousandfold."""

_ZIP: Final = b"PK\x03\x04"
_GET_AGAIN: Final = "Get the file again"
_LEGACY: Final = (0x1950A86A20F9469CFC6C, 1001)
"""Magic number and version of the format before torch 1.6."""
_ALIGNED: Final = 16


def read_pickled(path: Path) -> Pickled:
    """Read what ``torch.save`` saved, without executing anything of it.

    Args:
        path: A file that is neither empty nor of another known format.

    Raises:
        UnsafeCheckpointError: The file names a class or function that is not allowed, or is a program.
        CheckpointError: The file is damaged, asks for more memory than its bytes account for, or is no checkpoint.
        StorageError: The file cannot be read.
    """
    with storage_errors(path, "read"), path.open("rb") as file:
        # Writable, but never written to: torch takes no other memory without a warning. Private, so not the file.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        with _damage(path):
            return _read_zip(file, mapped, path) if mapped[: len(_ZIP)] == _ZIP else _read_legacy(mapped, path)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError("there is not enough memory for this file", where=path, cure=_GET_AGAIN) from error
    except zipfile.BadZipFile as error:
        raise CheckpointError("the file is cut off or damaged", where=path, cure=_GET_AGAIN) from error
    except Exception as error:  # whatever a foreign byte stream makes the unpickler stumble over
        raise CheckpointError(
            f"this is damaged, cut off or no checkpoint ({type(error).__name__}: {str(error)[:200]})",
            where=path,
            cure="Get the file again, or save it with torch.save(model.state_dict(), path)",
        ) from error


def _read_zip(file: BinaryIO, mapped: mmap.mmap, path: Path) -> Pickled:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        root = _root_of(archive, path)
        _check_expansion("this file", sum(member.file_size for member in members), len(mapped), path)
        # torch can write zeros instead of checksums, and checks none when it reads.
        damaged = archive.testzip() if any(member.CRC for member in members) else None
        if damaged is not None:
            raise CheckpointError(
                f"the file is damaged: the checksum of {damaged!r} does not match", where=path, cure=_GET_AGAIN
            )

        def content(name: str, size: int | None = None) -> memoryview | bytearray:
            member = archive.getinfo(f"{root}{name}")
            size = member.file_size if size is None else size
            if member.file_size < size:
                raise _cut_off(name, member.file_size, size, path)
            encrypted = member.flag_bits & 1
            if (member.compress_type, member.compress_size, encrypted) == (zipfile.ZIP_STORED, member.file_size, 0):
                return _part(mapped, _place(mapped, member), size, name, path)
            _check_expansion(f"{member.filename[:80]!r} in this file", member.file_size, member.compress_size, path)
            return bytearray(archive.read(member))

        if f"{root}byteorder" in archive.namelist():
            _check_order(bytes(content("byteorder")) == b"little", path)
        return unpickle(
            io.BytesIO(content("data.pkl")), path, lambda key, count, size: content(f"data/{key}", count * size)
        )


def _root_of(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the folder in the archive that holds the pickle and the numbers, with a slash at its end."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise UnsafeCheckpointError(
            "this is a TorchScript program, not weights",
            where=path,
            cure="Load it where it was made and save its weights alone: torch.save(model.state_dict(), path)",
        )
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if not pickles:
        raise CheckpointError(
            "this is a zip file, but not a checkpoint", where=path, cure="If the checkpoint is in it, unpack it first"
        )
    if len(pickles) > 1:
        raise CheckpointError(f"there are {len(pickles)} pickles in this file and not one", where=path, cure=_GET_AGAIN)
    return pickles[0].removesuffix("data.pkl")


def _place(mapped: mmap.mmap, member: zipfile.ZipInfo) -> int:
    """Return where the content of a member begins: behind its own header, whose length only it tells."""
    header = mapped[member.header_offset : member.header_offset + 30]
    if header[:4] != _ZIP:
        raise zipfile.BadZipFile("a member without a header")
    name, extra = struct.unpack("<HH", header[26:])
    return member.header_offset + len(header) + int(name) + int(extra)


def _read_legacy(mapped: mmap.mmap, path: Path) -> Pickled:
    """Read five pickles (magic number, version, system, content, names of the storages), and the storages behind."""
    head = mapped  # read as far as the pickles go
    for expected in _LEGACY:
        if unpickle(head, path, _no_numbers).content != expected:
            raise pickle.UnpicklingError("not a file of torch")
    _check_order(mapping(unpickle(head, path, _no_numbers).content).get("little_endian") is True, path)

    start = head.tell()
    claims: dict[str, tuple[int, int]] = {}  # the numbers lie behind all pickles, and each record tells only its count
    unpickle(head, path, lambda key, count, size: claims.__setitem__(key, (count, size)))
    keys = unpickle(head, path, _no_numbers).content
    if not isinstance(keys, list):
        raise pickle.UnpicklingError("the names of the storages are no list")
    place = head.tell()
    places: dict[str, int] = {}
    for key in map(str, keys):
        count, size = claims[key]
        stored = int.from_bytes(_part(mapped, place, 8, key, path), "little", signed=True)
        if stored != count:
            raise _cut_off(key, stored * size, count * size, path)
        places[key] = place + 8
        place += 8 + count * size

    def numbers(key: str, count: int, size: int) -> memoryview | bytearray:
        return _part(mapped, places[key], count * size, key, path)

    head.seek(start)
    return unpickle(head, path, numbers)


def _no_numbers(key: str, count: int, size: int) -> None:
    """Give no numbers to pickles that need none."""


def _part(mapped: mmap.mmap, start: int, size: int, name: str, path: Path) -> memoryview | bytearray:
    """Return bytes of the file; a copy only if they lie where numbers may not."""
    if start + size > len(mapped):
        raise _cut_off(name, max(len(mapped) - start, 0), size, path)
    part = memoryview(mapped)[start : start + size]
    return bytearray(part) if start % _ALIGNED else part


def _cut_off(name: str, there: int, claimed: int, path: Path) -> CheckpointError:
    return CheckpointError(
        f"the numbers {name[:80]!r} are cut off: {there} of {claimed} bytes", where=path, cure=_GET_AGAIN
    )


def _check_order(little: bool, path: Path) -> None:
    if not little:
        raise CheckpointError(
            "the numbers in this file are big-endian", where=path, cure="Save it again on a little-endian machine"
        )


def _check_expansion(name: str, size: int, compressed: int, path: Path) -> None:
    if size > MAX_EXPANSION * compressed:
        raise CheckpointError(
            f"{name} would unpack to {size / 1e6:.0f} MB, more than {MAX_EXPANSION} times its size",
            where=path,
            cure=_GET_AGAIN,
        )
