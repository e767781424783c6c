"""Engine builds in a child process, which contains and explains crashes.

A build may exhaust the memory and be killed by the system, crash in native code, or hang. In a child process that is an
error with a cure; the caller survives, and no partial plan is left. The child volunteers as the first process to be
killed, and ends with its parent.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any, Final

from samedge.engines.tensorrt.api import FlavourName
from samedge.engines.tensorrt.build.memory import DeviceMemory
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.engines.tensorrt.build.progress import Progress
from samedge.errors import EngineError, SamedgeError, storage_errors
from samedge.storage.atomic import staged_file

_POLL_SECONDS: Final = 0.1
_BOOTSTRAP: Final = (
    "import json, sys; request = json.loads(sys.stdin.buffer.readline()); sys.path[:] = request['path']; "
    "from samedge.engines.tensorrt.build.child import main; main(request)"
)
"""The child gets the parent's ``sys.path`` and, unlike multiprocessing, never runs the parent's script."""

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
    with staged_file(output) as stage:
        request = {
            "path": sys.path,
            "builder": builder,
            "flavour": flavour,
            "graph": str(graph.absolute()),
            "output": str(stage.absolute()),
            "options": options.to_json(),
            "axes": {name: list(shape) for name, shape in (axes or {}).items()},
            "device": asdict(device) if isinstance(device, DeviceMemory) else device,
            "timing_cache": None if timing_cache is None else str(timing_cache.absolute()),
        }
        report = _run(request, graph.name, progress or (lambda _step, _share: None), cancelled)
        with storage_errors(output, "read"):
            written = stage.stat().st_size
        if written != report.plan_bytes:
            raise EngineError(
                f"the build reported a plan of {report.plan_bytes} bytes but wrote {written}",
                where=graph.name,
                cure="Check the disk, and build again",
            )
    return report


def _run(request: dict[str, Any], name: str, progress: Progress, cancelled: Callable[[], bool]) -> BuildReport:
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", _BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        try:
            message = _converse(child, request, name, progress, cancelled)
            code = child.wait() if message is None else 0
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        if message is None:  # it crashed
            complaints.seek(0)
            raise _exit_failure(code, name, complaints.read()[-4000:].decode(errors="replace"))
    if "error" in message:
        raise _rebuilt_error(message["error"])
    return BuildReport.from_json(message["report"])


def _converse(
    child: subprocess.Popen[bytes],
    request: dict[str, Any],
    name: str,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> dict[str, Any] | None:
    """Send the request, forward progress, and return the final message; None if there was none."""
    if child.stdin is None or child.stdout is None:
        raise EngineError("cannot open the pipes of the build process", cure="Close other programs and try again")
    lines: Queue[bytes | None] = Queue()
    Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()  # left open: the child exits when it closes
    except BrokenPipeError:
        return None
    while True:
        if cancelled():
            raise EngineError("the build was cancelled", where=name, cure="Start it again to build", cancelled=True)
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except Empty:
            continue
        if line is None:
            return None
        try:
            message = json.loads(line)
        except ValueError:
            continue  # printed by a library in the child
        if "step" in message:
            progress(message["step"], message["share"])
        else:
            return dict(message)


def _read_lines(stream: IO[bytes], lines: Queue[bytes | None]) -> None:
    try:
        for line in stream:
            lines.put(line)
    except (OSError, ValueError):
        pass  # closed: the exchange is over
    lines.put(None)


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


def _rebuilt_error(values: Mapping[str, Any]) -> SamedgeError:
    """Return the child's error, of the same class."""
    kinds = {kind.__name__: kind for kind in _tree(SamedgeError)}
    kind = kinds.get(str(values["kind"]), EngineError)
    return kind(values["what"], where=values["where"], cure=values["cure"], **values["facts"])


def _tree(kind: type[SamedgeError]) -> list[type[SamedgeError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _tree(child))]
