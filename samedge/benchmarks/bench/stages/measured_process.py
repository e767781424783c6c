"""A process that is measured, as the one that measures sees it: started, asked, and ended whatever happens."""

from __future__ import annotations

import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Final, TypeVar

import msgspec
from typing_extensions import Self

from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Hello, Opened, Opening, Ran
from samedge.benchmarks.measure.child import last_words
from samedge.errors import BenchmarkError

T = TypeVar("T")

PATIENCE: Final = 3600.0
"""Seconds for one answer: Meta's generator takes minutes a picture, and a board takes longer."""

_END: Final = 10.0


class MeasuredProcess:
    """A process that speaks the protocol of `samedge.benchmarks.bench.stages.peer_protocol`.

    Use it as a context manager: at the end it is asked to close, and killed if it does not.

    Args:
        command: Program and arguments.
        name: What errors call it.
        environment: Its environment; None for that of this process.
        patience: Seconds to wait for one answer.

    Raises:
        BenchmarkError: It cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.name = name
        self._patience = patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has died, closed with it
        try:
            self._process = subprocess.Popen(  # noqa: S603 - what the user named
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
            )
        except OSError as error:
            self._errors.close()
            raise BenchmarkError(
                f"this process cannot be started: {error.strerror}", where=name, cure="Check the command"
            ) from error
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def status(self) -> int | None:
        """With which it ended; negative for a signal, None as long as it runs."""
        return self._process.poll()

    def hello(self) -> Hello:
        """Ask who it is and whether it can work here.

        Raises:
            BenchmarkError: It speaks another protocol, or gives no answer.
        """
        said = self._ask({"do": "hello"}, Hello)
        if said.protocol != PROTOCOL:
            raise BenchmarkError(f"it speaks protocol {said.protocol}, and this is {PROTOCOL}", where=self.name)
        return said

    def open(self, opening: Opening) -> Opened:
        """Load a model.

        Raises:
            BenchmarkError: It cannot, or died.
        """
        return self._ask({"do": "open", **msgspec.to_builtins(opening)}, Opened)

    def run(self, stage: str) -> Ran:
        """Do a stage once on every picture.

        Raises:
            BenchmarkError: It cannot, or died.
        """
        return self._ask({"do": "run", "stage": stage}, Ran)

    def _ask(self, request: dict[str, Any], kind: type[T]) -> T:
        line = msgspec.json.encode(request) + b"\n"
        stdin = self._stdin()
        try:
            stdin.write(line)
            stdin.flush()
        except OSError as error:
            raise self._death() from error
        try:
            answer = self._lines.get(timeout=self._patience)
        except queue.Empty:
            self._process.kill()
            raise BenchmarkError(
                f"no answer to {request['do']!r} for {self._patience:.0f} s, so it was ended", where=self.name
            ) from None
        if not answer:
            raise self._death()
        try:
            said = msgspec.json.decode(answer)
            if isinstance(said, dict) and "error" in said:
                raise BenchmarkError(str(said["error"]), where=self.name)
            return msgspec.convert(said, kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            shown = answer[:80].decode(errors="replace").strip()
            raise BenchmarkError(
                f"its answer to {request['do']!r} is not of the protocol ({error}): {shown}",
                where=self.name,
                cure="A peer writes answers alone to stdout, and everything else to stderr",
            ) from error

    def _stdin(self) -> IO[bytes]:
        if self._process.stdin is None or self._process.stdin.closed:
            raise BenchmarkError("this process was closed", where=self.name)
        return self._process.stdin

    def _listen(self) -> None:
        """Put lines into the queue as they come, and an empty one at the end."""
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(b"")

    def _death(self) -> BenchmarkError:
        try:
            status = self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._errors.seek(0)
        return last_words(self.name, status, self._errors.read().decode(errors="replace"))

    def close(self) -> None:
        """End the process. May be called twice."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            try:
                process.stdin.write(b'{"do": "close"}\n')
                process.stdin.close()
            except OSError:  # it is dead already
                pass
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._listener.join(_END)  # a file that is closed while a thread reads it is an error in that thread
        if process.stdout is not None:
            process.stdout.close()
        self._errors.close()

    def kill(self) -> None:
        """End the process at once: whoever was interrupted does not wait for a stage to end."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, BenchmarkError):
            self.kill()
        self.close()
