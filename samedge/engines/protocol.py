"""What a backend must be, and the one wrapper that checks every call.

A backend is a class that fulfils `RawEngine`: it describes its inputs and outputs, runs, and closes. One that computes
on a device of its own fulfils `DeviceEngine` and can leave results there. A backend may trust what it is given, because
nothing reaches it except through `Engine`, which checks names, dtypes, shapes and state once, for all. Knows arrays and
nothing of SAM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import numpy as np

from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import CPU, Exporter
from samedge.errors import EngineError, TensorMismatchError
from samedge.types import Array, Closing, TensorSpec

Value: TypeAlias = Array | DeviceArray
"""What an engine takes: an array of the host, or one that lies on its device."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a backend should run a graph.

    Attributes:
        device: "cpu", "cuda", "cuda:1", or a backend's own name for a device; None lets the backend take its default.
        threads: CPU threads for one run; None for all physical cores.
    """

    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend works here and, where it does not, why and what to do.

    Attributes:
        ok: It can be opened on this machine.
        reason: Version and devices if ok, otherwise the cause.
        cure: What to install or change; None if ok.
        devices: The devices that can be asked for, fastest first.
        version: Of the runtime; None where it is not installed or does not say.
    """

    ok: bool
    reason: str
    cure: str | None = None
    devices: tuple[str, ...] = ()
    version: str | None = None


class RawEngine(Protocol):
    """One graph loaded by one backend on one device."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Input name to shape and dtype."""
        ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Output name to shape and dtype."""
        ...

    @property
    def device(self) -> str:
        """The device really used, such as "cpu" or "cuda:0"."""
        ...

    @property
    def details(self) -> Mapping[str, str]:
        """What a report should say about how the graph runs here: versions, threads, providers."""
        ...

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph on checked, C-contiguous feeds and returns the outputs that were asked for.

        Raises:
            EngineError: The backend failed; its own exceptions never pass.
        """
        ...

    def close(self) -> None:
        """Free what the backend holds. Called once."""
        ...


