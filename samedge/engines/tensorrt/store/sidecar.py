"""The JSON file beside each plan: its key, its hash, and its build report.

A plan reveals nothing without a GPU, and must be opened with one. The sidecar is read instead; it is written last, so
that a plan with a sidecar is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from samedge.engines.tensorrt.build.options import BuildReport
from samedge.engines.tensorrt.store.key import EngineKey
from samedge.errors import EngineError, IntegrityError
from samedge.storage.atomic import write_whole
from samedge.storage.files import sha256_file, storage_errors

SIDECAR_SUFFIX: Final = ".json"
COMPILED_SUFFIX: Final = ".cache"
"""Suffix of the cache of kernels compiled when a plan is loaded; it can be recreated."""

_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Facts about a plan.

    Attributes:
        key: Its key.
        sha256: SHA-256 of the plan.
        size: Size of the plan, bytes.
        report: The build report.
        notes: Additional facts, such as verdicts of checks; plain values.
    """

    key: EngineKey
    sha256: str
    size: int
    report: BuildReport
    notes: Mapping[str, Any] = field(default_factory=dict)


def sidecar_path(plan: Path) -> Path:
    """Return the path of a plan's sidecar."""
    return plan.with_name(plan.name + SIDECAR_SUFFIX)


def write_sidecar(plan: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of a plan, replacing an older one atomically."""
    values = {
        "schema": _SCHEMA,
        "key": sidecar.key.to_json(),
        "sha256": sidecar.sha256,
        "size": sidecar.size,
        "report": sidecar.report.to_json(),
        "notes": dict(sidecar.notes),
    }
    write_whole(sidecar_path(plan), json.dumps(values, indent=1, sort_keys=True).encode())


def read_sidecar(plan: Path) -> Sidecar | None:
    """Return the sidecar of a plan, or None if it has none."""
    path = sidecar_path(plan)
    if not path.is_file():
        return None
    with storage_errors(path, "read"):
        text = path.read_bytes()
    try:
        values = json.loads(text)
        if values["schema"] != _SCHEMA:
            raise EngineError(
                f"the sidecar has schema {values['schema']}, but this samedge reads {_SCHEMA}",
                where=path.name,
                cure="Build the engine again",
            )
        return Sidecar(
            key=EngineKey.from_json(values["key"]),
            sha256=str(values["sha256"]),
            size=int(values["size"]),
            report=BuildReport.from_json(values["report"]),
            notes=dict(values["notes"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError("the sidecar is damaged", where=path.name, cure="Build the engine again") from error


def verify_plan(plan: Path, sidecar: Sidecar) -> None:
    """Check a plan against its sidecar."""
    with storage_errors(plan, "read"):
        size = plan.stat().st_size
    if size != sidecar.size or sha256_file(plan) != sidecar.sha256:
        raise IntegrityError("this plan does not match its sidecar", where=plan.name, cure="Build the engine again")
