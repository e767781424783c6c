"""Child processes: spoken to in lines, and called like functions, so that what a call does to its process is survived.

A call may take more memory than there is and be killed by the system, crash in native code, or never end. In a child
that is an error with a cure, and the caller goes on. The child is offered to the system as the first to be killed, and
ends when its parent does.
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
from typing_extensions import Self

from samedge.errors import SamedgeError
from samedge.types import Progress

_POLL_SECONDS: Final = 0.1
_END_SECONDS: Final = 10.0
_KEPT_BYTES: Final = 4000
_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
_BOOTSTRAP: Final = (
    "import json, sys; request = json.loads(sys.stdin.buffer.readline()); sys.path[:] = request['path']; "
    "from samedge.processes import serve; serve(request)"
)
"""The child gets the parent's ``sys.path``, and never runs the parent's script as multiprocessing would."""


class LineProcess:
    """A child process that reads lines from its standard input and writes lines to its standard output.

    Use it as a context manager: it is killed at the end.

    Args:
        command: Program and arguments.
        environment: Its environment; None for that of this process.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has died, closed with it
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the callers' own programs, or what the user named
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
        """Exit status; negative for a signal, None as long as the process runs."""
        return self._process.poll()

    @property
    def closed(self) -> bool:
        """True once the process accepts no more lines."""
        return self._process.stdin is None or self._process.stdin.closed

    def send(self, line: bytes) -> None:
        """Write a line, without its end, to the process.

        Raises:
            OSError: It is dead.
        """
        if self._process.stdin is not None:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def receive(self, seconds: float | None = None) -> bytes:
        """Return the next line of the process; empty at the end of its output.

        Args:
            seconds: To wait for it; None without end.

        Raises:
            queue.Empty: There was none in that time.
        """
        return self._lines.get(timeout=seconds)

    def death(self) -> tuple[int, str]:
        """Wait for a process that ended its output, and return its status and the end of its standard error."""
        status = self._wait(_END_SECONDS)
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _KEPT_BYTES))
        return status, self._errors.read().decode(errors="replace")

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self, patience: float = 0.0) -> None:
        """End the input of the process, and kill it if it is still there after some seconds. May be called twice."""
        if self._process.stdin is not None:
            with suppress(OSError):  # it is dead already
                self._process.stdin.close()
        self._wait(patience)
        self._listener.join(_END_SECONDS)  # a file that is closed while a thread reads it is an error in that thread
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
        """Put lines into the queue as they come, and an empty one at the end."""
        with suppress(OSError, ValueError):  # closed: the conversation is over
            for line in self._process.stdout or ():
                self._lines.put(line)
        self._lines.put(b"")

    def __enter__(self) -> Self:
        return self

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
    """Return what a function returns, called in a new process.

    Args:
        target: "module:function".
        arguments: Its keyword arguments, as JSON; so is its result.
        died: Returns the error for a process that ended without an answer, from its status (negative for a signal) and
            the end of what it wrote to standard error.
        progress: Given to the function as its argument ``progress``: a sentence and the share that is done, 0..1.
        poll: Called ten times a second; an error that it raises kills the child.

    Raises:
        SamedgeError: As the function raised it, with its class, cure and facts; or `died`.
    """
    request = {"path": sys.path, "target": target, "arguments": dict(arguments), "progress": progress is not None}
    with LineProcess([sys.executable, "-c", _BOOTSTRAP]) as child:
        with suppress(BrokenPipeError):
            child.send(msgspec.json.encode(request))  # and the input stays open: the child ends when it closes
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
                continue  # something in the child printed before `serve`
            if "step" not in message:
                break
            if progress is not None:
                progress(message["step"], message["share"])
    if "error" in message:
        raise _revived(message)
    return message["result"]


def serve(request: dict[str, Any]) -> None:
    """Answer one request of `call_in_child` on standard output; everything else that is written goes to stderr."""
    # The file descriptor, not sys.stdout: native code writes there as well.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group; the parent decides
    with suppress(OSError):
        _OOM_SCORE.write_text("800", encoding="ascii")  # rather this process than the user's
    Thread(target=_end_with_parent, daemon=True).start()

    def tell(**message: Any) -> None:
        answers.write(msgspec.json.encode(message, enc_hook=str if "facts" in message else None) + b"\n")
        answers.flush()

    arguments = request["arguments"]
    if request["progress"]:
        arguments["progress"] = lambda step, share: tell(step=step, share=share)
    module, _, name = str(request["target"]).partition(":")
    try:
        result = getattr(import_module(module), name)(**arguments)
    except SamedgeError as error:
        tell(error=type(error).__name__, what=error.what, where=error.where, cure=error.cure, facts=error.facts)
    else:
        tell(result=result)


def _end_with_parent() -> None:
    """Exit when standard input closes: the parent has ended."""
    with suppress(OSError):
        while os.read(0, 4096):  # not sys.stdin: a thread that waits in it makes the interpreter's end a crash
            pass
    os._exit(1)


def _revived(message: Mapping[str, Any]) -> SamedgeError:
    """Return the error that the child raised, of the same class."""
    kind = next((kind for kind in _tree(SamedgeError) if kind.__name__ == message["error"]), SamedgeError)
    return kind(message["what"], where=message["where"], cure=message["cure"], **message["facts"])


def _tree(kind: type[SamedgeError]) -> list[type[SamedgeError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _tree(child))]
