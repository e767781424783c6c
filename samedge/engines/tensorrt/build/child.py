"""What runs in the process that builds an engine: takes one request, tells of its progress, and writes the plan.

Its standard output carries one JSON object a line: steps, and at last the report or the error. What TensorRT and its
libraries print goes to standard error.
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
from samedge.errors import SamedgeError, storage_errors
from samedge.types import Progress

_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")


def main(request: dict[str, Any]) -> None:
    """Answer one request on standard output."""
    # The file descriptor, not sys.stdout: native code writes there as well.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group; the parent decides
    with contextlib.suppress(OSError):
        _OOM_SCORE.write_text("800", encoding="ascii")  # rather this process than the user's
    Thread(target=_end_with_parent, daemon=True).start()

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message, default=str) + "\n")

    module, _, name = str(request["builder"]).partition(":")
    try:
        report = getattr(import_module(module), name)(request, lambda step, share: tell({"step": step, "share": share}))
    except SamedgeError as error:
        tell(
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
    tell({"report": report.to_json()})


def build(request: dict[str, Any], progress: Progress) -> BuildReport:
    """Build the plan that a request asks for and writes it to its output.

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
    with storage_errors(output.parent), output.open("wb") as file:  # its own name is a temporary one
        file.write(plan)
        file.flush()
        os.fsync(file.fileno())
    return report


@contextmanager
def _on_device(device: dict[str, Any] | str | None) -> Iterator[DeviceMemory | None]:
    """Give the GPU's memory as the parent told it, or make the named GPU current for the block and measures it."""
    if device is None or isinstance(device, dict):
        yield None if device is None else DeviceMemory(**device)
        return
    memory = open_cuda(device)
    with memory.current():
        yield DeviceMemory(free=memory.free_bytes(), total=memory.gpu.memory_bytes, shared=memory.gpu.integrated)
    memory.close()


def _end_with_parent() -> None:
    """Standard input ends when the parent does, however it ended."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):  # not sys.stdin: a thread that waits in it makes the interpreter's end a crash
            pass
    os._exit(1)
