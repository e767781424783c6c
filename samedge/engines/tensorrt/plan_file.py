"""Engine files on disk: a raw TensorRT plan, or a plan behind the JSON header written by Ultralytics.

Two facts can be read from a plan before it is opened: its flavour, from the first four bytes, and its version, from
bytes 24 to 27 if bytes 4 to 7, the layout number, are 0, as ``trtexec --getPlanVersionOnly`` reads them. Both are
checked here, because a runtime that is given a foreign plan may crash instead of rejecting it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from samedge.engines.tensorrt.api import Flavour, FlavourName
from samedge.errors import EngineError
from samedge.storage.files import storage_errors

_MAGIC: Final[dict[bytes, FlavourName]] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_LAYOUT: Final = slice(4, 8)
_VERSION_AT: Final = 24
_HEADER_BYTES: Final = 28
_JSON_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PlanFile:
    """An engine file.

    Attributes:
        path: The file.
        offset: Start of the plan: 0, or after the JSON header.
        metadata: The JSON header; empty for a raw plan.
        flavour: The TensorRT that it is for.
        version: Major, minor, patch and build of the TensorRT that built it; None for unknown layouts.
    """

    path: Path
    offset: int
    metadata: dict[str, Any]
    flavour: FlavourName
    version: tuple[int, int, int, int] | None

    @property
    def version_text(self) -> str:
        """The dotted version."""
        return "(version unknown)" if self.version is None else ".".join(map(str, self.version))

    def read(self) -> bytes:
        """Return the plan without the header."""
        with storage_errors(self.path, "read"), self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read()

    def mismatch(self, flavour: Flavour, *, version_compatible: bool = False, keyed: bool = False) -> str | None:
        """Return the reason this TensorRT cannot load the plan, or None if none is known.

        Args:
            flavour: The TensorRT.
            version_compatible: The plan was built for later versions too.
            keyed: A sidecar records the version, so the plan need not.
        """
        if flavour.name != self.flavour:
            return f"it is a plan for {self.flavour} {self.version_text}, but this is {flavour}"
        if self.version is None:
            return None if keyed else "its layout is unknown, so its version cannot be read"
        here = flavour.version.split(".")
        made = [str(part) for part in self.version]
        if version_compatible:
            here, made = here[:1], made[:1]
        # The build number is stored as one byte.
        differ = [
            mine != theirs and not (mine.isdecimal() and str(int(mine) % 256) == theirs)
            for mine, theirs in zip(here, made, strict=False)
        ]
        if any(differ):
            return f"it was built by version {self.version_text}, but this is {flavour}"
        return None


def inspect_plan(path: Path) -> PlanFile:
    """Read the header of an engine file."""
    with storage_errors(path, "read"), path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
        metadata: dict[str, Any] = {}
        offset = 0
        length = int.from_bytes(head[:4], "little")
        if head[:4] not in _MAGIC and head[4:5] == b"{" and 0 < length <= _JSON_LIMIT:
            file.seek(4)
            metadata = _json_object(file.read(length), path)
            offset = 4 + length
            head = file.read(_HEADER_BYTES)
    flavour = _MAGIC.get(head[:4])
    if flavour is None:
        raise EngineError("not a TensorRT plan", where=path.name, cure="Build the engine again from its graph")
    if len(head) < _HEADER_BYTES:
        raise EngineError("this plan is truncated", where=path.name, cure="Copy it again, or build it again")
    major, minor, patch, build = head[_VERSION_AT:_HEADER_BYTES]
    version = None if any(head[_LAYOUT]) else (major, minor, patch, build)
    return PlanFile(path, offset, metadata, flavour, version)


def _json_object(text: bytes, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise EngineError("the header of this engine file is damaged", where=path.name, cure="Build it again")
    return values
