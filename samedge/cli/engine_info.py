"""``samedge info FILE.engine``: description of an engine file, which is opened only with --open."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from samedge.bundle.engine_file import EngineFile, describe_engine
from samedge.tables import rich_table
from samedge.types import TensorSpec


def show_engine(path: Path, *, as_json: bool, opened: bool) -> None:
    """Print the description of an engine file; `opened` opens it on the GPU if its ports are recorded nowhere else."""
    engine = describe_engine(path, opened=opened)
    if as_json:
        sys.stdout.write(json.dumps(_document(engine), indent=2, default=str) + "\n")
        return
    console = Console()
    console.print(rich_table(str(path), ("", ""), _rows(engine).items(), show_header=False))
    if engine.inputs is None or engine.outputs is None:
        console.print("Inputs and outputs: unknown. samedge info --open opens the engine on a GPU and reads them.")
    else:
        sides = (("in", engine.inputs), ("out", engine.outputs))
        ports = [
            (side, name, spec.dtype.name, " × ".join(map(str, spec.shape)))
            for side, specs in sides
            for name, spec in specs.items()
        ]
        console.print(rich_table("inputs and outputs", ("", "name", "dtype", "shape"), ports))


def _rows(engine: EngineFile) -> dict[str, str]:
    rows = {
        "made for": f"{engine.plan.flavour} {engine.plan.version_text}",
        "made by": engine.producer,
        "size": f"{engine.size / 1e6:.1f} MB",
    }
    if engine.header:
        rows["header"] = "\n".join(f"{name}: {_short(value)}" for name, value in engine.header.items())
    if engine.convention is not None:
        rows["graph"] = f"{engine.convention.part} ({engine.convention.producer}): {engine.convention.remark}"
    if engine.notes is not None:
        notes = engine.notes
        rows |= {"model": f"{notes.model}, {notes.role}", "precision": f"{notes.precision}, rung {notes.rung}"}
        rows["masks"] = notes.verdict
    if engine.sidecar is not None:
        key, report = engine.sidecar.key, engine.sidecar.report
        rows["GPU"] = ", ".join(key.targets) or key.gpu or "any"
        rows["profiles"] = ", ".join(f"{name} {sizes}" for name, sizes in key.profiles.items())
        rows["layers"] = f"{len(report.layers)}, including {report.fused_attentions} fused attentions"
        if report.activation_bytes is not None:
            rows["activations"] = f"{report.activation_bytes / 1e6:.1f} MB at the largest shapes"
    return rows


def _document(engine: EngineFile) -> dict[str, Any]:
    def ports(specs: Mapping[str, TensorSpec] | None) -> Any:
        if specs is None:
            return None
        return {name: {"dtype": spec.dtype.name, "shape": list(spec.shape)} for name, spec in specs.items()}

    return {
        "flavour": engine.plan.flavour,
        "version": engine.plan.version_text,
        "producer": engine.producer,
        "size_bytes": engine.size,
        "header": dict(engine.header),
        "part": None if engine.convention is None else engine.convention.part,
        "key": None if engine.sidecar is None else engine.sidecar.key.to_json(),
        "notes": {} if engine.sidecar is None else dict(engine.sidecar.notes),
        "inputs": ports(engine.inputs),
        "outputs": ports(engine.outputs),
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
