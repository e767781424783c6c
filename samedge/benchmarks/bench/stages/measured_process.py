"""A process that is measured, as the one that measures sees it: started, asked, and ended whatever happens."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec
from typing_extensions import Self

from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Hello, Opened, Opening, Ran
from samedge.benchmarks.measure.child import last_words
from samedge.errors import BenchmarkError
from samedge.processes import LineProcess

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
        try:
            self._process = LineProcess(command, environment=environment)
        except OSError as error:
            raise BenchmarkError(
                f"this process cannot be started: {error.strerror}", where=name, cure="Check the command"
            ) from error

    @property
    def status(self) -> int | None:
        """With which it ended; negative for a signal, None as long as it runs."""
        return self._process.status

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
        if self._process.closed:
            raise BenchmarkError("this process was closed", where=self.name)
        try:
            self._process.send(msgspec.json.encode(request))
        except OSError as error:
            raise self._death() from error
        try:
            answer = self._process.receive(self._patience)
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

    def _death(self) -> BenchmarkError:
        return last_words(self.name, *self._process.death())

    def close(self) -> None:
        """End the process. May be called twice."""
        if not self._process.closed:
            with suppress(OSError):  # it is dead already
                self._process.send(b'{"do": "close"}')
        self._process.close(_END)

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
