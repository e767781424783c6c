"""Client side of the protocol: a measured process, always ended, whatever happens."""

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

from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Capabilities, OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.measure.child import process_failure
from samedge.errors import BenchmarkError

T = TypeVar("T")

PATIENCE: Final = 3600.0
"""Time limit of one reply, seconds: Meta's generator takes minutes per image, and longer on a board."""

_END: Final = 10.0
_CURE: Final = "See the message of the peer, and docs/bench.md for the protocol"


class MeasuredProcess:
    """A process that speaks the protocol of `samedge.benchmarks.bench.stages.peer_protocol`.

    Use it as a context manager: on exit it is asked to close, and killed if it does not.

    Args:
        command: Program and arguments.
        name: Name in error messages.
        environment: Its environment; None for that of this process.
        patience: Time limit of one reply, seconds.

    Raises:
        BenchmarkError: The process cannot be started.
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
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read after the process dies, closed in close()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
            )
        except OSError as error:
            self._errors.close()
            raise BenchmarkError(
                f"the process cannot be started: {error.strerror}", where=name, cure="Check the command"
            ) from error
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def status(self) -> int | None:
        """Exit status; negative for a signal, None while it runs."""
        return self._process.poll()

    def hello(self) -> Capabilities:
        """Request its name, version and availability.

        Raises:
            BenchmarkError: It speaks another protocol, or does not reply.
        """
        reply = self._request({"do": "hello"}, Capabilities)
        if reply.protocol != PROTOCOL:
            raise BenchmarkError(
                f"the peer speaks protocol {reply.protocol}, not {PROTOCOL}",
                where=self.name,
                cure="Use a peer and a samedge of the same protocol: see docs/bench.md",
            )
        return reply

    def open(self, opening: OpenRequest) -> OpenedModel:
        """Load a model.

        Raises:
            BenchmarkError: Loading failed, or the process died.
        """
        return self._request({"do": "open", **msgspec.to_builtins(opening)}, OpenedModel)

    def run(self, stage: str) -> StageTiming:
        """Run a stage once on every image.

        Raises:
            BenchmarkError: The stage failed, or the process died.
        """
        return self._request({"do": "run", "stage": stage}, StageTiming)

    def _request(self, request: dict[str, Any], kind: type[T]) -> T:
        line = msgspec.json.encode(request) + b"\n"
        stdin = self._stdin()
        try:
            stdin.write(line)
            stdin.flush()
        except OSError as error:
            raise self._death() from error
        try:
            line = self._lines.get(timeout=self._patience)
        except queue.Empty:
            self._process.kill()
            raise BenchmarkError(
                f"no reply to {request['do']!r} within {self._patience:.0f} s, so the process was ended",
                where=self.name,
                cure="Measure a smaller model, or fewer columns with --columns",
            ) from None
        if not line:
            raise self._death()
        try:
            reply = msgspec.json.decode(line)
            if isinstance(reply, dict) and "error" in reply:
                raise BenchmarkError(str(reply["error"]), where=self.name, cure=_CURE)
            return msgspec.convert(reply, kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            shown = line[:80].decode(errors="replace").strip()
            raise BenchmarkError(
                f"invalid reply to {request['do']!r} ({error}): {shown}",
                where=self.name,
                cure="Write replies only to stdout, and everything else to stderr",
            ) from error

    def _stdin(self) -> IO[bytes]:
        if self._process.stdin is None or self._process.stdin.closed:
            raise BenchmarkError("the process was closed", where=self.name, cure="Start a new one")
        return self._process.stdin

    def _listen(self) -> None:
        """Put lines into the queue as they arrive, and an empty one at the end."""
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
        return process_failure(self.name, status, self._errors.read().decode(errors="replace"))

    def close(self) -> None:
        """End the process. May be called twice."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            try:
                process.stdin.write(b'{"do": "close"}\n')
                process.stdin.close()
            except OSError:  # the process has already died
                pass
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._listener.join(_END)  # closing the file while the thread reads it would raise in the thread
        if process.stdout is not None:
            process.stdout.close()
        self._errors.close()

    def kill(self) -> None:
        """Kill the process at once, without waiting for a running stage."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, BenchmarkError):
            self.kill()
        self.close()
