"""Errors raised by samedge, in one tree.

    SamedgeError
    ├── UsageError                    an invalid option or combination of options
    ├── MissingExtraError             an optional dependency is not installed
    ├── StorageError                  disk full, permission denied, path in the way
    ├── DownloadError                 weights that cannot be downloaded, or differ from the known ones
    ├── CheckpointError               a checkpoint that cannot be read
    │   ├── UnsafeCheckpointError     … because it requires code execution
    │   └── UnknownArchitectureError  … because its keys and shapes match no known model
    ├── ExportError                   a graph that cannot be exported
    ├── BundleError                   an incomplete or invalid bundle
    │   ├── IntegrityError            … whose files do not match its manifest
    │   └── ParityError               … whose graphs do not reproduce the checkpoint's masks
    ├── EngineError                   a backend that failed
    │   ├── BackendUnavailableError   … because it is not installed or unknown
    │   ├── DeviceUnavailableError    … because the requested device is unavailable
    │   └── TensorMismatchError       … because names, shapes or dtypes do not fit the graph
    ├── ImageError                    an unusable image
    ├── PromptError                   unusable points, boxes, labels or masks
    ├── BenchmarkError                a failed measurement
    └── CancelledError                a cancellation requested by the caller

Each carries the cause, the place and the cure. Facts (sizes, names, counts) are attributes, so that applications need
not parse messages. The command line prints ``str(error)``: one line.
"""

from __future__ import annotations


class SamedgeError(Exception):
    """Base class: the cause of an error, its place, and its cure.

    Args:
        what: The cause, as one sentence without a full stop.
        where: The file, option, tensor or item concerned.
        cure: The user's remedy, as one sentence without a full stop.
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


class SamedgeWarning(UserWarning):
    """An assumption; the message names it, and the option that overrides it."""


class UsageError(SamedgeError):
    """An invalid option or combination of options."""


class MissingExtraError(SamedgeError):
    """An optional dependency is not installed."""


class StorageError(SamedgeError):
    """A file system error: disk full, permission denied, path in the way."""


class DownloadError(SamedgeError):
    """Weights that cannot be downloaded, or differ from the known ones."""


class CheckpointError(SamedgeError):
    """A checkpoint that cannot be read."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint that requires code execution; nothing was executed."""


class UnknownArchitectureError(CheckpointError):
    """A checkpoint whose keys and shapes match no known model."""


class ExportError(SamedgeError):
    """A graph that cannot be exported."""


class BundleError(SamedgeError):
    """An incomplete or invalid bundle."""


class IntegrityError(BundleError):
    """A bundle whose files do not match its manifest."""


class ParityError(BundleError):
    """A bundle whose graphs do not reproduce the checkpoint's masks."""


class EngineError(SamedgeError):
    """A backend that failed."""


class BackendUnavailableError(EngineError):
    """A backend that is not installed, or unknown."""


class DeviceUnavailableError(EngineError):
    """A requested device that is unavailable."""


class TensorMismatchError(EngineError):
    """Names, shapes or dtypes that do not fit the graph."""


class ImageError(SamedgeError):
    """An unusable image."""


class PromptError(SamedgeError):
    """Unusable points, boxes, labels or masks."""


class BenchmarkError(SamedgeError):
    """A failed measurement."""


class CancelledError(SamedgeError):
    """A cancellation requested by the caller."""


def missing_extra(module: str, extra: str, purpose: str) -> MissingExtraError:
    """Return the error for an optional dependency that is not installed; its cure is the command to install it."""
    cure = f"Install it with: pip install 'samedge[{extra}]'"
    what = f"{purpose} needs the package {module!r}, which is not installed"
    return MissingExtraError(what, cure=cure, module=module, extra=extra)
