"""Calls in child processes of their own: for what one process can be asked only once, such as its peak memory."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, cast

from samedge import processes
from samedge.errors import BenchmarkError, SamedgeError, missing_extra

EXTRA: Final = "bench"
"""The extra of this package that installs what is measured against."""

_SHOWN: Final = 3  # last lines of what a child that died wrote
_SHOWN_CHARACTERS: Final = 300


def find_target(target: str) -> Callable[..., Any]:
    """Return the function of a name such as ``package.module:function``.

    Raises:
        BenchmarkError: There is none.
        MissingExtraError: Its module needs a package that is not installed.
    """
    module, _, name = target.partition(":")
    try:
        return cast("Callable[..., Any]", getattr(import_module(module), name))
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and error.name != module:
            raise missing_extra(error.name, EXTRA, "This measurement") from error
        raise BenchmarkError(f"there is nothing to call: {error}", where=target) from error


def call_in_child(target: str, arguments: Mapping[str, Any]) -> Any:
    """Return what a function returns, called in a new process.

    Args:
        target: ``module:function``.
        arguments: Its keyword arguments, as JSON.

    Raises:
        SamedgeError: As the function raises it.
        BenchmarkError: The process died.
    """
    return processes.call_in_child(
        f"{__name__}:run",
        {"target": target, "arguments": dict(arguments)},
        died=lambda status, stderr: last_words(target, status, stderr),
    )


def run(target: str, arguments: Mapping[str, Any]) -> Any:
    """Call a function by its name, in this process."""
    return find_target(target)(**arguments)


def last_words(name: str, status: int, stderr: str) -> BenchmarkError:
    """Return the error for a process that ended without an answer.

    Args:
        name: What was measured.
        status: With which it ended; negative for a signal.
        stderr: What it wrote there.
    """
    last = " / ".join(stderr.strip().splitlines()[-_SHOWN:])
    why = f"it ended with status {status}: {last}"
    cure = None
    if status < 0:
        why = f"it was ended by {signal.Signals(-status).name}"
        cure = "If memory ran out, measure a smaller model or leave out the row"
    return BenchmarkError(f"a process that measures gave no answer; {why}", where=name, cure=cure, status=status)


@contextmanager
def foreign_failures(name: str) -> Iterator[None]:
    """Turn what is raised inside the block into a `BenchmarkError` with the kind and the first line.

    Args:
        name: Who is measured.
    """
    try:
        yield
    except SamedgeError:
        raise
    except Exception as error:
        # torch.compile alone raises what Triton, gcc and the system raise: there is no list of it.
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "it did not say why")
        raise BenchmarkError(f"{type(error).__name__}: {first[:_SHOWN_CHARACTERS]}", where=name) from error
