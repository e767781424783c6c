"""The serving side of the protocol: ``python -m samedge.benchmarks.bench.stages.serve samedge``.

One process a model: its peak memory is its own. What libraries print goes to stderr, because stdout belongs to answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from samedge.benchmarks.bench.stages.peer_protocol import Hello, Opened, Opening, Ran
from samedge.benchmarks.measure.child import find_target
from samedge.benchmarks.measure.memory import peak_resident_bytes
from samedge.errors import BenchmarkError, SamedgeError

LOADERS: Final = {
    "samedge": "samedge.benchmarks.bench.stages.samedge_stages",
    "meta": "samedge.benchmarks.bench.stages.reference_stages",
    "plain-onnx": "samedge.benchmarks.bench.stages.plain_stages",
}
"""Modules by what they load; each has a function ``hello`` and a function ``open_model``."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can be asked.

    Attributes:
        opened: What it says about itself.
        stages: By name, a function that does the stage on a picture, by its number, and times it.
        close: Frees it.
        device_bytes: Returns the bytes that it has on an accelerator; None where nobody tells them.
    """

    opened: Opened
    stages: Mapping[str, Callable[[int], Ran]]
    close: Callable[[], None] = field(default=lambda: None)
    device_bytes: Callable[[], int | None] = field(default=lambda: None)


class Loader(Protocol):
    """A module of `LOADERS`."""

    def hello(self) -> Hello:
        """Who it is, and whether what it needs is installed."""
        ...

    def open_model(self, opening: Opening) -> Loaded:
        """Load a model.

        Raises:
            SamedgeError: It cannot be loaded.
        """
        ...


def summed(runs: list[Ran], peak: int | None, device: int | None) -> Ran:
    """Return a stage on all pictures from the stage on each.

    Args:
        runs: One a picture.
        peak: As `Ran` has it.
        device: As `Ran` has it.
    """
    figures: dict[str, float] = {}
    for run in runs:
        for name, value in run.figures.items():
            figures[name] = figures.get(name, 0) + value
    cpu = [run.cpu for run in runs if run.cpu is not None]
    return Ran(
        wall=sum(run.wall for run in runs),
        cpu=sum(cpu) if len(cpu) == len(runs) else None,
        peak=peak,
        device=device,
        figures=figures,
    )


class Server:
    """Answers requests about one model.

    Args:
        kind: One of `LOADERS`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._loaded: Loaded | None = None
        self._pictures = 0
        self._device: dict[str, int | None] = {}
        self._peak: int | None = None

    def answer(self, request: Mapping[str, Any]) -> Any:
        """Return the answer to a request.

        Raises:
            SamedgeError: It cannot be done.
        """
        what = request.get("do")
        if what == "hello":
            return self._hello()
        if what == "open":
            opening = msgspec.convert(dict(request), Opening)
            self._loaded = find_target(f"{LOADERS[self._kind]}:open_model")(opening)
            self._pictures = len(opening.images)
            return self._loaded.opened
        if what == "run":
            return self._run(str(request.get("stage")))
        if what == "close":
            if self._loaded is not None:
                self._loaded.close()
            return {}
        raise BenchmarkError(f"there is nothing to do under {what!r}")

    def _hello(self) -> Hello:
        """A module that cannot even be imported is one that cannot work here."""
        try:
            found: Hello = find_target(f"{LOADERS[self._kind]}:hello")()
        except SamedgeError as error:
            return Hello(1, self._kind, can=False, reason=str(error))
        return found

    def _run(self, stage: str) -> Ran:
        if self._loaded is None:
            raise BenchmarkError("no model is open")
        if stage not in self._loaded.stages:
            raise BenchmarkError(f"there is no stage {stage!r}")
        runs = [self._loaded.stages[stage](picture) for picture in range(self._pictures)]
        with suppress(BenchmarkError):  # a system that does not tell
            # Linux adds the counts of its processors up, so that a later reading may be a page lower.
            self._peak = max(peak_resident_bytes(), self._peak or 0)
        if stage not in self._device:  # asked once a stage: the driver's tool takes its time
            self._device[stage] = self._loaded.device_bytes()
        return summed(runs, self._peak, self._device[stage])


def serve(kind: str) -> None:
    """Answer what comes on stdin, until it ends or asks to close."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    server = Server(kind)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line)
        try:
            answer = server.answer(request)
        except (SamedgeError, msgspec.ValidationError) as error:
            answer = {"error": str(error)}
        answers.write(msgspec.json.encode(answer) + b"\n")
        if request.get("do") == "close":
            return


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in LOADERS:
        sys.exit(f"usage: python -m samedge.benchmarks.bench.stages.serve {{{','.join(LOADERS)}}}")
    serve(sys.argv[1])
