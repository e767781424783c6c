"""Entry point of the build process: reads one request, reports progress, and writes the plan.

Its standard output carries one JSON object per line: progress steps, then the report or the error. Output of TensorRT
and its libraries goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Final

from samedge.engines.cuda.providers import open_cuda
from samedge.engines.tensorrt.api import find_flavour
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.memory import DeviceMemory
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.engines.tensorrt.build.progress import Progress
from samedge.errors import SamedgeError, storage_errors

_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")


def main(request: dict[str, Any]) -> None:
    """Serve one request, with the result on standard output."""
    # The file descriptor, not sys.stdout: native code writes there too.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group; the parent decides
    with contextlib.suppress(OSError):
        _OOM_SCORE.write_text("800", encoding="ascii")  # kill this process rather than the user's
    Thread(target=_end_with_parent, daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message, default=str) + "\n")

    module, _, name = str(request["builder"]).partition(":")
    try:
        report = getattr(import_module(module), name)(request, lambda step, share: send({"step": step, "share": share}))
    except SamedgeError as error:
        send(
            {
                "error": {
                    "kind": type(error).__name__,
                    "what": error.what,
                    "where": error.where,
                    "cure": error.cure,
                    "facts": error.facts,
                }
            }
        )
        return
    send({"report": report.to_json()})


def build(request: dict[str, Any], progress: Progress) -> BuildReport:
    """Build the requested plan and write it to its output file.

    Raises:
        SamedgeError: As `build_plan`.
        StorageError: The plan cannot be written.
    """
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


def _end_with_parent() -> None:
    """Exit when standard input closes: the parent has ended."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):  # not sys.stdin: a thread blocked on it crashes interpreter shutdown
            pass
    os._exit(1)
