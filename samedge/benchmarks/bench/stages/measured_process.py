"""Client side of the protocol: a measured process, always ended, whatever happens."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec
from typing_extensions import Self

from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Capabilities, OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.measure.child import process_failure
from samedge.errors import BenchmarkError
from samedge.processes import LineProcess

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
        try:
            self._process = LineProcess(command, environment=environment)
        except OSError as error:
            raise BenchmarkError(
                f"the process cannot be started: {error.strerror}", where=name, cure="Check the command"
            ) from error

    @property
    def status(self) -> int | None:
        """Exit status; negative for a signal, None while it runs."""
        return self._process.status

    def hello(self) -> Capabilities:
        """Request its name, version and availability, and check the protocol."""
        reply = self._request({"do": "hello"}, Capabilities)
        if reply.protocol != PROTOCOL:
            raise BenchmarkError(
                f"the peer speaks protocol {reply.protocol}, not {PROTOCOL}",
                where=self.name,
                cure="Use a peer and a samedge of the same protocol: see docs/bench.md",
            )
        return reply

    def open(self, opening: OpenRequest) -> OpenedModel:
        """Load a model."""
        return self._request({"do": "open", **msgspec.to_builtins(opening)}, OpenedModel)

    def run(self, stage: str) -> StageTiming:
        """Run a stage once on every image."""
        return self._request({"do": "run", "stage": stage}, StageTiming)

    def _request(self, request: dict[str, Any], kind: type[T]) -> T:
        if self._process.closed:
            raise BenchmarkError("the process was closed", where=self.name, cure="Start a new one")
        try:
            self._process.send(msgspec.json.encode(request))
        except OSError as error:
            raise self._death() from error
        try:
            line = self._process.receive(self._patience)
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

    def _death(self) -> BenchmarkError:
        return process_failure(self.name, *self._process.death())

    def close(self) -> None:
        """End the process. May be called twice."""
        if not self._process.closed:
            with suppress(OSError):  # the process has already died
                self._process.send(b'{"do": "close"}')
        self._process.close(_END)

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
