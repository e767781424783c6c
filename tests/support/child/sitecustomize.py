"""What a child process of a test runs first: what `support.shared` remembers is patched as soon as it is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from support import shared


class Patching(MetaPathFinder):
    """Finds nothing by itself."""

    finding = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self.finding or fullname not in shared.REMEMBERED:
            return None
        self.finding = True
        try:
            spec = find_spec(fullname)
        finally:
            self.finding = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module: ModuleType) -> None:
                execute(module)
                shared.remember()

            vars(spec.loader)["exec_module"] = executed
        return spec


sys.meta_path.insert(0, Patching())
