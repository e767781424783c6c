"""Description of an engine file, of samedge or another tool, from its header, sidecar and tensor names."""

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
from samedge.storage.files import storage_errors
from samedge.types import TensorSpec


@dataclass(frozen=True, slots=True)
class EngineFile:
    """An engine file.

    Attributes:
        plan: Its TensorRT, and the JSON header if it has one.
        size: Size, bytes.
        sidecar: Its sidecar; None for an engine of another tool.
        notes: samedge's notes; None likewise.
        inputs: Input name to shape and dtype; None if unknown without opening the plan.
        outputs: Output name to shape and dtype; None likewise.
        convention: The naming convention; None if unknown.
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
        """The JSON header of Ultralytics' plans; empty without one."""
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
    """Describe an engine file.

    Args:
        path: The engine.
        opened: Open it on the GPU if the sidecar does not describe inputs and outputs. Its key is checked first.

    Raises:
        EngineError: It is not a TensorRT engine, or cannot be opened safely here.
        BackendUnavailableError: It must be opened, but TensorRT or a GPU is missing.
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
