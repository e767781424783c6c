"""The part of a guarded build that runs in the child process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from samedge.engines.cuda.providers import open_cuda
from samedge.engines.tensorrt.api import find_flavour
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.memory import DeviceMemory
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.storage.files import storage_errors
from samedge.types import Progress


def run(builder: str, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return the report of a builder, "module:function", as JSON."""
    module, _, name = builder.partition(":")
    report: BuildReport = getattr(import_module(module), name)(request, progress)
    return report.to_json()


def build(request: dict[str, Any], progress: Progress) -> BuildReport:
    """Build the requested plan and write it to its output file."""
    cache = request["timing_cache"]
    with _on_device(request["device"]) as device:
        plan, report = build_plan(
            find_flavour(request["flavour"]),
            Path(request["graph"]),
            BuildOptions.from_json(request["options"]),
            axes=request["axes"],
            device=device,
            timing_cache=None if cache is None else Path(cache),
            progress=progress,
        )
    output = Path(request["output"])
    with storage_errors(output.parent), output.open("wb") as file:  # the output name is itself temporary
        file.write(plan)
        file.flush()
        os.fsync(file.fileno())
    return report


@contextmanager
def _on_device(device: dict[str, Any] | str | None) -> Iterator[DeviceMemory | None]:
    """Yield the GPU memory reported by the parent, or measure the named GPU and make it current."""
    if device is None or isinstance(device, dict):
        yield None if device is None else DeviceMemory(**device)
        return
    memory = open_cuda(device)
    with memory.current():
        yield DeviceMemory(free=memory.free_bytes(), total=memory.gpu.memory_bytes, shared=memory.gpu.integrated)
    memory.close()
