"""The JSON file beside each plan: its key, its hash, and what its build told.

A plan without a GPU tells nothing, and with one it must be opened first. The sidecar is read instead; it is written
last, so that a plan that has one is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from samedge.engines.tensorrt.build.options import BuildReport
from samedge.engines.tensorrt.store.key import EngineKey
from samedge.errors import EngineError, IntegrityError, storage_errors
from samedge.storage.atomic import write_whole
from samedge.storage.digest import sha256_file

SIDECAR_SUFFIX: Final = ".json"
COMPILED_SUFFIX: Final = ".cache"
"""Of files beside a plan that hold what was compiled when it was loaded; they can be made again."""

_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is known of a plan.

    Attributes:
        key: What it was made from and for.
        sha256: Of the plan.
        size: Of the plan, bytes.
        report: What the build told.
        notes: What others want to keep with it, such as verdicts of checks; plain values.
    """

    key: EngineKey
    sha256: str
    size: int
    report: BuildReport
    notes: Mapping[str, Any] = field(default_factory=dict)


def sidecar_path(plan: Path) -> Path:
    """Return where the sidecar of a plan lies."""
    return plan.with_name(plan.name + SIDECAR_SUFFIX)


def write_sidecar(plan: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of a plan, replacing an older one at once.

    Raises:
        StorageError: The file system said no.
    """
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
    """Return the sidecar of a plan, or None if it has none.

    Raises:
        EngineError: It is damaged, or of a later samedge.
        StorageError: It cannot be read.
    """
    path = sidecar_path(plan)
    if not path.is_file():
        return None
    with storage_errors(path, "read"):
        text = path.read_bytes()
    try:
        values = json.loads(text)
        if values["schema"] != _SCHEMA:
            raise EngineError(
                f"the sidecar has schema {values['schema']}, and this samedge knows {_SCHEMA}",
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
    """Compare a plan with its sidecar.

    Raises:
        IntegrityError: Size or hash differ.
        StorageError: It cannot be read.
    """
    with storage_errors(plan, "read"):
        size = plan.stat().st_size
    if size != sidecar.size or sha256_file(plan) != sidecar.sha256:
        raise IntegrityError(
            "this plan is not the one that its sidecar describes", where=plan.name, cure="Build the engine again"
        )
