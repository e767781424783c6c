"""Module names of samedge 0.1.0: importing one warns, and provides the contents of the module's new home.

The next release removes them. Nothing is imported until an old name is used.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

MOVED: Final = {
    "samedge.sam_predictor": "samedge.api.sam_predictor",
    "samedge.yolo": "samedge.api.yolo",
    "samedge.cache": "samedge.storage.files",
    "samedge.engines.decisions": "samedge.engines.selection",
    "samedge.engines.fake": "samedge.testing.engine",
    "samedge.engines.fake_cuda": "samedge.testing.cuda",
    "samedge.engines.report": "samedge.engines.registry",
    "samedge.export.bundle_build": "samedge.export.engines.build",
    "samedge.export.half": "samedge.export.precision.half",
    "samedge.runtime.boxes": "samedge.runtime.results.boxes",
    "samedge.runtime.bundle": "samedge.bundle.archive",
    "samedge.runtime.fake": "samedge.testing.predictor",
    "samedge.runtime.load": "samedge.api.load",
    "samedge.runtime.manifest": "samedge.bundle.manifest",
    "samedge.runtime.mask_views": "samedge.runtime.results.masks",
    "samedge.runtime.prediction": "samedge.runtime.results.prediction",
    "samedge.runtime.rle_masks": "samedge.runtime.results.masks",
    "samedge.runtime.yolo_predictor": "samedge.runtime.yolo.predictor",
    # Folders, whose modules keep their names except for those listed here.
    "samedge.benchmarks.profiling": "samedge.benchmarks.profile",
    "samedge.benchmarks.table": "samedge.benchmarks.bench",
    "samedge.benchmarks.table.measured_process": "samedge.benchmarks.bench.stages.measured_process",
    "samedge.benchmarks.table.peer_protocol": "samedge.benchmarks.bench.stages.peer_protocol",
    "samedge.benchmarks.table.rounds": "samedge.benchmarks.bench.measuring",
    "samedge.runtime.parity": "samedge.parity",
}
NAMES: Final = {
    "samedge.api": ("samedge.api.sam", ("SAM",)),
    "samedge.runtime.results": ("samedge.runtime.results.results", ("Boxes", "Masks", "Results")),
    "samedge.runtime.stream": ("samedge.runtime.stream.stream", ("Stream", "StreamItem")),
}
"""Modules that have become folders, with their public names."""
_FOLDERS: Final = ("samedge.benchmarks.profiling", "samedge.benchmarks.table", "samedge.runtime.parity")


def new_name(old: str) -> str | None:
    """Return the new name of a module; None if the given name is not an old one."""
    folder, _, leaf = old.rpartition(".")
    return MOVED.get(old) or (f"{MOVED[folder]}.{leaf}" if folder in _FOLDERS else None)


def moved_names(folder: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a folder that used to be a module."""
    home, names = NAMES[folder]

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        _warn(f"{folder}.{name}", f"{home}.{name}", 3)
        return getattr(import_module(home), name)

    return find


class _MovedModules(MetaPathFinder, Loader):
    """Finder of old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of an old name; None for others."""
        del path, target
        if new_name(fullname) is None:
            return None
        return ModuleSpec(fullname, self, is_package=fullname in _FOLDERS)

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module from its new home."""
        new = new_name(module.__name__) or ""
        try:
            home = import_module(new)
        except ModuleNotFoundError as error:
            if error.name != new:
                raise
            raise ModuleNotFoundError(f"No module named {module.__name__!r}", name=module.__name__) from None
        _warn(module.__name__, new, 3)
        module.__getattr__ = partial(getattr, home)  # type: ignore[method-assign]
        module.__all__ = getattr(home, "__all__", [name for name in vars(home) if not name.startswith("_")])  # type: ignore[attr-defined]


def _warn(old: str, new: str, level: int) -> None:
    warnings.warn(f"{old} has moved to {new}; the next release removes the old name", DeprecationWarning, level)


def install() -> None:
    """Make old names importable. Idempotent."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        # First, because an old folder left with only a bytecode cache would be found as a namespace package.
        sys.meta_path.insert(0, _MovedModules())
