"""Every error that samedge raises on purpose, in one tree.

    SamedgeError
    ├── UsageError                    an option or a combination of options that means nothing
    ├── MissingExtraError             an optional dependency is not installed
    ├── StorageError                  disk full, no permission, path in the way
    ├── DownloadError                 weights could not be fetched, or are not the known ones
    ├── CheckpointError               a checkpoint that cannot be read
    │   ├── UnsafeCheckpointError     … because it asks for code to be executed
    │   └── UnknownArchitectureError  … because its keys and shapes are of no known model
    ├── ExportError                   a graph could not be written
    ├── BundleError                   a bundle that is incomplete or not ours
    │   ├── IntegrityError            … whose files do not match its manifest
    │   └── ParityError               … whose graphs do not give the checkpoint's masks
    ├── EngineError                   a backend could not do its work
    │   ├── BackendUnavailableError   … because it is not installed or not known
    │   ├── DeviceUnavailableError    … because the device asked for cannot be had
    │   └── TensorMismatchError       … because names, shapes or dtypes do not fit the graph
    ├── ImageError                    an image that cannot be used
    ├── PromptError                   points, boxes, labels or masks that cannot be used
    ├── BenchmarkError                something could not be measured
    └── CancelledError                the caller asked to stop, and it stopped

Each carries what was wrong, where, and what to do about it. Facts (sizes, names, counts) stay attributes, so
that an application can react without parsing prose. The command line prints ``str(error)``: one line.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SamedgeError(Exception):
    """What was wrong, where, and what to do about it.

    Args:
        what: The cause, as one sentence without a full stop.
        where: The file, option, tensor or item that it happened in.
        cure: What the user can do, as one sentence without a full stop.
        facts: Values behind the sentence, kept as a dictionary and readable as attributes.
    """

    def __init__(self, what: str, *, where: object = None, cure: str | None = None, **facts: object) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.cure = cure
        self.facts = facts
        super().__init__(what)

    def __getattr__(self, name: str) -> object:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.cure is not None:
            text = f"{text}. {self.cure}"
        return " ".join(text.split())


class UsageError(SamedgeError):
    """An option or a combination of options that means nothing."""


class MissingExtraError(SamedgeError):
    """An optional dependency is not installed."""


class StorageError(SamedgeError):
    """The file system said no: disk full, no permission, something in the way."""


class DownloadError(SamedgeError):
    """Weights could not be fetched, or are not the known ones."""


class CheckpointError(SamedgeError):
    """A checkpoint that cannot be read."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint that asks for code to be executed; nothing was executed."""


class UnknownArchitectureError(CheckpointError):
    """A checkpoint whose keys and shapes are of no known model."""


class ExportError(SamedgeError):
    """A graph could not be written."""


class BundleError(SamedgeError):
    """A bundle that is incomplete, or not a bundle."""


class IntegrityError(BundleError):
    """A bundle whose files do not match its manifest."""


class ParityError(BundleError):
    """A bundle whose graphs do not give the checkpoint's masks."""


class EngineError(SamedgeError):
    """A backend could not do its work."""


class BackendUnavailableError(EngineError):
    """The backend is not installed here, or not known."""


class DeviceUnavailableError(EngineError):
    """The device that was asked for by name cannot be had."""


class TensorMismatchError(EngineError):
    """Names, shapes or dtypes do not fit the graph."""


class ImageError(SamedgeError):
    """An image that cannot be used."""


class PromptError(SamedgeError):
    """Points, boxes, labels or masks that cannot be used."""


class BenchmarkError(SamedgeError):
    """Something could not be measured."""


class CancelledError(SamedgeError):
    """The caller asked to stop, and it stopped."""


@contextmanager
def storage_errors(path: Path | str, doing: str = "write") -> Iterator[None]:
    """Turn the file system's refusals inside the block into a `StorageError` with a cure.

    Args:
        path: What was being read or written; named in the message.
        doing: The verb of the message, such as "write" or "read".

    Raises:
        StorageError: For any `OSError` raised inside the block.
    """
    try:
        yield
    except OSError as error:
        cures = {
            errno.ENOSPC: "Free some space, or choose another folder",
            errno.EDQUOT: "The disk quota is used up: free some space, or choose another folder",
            errno.EACCES: "Check the permissions, or choose another folder",
            errno.EPERM: "Check the permissions, or choose another folder",
            errno.EROFS: "The file system is read-only: choose another folder",
            errno.ENOENT: "Check the path",
            errno.EEXIST: "Something else is in the way: choose another path",
            errno.ENOTDIR: "A file stands where a folder is needed: choose another path",
            errno.EISDIR: "A folder stands where a file is needed: choose another path",
            errno.ENAMETOOLONG: "Choose a shorter name",
        }
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot {doing} this: {reason}",
            where=path,
            cure=cures.get(error.errno or 0, "Check the path and the disk"),
            errno=error.errno,
        ) from error


def missing_extra(module: str, extra: str, purpose: str) -> MissingExtraError:
    """Return the one sentence that names the install command for an absent optional dependency."""
    return MissingExtraError(
        f"{purpose} needs the package {module!r}, which is not installed",
        cure=f"Install it with: pip install 'samedge[{extra}]'",
        module=module,
        extra=extra,
    )
