"""Backends whose speed is what the test says, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from samedge.engines import registry
from samedge.engines.protocol import Availability, EngineOptions, RawEngineFactory
from samedge.engines.registry import Backend
from samedge.errors import DeviceUnavailableError, EngineError
from samedge.testing.engine import FakeEngine
from samedge.types import Array, TensorSpec

INPUTS = {"x": TensorSpec(("batch", "height", 3), np.dtype(np.float32))}


@dataclass
class Clock:
    """Seconds, moved by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class TimedBackend:
    """A backend of the table, and what happened to it.

    Attributes:
        name: In the table.
        clock: Moved by opening and by running.
        seconds: Of each run by device; the last one goes on. A device that is not here cannot be had.
        opening: Seconds.
        gives: The number that the output is full of.
        broken: What a run is refused with.
        version: In its availability; None if it is not installed.
    """

    name: str
    clock: Clock
    seconds: Mapping[str, Sequence[float]]
    opening: float = 0.0
    gives: float = 1.0
    broken: str | None = None
    version: str | None = "1.0"
    devices: tuple[str, ...] | None = None
    measured: tuple[str, ...] = ("cuda", "gpu", "cpu")
    opened: list[EngineOptions] = field(default_factory=list)
    engines: list[FakeEngine] = field(default_factory=list)

    def probe(self) -> Availability:
        devices = tuple(self.seconds) if self.devices is None else self.devices
        if self.version is None:
            return Availability(False, f"{self.name} is not installed")
        return Availability(True, f"{self.name} {self.version}", devices=devices, version=self.version)

    def __call__(self, path: Path, options: EngineOptions) -> FakeEngine:
        device = options.device or next(iter(self.seconds))
        self.opened.append(options)
        if device not in self.seconds:
            raise DeviceUnavailableError(f"{device} is on holiday", where=path, device=device)
        self.clock.now += self.opening
        left = list(self.seconds[device])

        def run(feeds: dict[str, Array]) -> dict[str, Array]:
            if self.broken is not None:
                raise EngineError(self.broken, where=path)
            self.clock.now += left.pop(0) if len(left) > 1 else left[0]
            return {"y": np.full_like(feeds["x"], self.gives)}

        self.engines.append(FakeEngine(INPUTS, {"y": INPUTS["x"]}, run, device=device))
        return self.engines[-1]


def install(monkeypatch: pytest.MonkeyPatch, *backends: TimedBackend) -> None:
    """Makes these the table of backends."""

    def factory(line: Backend) -> RawEngineFactory:
        return next(backend for backend in backends if backend.name == line.name)  # type: ignore[return-value]

    monkeypatch.setattr(Backend, "factory", factory)
    table = tuple(Backend(one.name, "none:none", one.name, (".onnx",), measured=one.measured) for one in backends)
    monkeypatch.setattr(registry, "BACKENDS", table)
