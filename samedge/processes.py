"""Child processes: line by line, or as isolated function calls.

A call may be killed for lack of memory, crash in native code, or never return. In a child, that becomes an error with a
cure, and the caller survives. The kernel is asked to kill the child first, and the child ends with its parent.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Final

import msgspec

from samedge.errors import SamedgeError
from samedge.types import Closing, Progress

_POLL_SECONDS: Final = 0.1
_END_SECONDS: Final = 10.0
_KEPT_BYTES: Final = 4000
_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
_BOOTSTRAP: Final = (
    "import json, sys; request = json.loads(sys.stdin.buffer.readline()); sys.path[:] = request['path']; "
    "from samedge.processes import serve; serve(request)"
)
"""The child gets the parent's ``sys.path``, and never runs the parent's script as multiprocessing would."""


class LineProcess(Closing):
    """A child process that exchanges lines on standard input and output; a context manager that kills it on exit.

    It inherits the environment unless another is given. Raises OSError if the program cannot be started.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read after the process has died
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs, or the user's
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
            )
        except OSError:
            self._errors.close()
            raise
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def status(self) -> int | None:
        """Exit status; negative for a signal, None while the process runs."""
        return self._process.poll()

    @property
    def closed(self) -> bool:
        """True once the process accepts no more input."""
        return self._process.stdin is None or self._process.stdin.closed

    def send(self, line: bytes) -> None:
        """Send a line, given without its line break; OSError if the process has ended."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def receive(self, seconds: float | None = None) -> bytes:
        """Return the next line; empty at the end of the output; `queue.Empty` if none arrived within `seconds`."""
        return self._lines.get(timeout=seconds)

    def death(self) -> tuple[int, str]:
        """Wait for a process whose output has ended, and return its status and the last part of its stderr."""
        status = self._wait(_END_SECONDS)
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _KEPT_BYTES))
        return status, self._errors.read().decode(errors="replace")

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self, patience: float = 0.0) -> None:
        """Close the input, and kill the process if it has not ended after `patience` seconds. Idempotent."""
        if self._process.stdin is not None:
            with suppress(OSError):  # the process has already ended
                self._process.stdin.close()
        self._wait(patience)
        self._listener.join(_END_SECONDS)  # closing a file while a thread reads it would be an error in that thread
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _wait(self, patience: float) -> int:
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _listen(self) -> None:
        """Queue lines as they arrive, and an empty one at the end."""
        with suppress(OSError, ValueError):  # the pipe was closed
            for line in self._process.stdout or ():
                self._lines.put(line)
        self._lines.put(b"")

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.close()


def call_in_child(
    target: str,
    arguments: Mapping[str, Any],
    *,
    died: Callable[[int, str], SamedgeError],
    progress: Progress | None = None,
    poll: Callable[[], None] | None = None,
) -> Any:
    """Call a function in a new process and return its result.

    Args:
        target: "module:function".
        arguments: Its keyword arguments; they and the result must be JSON values.
        died: Makes the error for a process that ended without a result, from its status (negative for a signal) and the
            last part of its stderr.
        progress: Passed to the function as ``progress``.
        poll: Called ten times a second; raising an error kills the child.

    Raises:
        SamedgeError: The function's own error, with class, cure and facts; or that of `died`.
    """
    request = {"path": sys.path, "target": target, "arguments": dict(arguments), "progress": progress is not None}
    with LineProcess([sys.executable, "-c", _BOOTSTRAP]) as child:
        with suppress(BrokenPipeError):
            child.send(msgspec.json.encode(request))  # leaves the input open: the child ends when it closes
        while True:
            if poll is not None:
                poll()
            try:
                line = child.receive(None if poll is None else _POLL_SECONDS)
            except queue.Empty:
                continue
            if not line:
                raise died(*child.death())
            try:
                message = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue  # printed by the child before `serve`
            if "step" not in message:
                break
            if progress is not None:
                progress(message["step"], message["share"])
    if "error" in message:
        raise _revived(message)
    return message["result"]


def serve(request: dict[str, Any]) -> None:
    """Serve one request of `call_in_child` on stdout; other output is redirected to stderr."""
    # Redirects the file descriptor, not sys.stdout, because native code writes to it as well.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    with suppress(OSError):
        _OOM_SCORE.write_text("800", encoding="ascii")  # the first process to be killed when memory runs out
    Thread(target=_end_with_parent, daemon=True).start()

    def reply(**message: Any) -> None:
        replies.write(msgspec.json.encode(message, enc_hook=str if "facts" in message else None) + b"\n")
        replies.flush()

    arguments = request["arguments"]
    if request["progress"]:
        arguments["progress"] = lambda step, share: reply(step=step, share=share)
    module, _, name = str(request["target"]).partition(":")
    try:
        result = getattr(import_module(module), name)(**arguments)
    except SamedgeError as error:
        reply(error=type(error).__name__, what=error.what, where=error.where, cure=error.cure, facts=error.facts)
    else:
        reply(result=result)


def _end_with_parent() -> None:
    """Exit when standard input closes, which means that the parent has ended."""
    with suppress(OSError):
        while os.read(0, 4096):  # not sys.stdin: a thread waiting in it would crash the interpreter at exit
            pass
    os._exit(1)


def _revived(message: Mapping[str, Any]) -> SamedgeError:
    """Return the child's error as an instance of its own class."""
    kind = next((kind for kind in _tree(SamedgeError) if kind.__name__ == message["error"]), SamedgeError)
    return kind(message["what"], where=message["where"], cure=message["cure"], **message["facts"])


def _tree(kind: type[SamedgeError]) -> list[type[SamedgeError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _tree(child))]
