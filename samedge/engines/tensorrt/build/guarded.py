"""Engine builds in a child process, which contains and explains crashes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from samedge.engines.tensorrt.api import FlavourName
from samedge.engines.tensorrt.build.memory import DeviceMemory
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.errors import EngineError
from samedge.processes import call_in_child
from samedge.storage.atomic import staged_file
from samedge.storage.files import storage_errors
from samedge.types import Progress

_NO_MEMORY: Final = (
    "Close other programs, add swap, allow fewer prompts with a smaller profile, lower the optimisation level, "
    "or build on a machine with more memory"
)


def build_in_child(
    flavour: FlavourName,
    graph: Path,
    output: Path,
    options: BuildOptions,
    *,
    axes: Mapping[str, Sequence[int | str]] | None = None,
    device: DeviceMemory | str | None = None,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    builder: str = "samedge.engines.tensorrt.build.child:build",
) -> BuildReport:
    """Build a plan in a child process and move it into place once complete.

    Args:
        flavour: The TensorRT that builds.
        graph: The ONNX file.
        output: Path of the plan; an existing one is replaced.
        options: Build options.
        axes: As for `samedge.engines.tensorrt.build.builder.build_plan`.
        device: Memory of the GPU that runs the build, or the GPU's name, such as "cuda:0": the child then measures it,
            so that the parent needs no context on it.
        timing_cache: File that keeps kernel timings.
        progress: Called during the build.
        cancelled: Polled ten times a second; True kills the child.
        builder: "module:function" for the child to call.

    Raises:
        SamedgeError: The child's error, of the same class and with the same cure.
        EngineError: The child was killed, crashed, or was cancelled; it has the fact `memory` if memory ran out.
        StorageError: The plan cannot be written.
    """

    def poll() -> None:
        if cancelled():
            raise EngineError(
                "the build was cancelled", where=graph.name, cure="Start it again to build", cancelled=True
            )

    with staged_file(output) as stage:
        request = {
            "flavour": flavour,
            "graph": str(graph.absolute()),
            "output": str(stage.absolute()),
            "options": options.to_json(),
            "axes": {name: list(shape) for name, shape in (axes or {}).items()},
            "device": asdict(device) if isinstance(device, DeviceMemory) else device,
            "timing_cache": None if timing_cache is None else str(timing_cache.absolute()),
        }
        report = BuildReport.from_json(
            call_in_child(
                "samedge.engines.tensorrt.build.child:run",
                {"builder": builder, "request": request},
                died=lambda status, complaints: _exit_failure(status, graph.name, complaints),
                progress=progress or (lambda _step, _share: None),
                poll=poll,
            )
        )
        with storage_errors(output, "read"):
            written = stage.stat().st_size
        if written != report.plan_bytes:
            raise EngineError(
                f"the build reported a plan of {report.plan_bytes} bytes but wrote {written}",
                where=graph.name,
                cure="Check the disk, and build again",
            )
    return report


def _exit_failure(code: int, name: str, complaints: str) -> EngineError:
    last = next((line.strip() for line in reversed(complaints.splitlines()) if line.strip()), "")
    if -code == getattr(signal, "SIGKILL", None):
        return EngineError(
            "the system killed the build, most likely for lack of memory",
            where=name,
            cure=_NO_MEMORY,
            code=code,
            memory=True,
        )
    if "MemoryError" in last or "bad_alloc" in complaints:
        return EngineError("the build ran out of memory", where=name, cure=_NO_MEMORY, code=code, memory=True)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return EngineError(
        f"the build process {how}{f' ({last[:300]})' if last else ''}",
        where=name,
        cure="Report this with the graph and the version of TensorRT; a lower optimisation level may avoid it",
        code=code,
    )
