"""Calls in a child process, for quantities that a process can measure only once, such as its peak memory."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, cast

from samedge import processes
from samedge.errors import BenchmarkError, SamedgeError, missing_extra

EXTRA: Final = "bench"
"""The extra of this package that installs the reference packages."""

_SHOWN: Final = 3  # lines of stderr that an error message quotes
_SHOWN_CHARACTERS: Final = 300


def find_target(target: str) -> Callable[..., Any]:
    """Return the function named ``package.module:function``."""
    module, _, name = target.partition(":")
    try:
        return cast("Callable[..., Any]", getattr(import_module(module), name))
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and error.name != module:
            raise missing_extra(error.name, EXTRA, "This measurement") from error
        raise BenchmarkError(f"no such function: {error}", where=target, cure="Give module:function") from error


def call_in_child(target: str, arguments: Mapping[str, Any]) -> Any:
    """Call a function, named ``module:function``, in a new process with JSON values, and return its result.

    Raises:
        SamedgeError: The function raised it.
        BenchmarkError: The process died.
    """
    return processes.call_in_child(
        f"{__name__}:run",
        {"target": target, "arguments": dict(arguments)},
        died=lambda status, stderr: process_failure(target, status, stderr),
    )


def run(target: str, arguments: Mapping[str, Any]) -> Any:
    """Call a function by name in this process."""
    return find_target(target)(**arguments)


def process_failure(name: str, status: int, stderr: str) -> BenchmarkError:
    """Return the error for a process that ended without a result; a negative status is a signal."""
    last = " / ".join(stderr.strip().splitlines()[-_SHOWN:])
    why = f"ended with status {status}: {last}"
    cure = "Install what the message names, or leave out the row"
    if status < 0:
        why = f"was ended by {signal.Signals(-status).name}"
        cure = "If memory ran out, measure a smaller model or leave out the row"
    return BenchmarkError(f"the measuring process {why}", where=name, cure=cure, status=status)


@contextmanager
def foreign_failures(name: str) -> Iterator[None]:
    """Turn any exception of the contender inside the block into a `BenchmarkError` with its type and first line."""
    try:
        yield
    except SamedgeError:
        raise
    except Exception as error:
        # torch.compile alone raises errors of Triton, gcc and the system, which cannot be enumerated.
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        what = f"{type(error).__name__}: {first[:_SHOWN_CHARACTERS]}"
        raise BenchmarkError(what, where=name, cure="Leave this contender out, or report this") from error
