"""Server side of the protocol: ``python -m samedge.benchmarks.bench.stages.serve samedge``.

One process per model, so that peak memory is its own. Output of libraries goes to stderr: stdout is for replies.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from samedge.benchmarks.bench.stages.peer_protocol import Capabilities, OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.measure.child import find_target
from samedge.benchmarks.measure.device_memory import device_bytes_of, used_device_bytes
from samedge.benchmarks.measure.memory import peak_resident_bytes
from samedge.benchmarks.measure.rounds import timed
from samedge.errors import BenchmarkError, SamedgeError

R = TypeVar("R")

LOADERS: Final = {
    "samedge": "samedge.benchmarks.bench.stages.family",
    "meta": "samedge.benchmarks.bench.stages.reference_stages",
    "plain-onnx": "samedge.benchmarks.bench.stages.plain_stages",
}
"""Modules by the models they load; each has functions ``hello`` and ``open_model``."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        stages: By name, a function that runs the stage on the image of the given index and times it.
        close: Releases the model.
        device_bytes: Returns its bytes on the accelerator; None asks the driver.
    """

    opened: OpenedModel
    stages: Mapping[str, Callable[[int], StageTiming]]
    close: Callable[[], None] = field(default=lambda: None)
    device_bytes: Callable[[], int | None] | None = None


def timed_stage(
    call: Callable[[], R],
    count: Callable[[R], int] | None = None,
    *,
    begun: Callable[[], tuple[float, float]] | None = None,
) -> tuple[StageTiming, R]:
    """Run a stage on one image; return its timing, with the number of masks counted in the result, and the result."""
    wall, cpu, result = timed(call, begun=begun)
    return StageTiming(wall, cpu, figures={} if count is None else {"masks": count(result)}), result


def summed(runs: list[StageTiming], peak: int | None, device: int | None) -> StageTiming:
    """Return the timing over all images, from one per image."""
    figures: dict[str, float] = {}
    for run in runs:
        for name, value in run.figures.items():
            figures[name] = figures.get(name, 0) + value
    cpu = [run.cpu for run in runs if run.cpu is not None]
    return StageTiming(
        wall=sum(run.wall for run in runs),
        cpu=sum(cpu) if len(cpu) == len(runs) else None,
        peak=peak,
        device=device,
        figures=figures,
    )


class Server:
    """Server of one model; `kind` is one of `LOADERS`."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._loaded: LoadedModel | None = None
        self._image_count = 0
        self._read_device: Callable[[], int | None] = lambda: None
        self._device: dict[str, int | None] = {}
        self._peak: int | None = None

    def answer(self, request: Mapping[str, Any]) -> Any:
        """Return the reply to a request."""
        what = request.get("do")
        if what == "hello":
            return self._hello()
        if what == "open":
            return self._open(msgspec.convert(dict(request), OpenRequest))
        if what == "run":
            return self._run(str(request.get("stage")))
        if what == "close":
            if self._loaded is not None:
                self._loaded.close()
            return {}
        raise BenchmarkError(f"unknown request {what!r}", cure="Send hello, open, run or close")

    def _hello(self) -> Capabilities:
        """Return the loader's capabilities; a module that cannot be imported is unavailable."""
        try:
            capabilities: Capabilities = find_target(f"{LOADERS[self._kind]}:hello")()
        except SamedgeError as error:
            return Capabilities(1, self._kind, can=False, reason=str(error))
        return capabilities

    def _open(self, opening: OpenRequest) -> OpenedModel:
        before = used_device_bytes(None)
        loaded: LoadedModel = find_target(f"{LOADERS[self._kind]}:open_model")(opening)
        self._loaded, self._image_count = loaded, len(opening.images)
        self._read_device = loaded.device_bytes or device_bytes_of(loaded.opened.device, before)
        return loaded.opened

    def _run(self, stage: str) -> StageTiming:
        if self._loaded is None:
            raise BenchmarkError("no model is open", cure="Send an open request first")
        if stage not in self._loaded.stages:
            raise BenchmarkError(f"unknown stage {stage!r}", cure=f"Choose from: {', '.join(self._loaded.stages)}")
        runs = [self._loaded.stages[stage](index) for index in range(self._image_count)]
        with suppress(BenchmarkError):  # process memory is unavailable on this platform
            # Linux sums per-CPU counters, so a later reading may be a page lower.
            self._peak = max(peak_resident_bytes(), self._peak or 0)
        if stage not in self._device:  # read once per stage: the driver's tool is slow
            self._device[stage] = self._read_device()
        return summed(runs, self._peak, self._device[stage])


def serve(kind: str) -> None:
    """Reply to requests on stdin, until it ends or a close request arrives."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    server = Server(kind)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line)
        try:
            reply = server.answer(request)
        except (SamedgeError, msgspec.ValidationError) as error:
            reply = {"error": str(error)}
        replies.write(msgspec.json.encode(reply) + b"\n")
        if request.get("do") == "close":
            return


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in LOADERS:
        sys.exit(f"usage: python -m samedge.benchmarks.bench.stages.serve {{{','.join(LOADERS)}}}")
    serve(sys.argv[1])
