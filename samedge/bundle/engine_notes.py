"""What samedge keeps in the sidecar of an engine that was built from a bundle: whose half it is, and the verdict.

An engine is judged together with its other half: a mask needs both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.engines.tensorrt.store.sidecar import Sidecar
from samedge.types import Precision, Verdict

_NAME: Final = "samedge"


class EngineNotes(msgspec.Struct, frozen=True):
    """Notes of one engine.

    Attributes:
        model: Name of the bundle's model.
        role: What the engine is in the bundle.
        source_sha256: Of the bundle's graph that it was made from, its weights included.
        precision: What was asked for.
        rung: The rung of the precision ladder that the graph was written in.
        partner_sha256: Of the plan of the other half that it was judged with; empty before that.
        parity: The verdict of both together.
    """

    model: str
    role: GraphRole
    source_sha256: str
    precision: Precision
    rung: str
    partner_sha256: str = ""
    parity: ParityRecord = ParityRecord(verdict="unchecked")

    @property
    def verdict(self) -> Verdict:
        """Whether its masks are the checkpoint's."""
        return self.parity.verdict

    def to_notes(self) -> dict[str, Any]:
        """Return plain values for a sidecar."""
        return {_NAME: msgspec.to_builtins(self)}


def engine_notes(sidecar: Sidecar) -> EngineNotes | None:
    """Return what samedge noted of an engine; None for an engine of somebody else's, or of a later samedge."""
    values = sidecar.notes.get(_NAME)
    if not isinstance(values, Mapping):
        return None
    try:
        return msgspec.convert(values, EngineNotes)
    except msgspec.ValidationError:
        return None
