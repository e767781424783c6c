"""Builders for the guarded child process: what a real build can do to its process, on purpose."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from samedge.engines.tensorrt.build.options import BuildReport
from samedge.errors import UsageError
from samedge.types import Progress, TensorSpec


def any_report(plan: bytes, **changes: Any) -> BuildReport:
    """Returns the report of a build that nobody made."""
    spec = TensorSpec(("n", 3), np.dtype(np.float32))
    values: dict[str, Any] = {
        "flavour": "tensorrt-rtx",
        "version": "1.7.1.116",
        "inputs": {"x": spec},
        "outputs": {"y": spec},
        "profiles": {"x": ((1, 3), (2, 3), (4, 3))},
        "layers": (),
        "fused_attentions": 0,
        "activation_bytes": None,
        "weight_bytes": 12,
        "plan_bytes": len(plan),
        "strongly_typed": True,
        "targets": ("sm86",),
        "seconds": 0.5,
    }
    return BuildReport(**{**values, **changes})


def works(request: dict[str, Any], progress: Progress) -> BuildReport:
    """Prints to stdout as native code does, tells two steps, and writes a plan."""
    os.write(1, b"Padding mode: NOTSET\n{}\n")
    progress("Thinking", 0.25)
    progress("Writing", 0.75)
    plan = b"plan of " + Path(request["graph"]).read_bytes()
    Path(request["output"]).write_bytes(plan)
    return any_report(plan, warnings=(str(request["options"]["precision"]), str(request["axes"])))


def writes_less_than_it_says(request: dict[str, Any], _progress: Progress) -> BuildReport:
    """As a full disk can do."""
    Path(request["output"]).write_bytes(b"half")
    return any_report(b"a whole plan")


def is_killed(request: dict[str, Any], progress: Progress) -> BuildReport:
    """As the kernel does when the memory runs out, in the middle of writing."""
    Path(request["output"]).write_bytes(b"half")
    progress("Half", 0.5)
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit


def crashes(_request: dict[str, Any], _progress: Progress) -> BuildReport:
    """As native code does."""
    sys.stderr.write("free(): invalid pointer\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGABRT)
    raise SystemExit


def runs_out_of_memory(_request: dict[str, Any], _progress: Progress) -> BuildReport:
    """As an allocation does that Python notices."""
    raise MemoryError


def raises_ours(_request: dict[str, Any], _progress: Progress) -> BuildReport:
    """An error of ours, with facts."""
    raise UsageError("too much", where="graph.onnx", cure="Take less", axis="prompts")


def raises_theirs(_request: dict[str, Any], _progress: Progress) -> BuildReport:
    """A bug."""
    raise ZeroDivisionError("a bug")


def never_ends(request: dict[str, Any], progress: Progress) -> BuildReport:
    """Tells its process id, and hangs."""
    Path(request["output"]).write_bytes(b"half")
    progress(f"pid {os.getpid()}", 0.1)
    time.sleep(600)
    raise SystemExit


def checks_memory_of_a_small_board(request: dict[str, Any], _progress: Progress) -> BuildReport:
    """As a real build does before it begins, where nothing is free."""
    from samedge.engines.tensorrt.build import memory as build_memory

    build_memory.free_host_bytes = lambda: 0
    build_memory.check_memory(Path(request["graph"]), device=None, workspace=None)
    raise SystemExit
