"""The engine store: raw plans with a sidecar each, found by key.

    store = EngineStore()
    entry = store.find(key) or store.add(key, lambda path: build_in_child(..., output=path, ...))

A plan is named after its key and content, and its sidecar is written last: every visible engine is complete, concurrent
builds of the same engine do no harm, and a killed build leaves nothing that loads. The store keeps the most recently
used engines, up to a total size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from samedge.engines.tensorrt.build.options import BuildReport
from samedge.engines.tensorrt.store.key import EngineKey
from samedge.engines.tensorrt.store.sidecar import (
    COMPILED_SUFFIX,
    SIDECAR_SUFFIX,
    Sidecar,
    read_sidecar,
    sidecar_path,
    verify_plan,
    write_sidecar,
)
from samedge.errors import EngineError, IntegrityError, SamedgeError
from samedge.storage.atomic import TEMPORARY_PREFIX, abandoned, temporary_file
from samedge.storage.files import ENGINE_STORE, cache_folder, sha256_file, storage_errors
from samedge.storage.locks import file_lock

PLAN_SUFFIX: Final = ".engine"
DEFAULT_LIMIT: Final = 8_000_000_000


@dataclass(frozen=True, slots=True)
class StoredEngine:
    """An engine in the store.

    Attributes:
        plan: The plan file.
        sidecar: Its sidecar.
        used: Time of the last use, seconds since the epoch.
    """

    plan: Path
    sidecar: Sidecar
    used: float

    @property
    def key(self) -> EngineKey:
        """Its key."""
        return self.sidecar.key


class EngineStore:
    """The engines of this user.

    Args:
        folder: Folder of the store; None for one in samedge's cache.
        limit: Total size of all plans, bytes, kept to by `add` and `collect`.
    """

    def __init__(self, folder: Path | None = None, *, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = cache_folder() / ENGINE_STORE if folder is None else folder
        self.limit = limit

    def find(self, key: EngineKey) -> StoredEngine | None:
        """Return the engine with exactly this key, verified, or None.

        A plan that does not match its sidecar is removed.
        """
        for entry in self._entries(f"{key.digest()}.*"):
            if entry.key != key:
                continue
            try:
                verify_plan(entry.plan, entry.sidecar)
            except IntegrityError:
                self._remove(entry.plan)
                continue
            with suppress(OSError):  # a read-only store works too
                os.utime(sidecar_path(entry.plan))
            return entry
        return None

    def add(
        self, key: EngineKey, build: Callable[[Path], BuildReport], *, notes: Mapping[str, Any] | None = None
    ) -> StoredEngine:
        """Build an engine into the store, unless another process has done so meanwhile.

        Only one process builds at a time: on a board two builds would not fit into memory.

        Args:
            key: Its key.
            build: Writes the plan to the given path and returns the report.
            notes: Notes to keep with it.

        Raises:
            SamedgeError: `build` failed; nothing is left behind.
            StorageError: A file cannot be written.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / "building.lock"):
            found = self.find(key)
            if found is not None:
                return found
            with temporary_file(self.folder, key.digest()) as stage:
                report = build(stage)
                with storage_errors(stage, "read"):
                    size = stage.stat().st_size
                if size == 0:
                    raise EngineError("the build produced an empty plan", cure="Build it again")
                digest = sha256_file(stage)
                plan = self.folder / f"{key.digest()}.{digest[:8]}{PLAN_SUFFIX}"
                with storage_errors(plan):
                    stage.replace(plan)
            write_sidecar(plan, Sidecar(key, digest, size, report, dict(notes or {})))
        self.collect(keep=plan)
        found = self.find(key)
        if found is None:
            raise EngineError("the engine vanished from the store", where=plan, cure="Build it again")
        return found

    def annotate(self, entry: StoredEngine, notes: Mapping[str, Any]) -> StoredEngine:
        """Add notes to an engine and return it with them."""
        sidecar = replace(entry.sidecar, notes={**entry.sidecar.notes, **notes})
        write_sidecar(entry.plan, sidecar)
        return replace(entry, sidecar=sidecar)

    def entries(self) -> list[StoredEngine]:
        """Return all engines, most recently used first."""
        return sorted(self._entries("*"), key=lambda entry: entry.used, reverse=True)

    def why(self, key: EngineKey) -> list[str]:
        """Explain a missing engine by its differences from the most similar one.

        Returns:
            A sentence for each difference; none if the engine exists, one if the store has nothing similar.
        """
        entries = self.entries()
        if any(entry.key == key for entry in entries):
            return []
        alike = [entry for entry in entries if entry.key.graph_sha256 == key.graph_sha256] or entries
        if not alike:
            return ["the store is empty"]
        return min((key.differences(entry.key) for entry in alike), key=len)

    def collect(
        self, limit: int | None = None, *, keep: Path | None = None, unused_seconds: float | None = None
    ) -> list[Path]:
        """Remove abandoned files, and the least recently used engines until the rest fits.

        Args:
            limit: Total size of all plans, bytes; None for the store's own.
            keep: A plan to keep in any case.
            unused_seconds: Also remove engines unused for this long; None for no such bound.

        Returns:
            The removed plans and leftovers.
        """
        removed = [path for path in self._abandoned() if self._remove(path)]
        room = self.limit if limit is None else limit
        now = time.time()
        for entry in self.entries():
            stale = unused_seconds is not None and now - entry.used > unused_seconds
            if not stale:
                room -= entry.sidecar.size
            if (stale or room < 0) and entry.plan != keep and self._remove(entry.plan):
                removed.append(entry.plan)
        return removed

    def _entries(self, pattern: str) -> Iterator[StoredEngine]:
        for path in sorted(self.folder.glob(f"{pattern}{PLAN_SUFFIX}{SIDECAR_SUFFIX}")):
            plan = path.with_name(path.name.removesuffix(SIDECAR_SUFFIX))
            try:
                sidecar = read_sidecar(plan)
                used = path.stat().st_mtime
            except (SamedgeError, OSError):
                continue  # damaged, from a later samedge, or just removed: treat as absent
            if sidecar is not None and plan.is_file():
                yield StoredEngine(plan, sidecar, used)

    def _abandoned(self) -> Iterator[Path]:
        """Yield plans without a sidecar and unfinished files untouched for a day."""
        whole = {entry.plan for entry in self._entries("*")}
        for path in abandoned(self.folder, "*"):
            if path.name.startswith(TEMPORARY_PREFIX) or (path.suffix == PLAN_SUFFIX and path not in whole):
                yield path

    @staticmethod
    def _remove(plan: Path) -> bool:
        """Remove an engine, sidecar first, so that no process finds a plan being removed."""
        try:
            sidecar_path(plan).unlink(missing_ok=True)
            for compiled in plan.parent.glob(f"{plan.name}.*{COMPILED_SUFFIX}"):
                compiled.unlink(missing_ok=True)
            plan.unlink()
        except OSError:
            return False
        return True