class DeviceEngine(RawEngine, Protocol):
    """One graph on a device with memory of its own. `run` takes arrays that lie there as well."""

    @property
    def keeps_on_device(self) -> bool:
        """Whether it does what follows: a backend may run on such a device or on the host."""
        ...

    @property
    def array_device(self) -> str:
        """Where its arrays lie, as `DeviceArray.device` says it."""
        ...

    @property
    def axis_limits(self) -> Mapping[str, tuple[int, int]]:
        """Name of a free axis to its least and largest size, where there are limits."""
        ...

    def run_on_device(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Run the graph and leave the outputs on the device.

        Raises:
            EngineError: The backend failed.
        """
        ...

    def to_device(self, array: Array) -> DeviceArray:
        """Return a copy of an array of the host on the device.

        Raises:
            EngineError: There is not enough memory, or the copy failed.
        """
        ...

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Return an array over memory of another library on this device.

        Raises:
            EngineError: It cannot be read from here.
        """
        ...


class RawEngineFactory(Protocol):
    """A backend's class object: it can say whether it works here, and open a graph file."""

    @staticmethod
    def probe() -> Availability:
        """Whether the backend works here; opens no graph, raises nothing."""
        ...

    def __call__(self, path: Path, options: EngineOptions) -> RawEngine:
        """Open a graph.

        Raises:
            BackendUnavailableError: The backend is not installed.
            DeviceUnavailableError: `options.device` cannot be had.
            EngineError: The graph cannot be opened.
        """
        ...


class Engine(Closing):
    """A loaded graph that can be run: the same for every backend.

    Use it as a context manager, or call `close` when done; a closed engine refuses to run.

    Args:
        raw: What the backend opened.
        backend: Name of the backend, as in the table of backends.
        name: What error messages call this graph, such as its file.

    Attributes:
        backend: As given.
        device: The device really used, such as "cpu" or "cuda:0".
        details: What a report should say about how the graph runs here: versions, threads, providers.
        inputs: Input name to shape and dtype.
        outputs: Output name to shape and dtype.
        name: As given.
        on_device: Whether it computes on a device with memory of its own, where `run_on_device` leaves results.
        axis_limits: Name of a free axis to its least and largest size, where there are limits.
    """

    def __init__(self, raw: RawEngine | DeviceEngine, *, backend: str, name: str) -> None:
        self._raw: RawEngine | DeviceEngine | None = raw
        self.on_device: bool = getattr(raw, "keeps_on_device", False)
        self._array_device: str = getattr(raw, "array_device", raw.device)
        self.axis_limits: dict[str, tuple[int, int]] = dict(getattr(raw, "axis_limits", {}))
        self.inputs: Mapping[str, TensorSpec] = dict(raw.inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(raw.outputs)
        self.backend = backend
        self.device = raw.device
        self.details = dict(raw.details)
        self.name = name

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the graph and return its outputs by name, on the host.

        Args:
            feeds: One array for each input of the graph, of exactly its dtype and of a shape that fits. Arrays that lie
                on the engine's device are read there; an engine of the host copies them.
            outputs: The outputs to return; None for all.

        Raises:
            TensorMismatchError: A name, shape or dtype does not fit the graph, or a feed lies on another device.
            EngineError: The engine was closed, or the backend failed.
        """
        raw = self._open()
        return raw.run(cast("Mapping[str, Array]", self._checked(feeds)), self._wanted(outputs))

    def run_on_device(self, feeds: Mapping[str, Value], outputs: Sequence[str] | None = None) -> Mapping[str, Value]:
        """Run the graph and leave its outputs where it computes: on the device, or on the host if it computes there.

        Arrays on the device may not be complete yet; whoever takes them knows how to wait. They are to be read only.

        Args:
            feeds: As in `run`.
            outputs: The outputs to return; None for all.

        Raises:
            TensorMismatchError: As in `run`.
            EngineError: The engine was closed, or the backend failed.
        """
        raw = self._open()
        if not self.on_device:
            return self.run(feeds, outputs)
        return cast("DeviceEngine", raw).run_on_device(self._checked(feeds), self._wanted(outputs))

    def to_device(self, array: Array | DeviceArray | Exporter) -> Value:
        """Return an array where the engine computes.

        Args:
            array: Of the host: copied to the device if there is one. One that lies there already: returned as it is.
                One of another library, such as a torch tensor: read where it lies, if that is the engine's device.

        Raises:
            TensorMismatchError: It lies on another device, or cannot be read as it is.
            EngineError: The engine was closed, or the device has not enough memory.
        """
        raw = self._open()
        if isinstance(array, DeviceArray):
            return array
        if not isinstance(array, np.ndarray):
            kind, number = array.__dlpack_device__()
            if int(kind) == CPU:
                array = np.from_dlpack(array)
            else:
                lies = f"cuda:{int(number)}"
                if not self.on_device or self._array_device != lies:
                    raise self._elsewhere("the array", lies, "Move it there, or to the host, first")
                return cast("DeviceEngine", raw).borrow(array)
        return cast("DeviceEngine", raw).to_device(np.asarray(array, order="C")) if self.on_device else array

    def _open(self) -> RawEngine | DeviceEngine:
        if self._raw is None:
            raise EngineError("this engine was closed", where=self.name, cure="Open it again before running it")
        return self._raw

    def _elsewhere(self, what: str, lies: str, cure: str) -> TensorMismatchError:
        return TensorMismatchError(
            f"{what} lies on {lies}, and this engine runs on {self.device}", where=self.name, cure=cure
        )

    def _wanted(self, outputs: Sequence[str] | None) -> list[str]:
        wanted = list(self.outputs) if outputs is None else list(outputs)
        unknown = [name for name in wanted if name not in self.outputs]
        if unknown:
            raise TensorMismatchError(
                f"the graph has no output {unknown[0]!r}",
                where=self.name,
                cure=f"Its outputs are {', '.join(self.outputs)}",
            )
        return wanted

    def _checked(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        if feeds.keys() != self.inputs.keys():
            missing = sorted(self.inputs.keys() - feeds.keys())
            extra = sorted(feeds.keys() - self.inputs.keys())
            what = f"input {missing[0]!r} is missing" if missing else f"the graph has no input {extra[0]!r}"
            raise TensorMismatchError(what, where=self.name, cure=f"Its inputs are {', '.join(self.inputs)}")
        checked: dict[str, Value] = {}
        axes: dict[str, tuple[int, str]] = {}
        for name, spec in self.inputs.items():
            array = feeds[name]
            have = TensorSpec(array.shape, array.dtype)
            if array.dtype != spec.dtype or not spec.accepts(array.shape):
                raise TensorMismatchError(
                    f"input {name!r} is {have}, and the graph takes {spec}", where=self.name, have=have, want=spec
                )
            for axis, size in zip(spec.shape, array.shape, strict=True):
                if not isinstance(axis, str) or not axis:
                    continue
                first, owner = axes.setdefault(axis, (size, name))
                if first != size:
                    raise TensorMismatchError(
                        f"axis {axis!r} is {size} in input {name!r} and {first} in input {owner!r}",
                        where=self.name,
                        cure="Axes of one name must have one size",
                        have=have,
                        want=spec,
                    )
            checked[name] = self._placed(name, array)
        return checked

    def _placed(self, name: str, array: Value) -> Value:
        """The array as the backend takes it."""
        if not isinstance(array, DeviceArray):
            return np.asarray(array, order="C")  # ascontiguousarray gives a scalar an axis
        if not self.on_device:
            return array.numpy()
        if array.device != self._array_device:
            raise self._elsewhere(
                f"input {name!r}", array.device, "Open both engines on one device, or feed array.numpy()"
            )
        return array

    def close(self) -> None:
        """Free what the backend holds. May be called twice."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._raw is None
