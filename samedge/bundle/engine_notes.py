"""samedge's notes in the sidecar of an engine built from a bundle: its role and its parity verdict.

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
    """Notes on one engine.

    Attributes:
        model: Name of the bundle's model.
        role: Role of the engine in the bundle.
        source_sha256: SHA-256 of the bundle's graph that it was built from, including weights.
        precision: The requested precision.
        rung: The rung of the precision ladder used for the graph.
        partner_sha256: SHA-256 of the other half's plan at the parity check; empty before one.
        parity: The verdict on both together.
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
        """The parity verdict."""
        return self.parity.verdict

    def to_notes(self) -> dict[str, Any]:
        """Return plain values for a sidecar."""
        return {_NAME: msgspec.to_builtins(self)}


def engine_notes(sidecar: Sidecar) -> EngineNotes | None:
    """Return the notes in a sidecar; None for an engine of another tool or of a later samedge."""
    values = sidecar.notes.get(_NAME)
    if not isinstance(values, Mapping):
        return None
    try:
        return msgspec.convert(values, EngineNotes)
    except msgspec.ValidationError:
        return None
