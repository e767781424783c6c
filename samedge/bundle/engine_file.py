"""What an engine file is, ours or somebody else's: told from its header, its sidecar, and the names of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samedge.bundle.engine_notes import EngineNotes, engine_notes
from samedge.bundle.foreign_graphs import ForeignGraph, recognise
from samedge.engines.registry import open_engine
from samedge.engines.tensorrt.plan_file import PlanFile, inspect_plan
from samedge.engines.tensorrt.store.sidecar import Sidecar, read_sidecar
from samedge.errors import storage_errors
from samedge.types import TensorSpec


@dataclass(frozen=True, slots=True)
class EngineFile:
    """One engine file.

    Attributes:
        plan: Which TensorRT made it, and the JSON header if it has one.
        size: Bytes.
        sidecar: What its build told; None for an engine of somebody else's.
        notes: Whose half it is; None likewise.
        inputs: Input name to shape and dtype; None where nobody told: a plan must be opened for that.
        outputs: Output name to shape and dtype; None likewise.
        convention: Whose names these are; None if they are not known.
    """

    plan: PlanFile
    size: int
    sidecar: Sidecar | None
    notes: EngineNotes | None
    inputs: Mapping[str, TensorSpec] | None
    outputs: Mapping[str, TensorSpec] | None
    convention: ForeignGraph | None

    @property
    def header(self) -> Mapping[str, Any]:
        """The JSON header that Ultralytics writes before its plans; empty without."""
        return self.plan.metadata

    @property
    def producer(self) -> str:
        """The tool that made it, if known."""
        if self.notes is not None:
            return "samedge"
        if self.header:
            return "Ultralytics" if "task" in self.header or "names" in self.header else "a tool that writes a header"
        return self.convention.producer if self.convention is not None else "unknown"


def describe_engine(path: Path, *, opened: bool = False) -> EngineFile:
    """Return what an engine file is.

    Args:
        path: The engine.
        opened: Open it on the GPU, where its sidecar does not tell inputs and outputs. Its key is checked before.

    Raises:
        EngineError: It is no TensorRT engine, or it must not or cannot be opened here.
        BackendUnavailableError: It was to be opened, and TensorRT or a GPU is missing.
        StorageError: It cannot be read.
    """
    plan = inspect_plan(path)
    sidecar = read_sidecar(path)
    with storage_errors(path, "read"):
        size = path.stat().st_size
    inputs: Mapping[str, TensorSpec] | None = None
    outputs: Mapping[str, TensorSpec] | None = None
    if sidecar is not None:
        inputs, outputs = sidecar.report.inputs, sidecar.report.outputs
    elif opened:
        with open_engine(path, backend=plan.flavour) as engine:
            inputs, outputs = dict(engine.inputs), dict(engine.outputs)
    convention = None if inputs is None or outputs is None else recognise(inputs, outputs)
    notes = None if sidecar is None else engine_notes(sidecar)
    return EngineFile(plan, size, sidecar, notes, inputs, outputs, convention)
