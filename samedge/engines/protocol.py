"""The backend protocol, and the one wrapper that checks every call.

A backend is a class that implements `RawEngine`: it describes its inputs and outputs, runs, and closes. One that
computes on its own device implements `DeviceEngine` and can leave results there. Backends may trust their arguments:
`Engine`, their only caller, checks names, dtypes, shapes and state.
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
"""An array on the host, or on the engine's device."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options for running a graph.

    Attributes:
        device: "cpu", "cuda", "cuda:1", or a backend-specific name; None for the backend's default.
        threads: CPU threads for one run; None for all physical cores.
    """

    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Availability:
    """Availability of a backend on this machine and, if unavailable, the reason and the cure.

    Attributes:
        ok: True if it can be opened on this machine.
        reason: Version and devices if ok, otherwise the cause.
        cure: Action that makes it available; None if ok.
        devices: Selectable devices, fastest first.
        version: Version of the runtime; None if unknown.
    """

    ok: bool
    reason: str
    cure: str | None = None
    devices: tuple[str, ...] = ()
    version: str | None = None


class RawEngine(Protocol):
    """A graph loaded by a backend on a device."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Input name to shape and dtype."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Output name to shape and dtype."""

    @property
    def device(self) -> str:
        """Device actually used, such as "cpu" or "cuda:0"."""

    @property
    def details(self) -> Mapping[str, str]:
        """Facts for reports on how the graph runs: versions, threads, providers."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph on checked, C-contiguous feeds and return the requested outputs.

        Raises:
            EngineError: The backend failed; its own exceptions never propagate.
        """

    def close(self) -> None:
        """Release the backend's resources. Called once."""


class DeviceEngine(RawEngine, Protocol):
    """A graph on a device with its own memory. `run` also accepts arrays on that device."""

    @property
    def keeps_on_device(self) -> bool:
        """True if the methods below work: a backend may run on such a device or on the host."""

    @property
    def array_device(self) -> str:
        """Device of its arrays, as in `DeviceArray.device`."""

    @property
    def axis_limits(self) -> Mapping[str, tuple[int, int]]:
        """Name of each limited free axis to its smallest and largest size."""

    def run_on_device(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Run the graph and return the outputs on the device.

        Raises:
            EngineError: The backend failed.
        """

    def to_device(self, array: Array) -> DeviceArray:
        """Copy a host array to the device.

        Raises:
            EngineError: There is not enough memory, or the copy failed.
        """

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Wrap another library's memory on this device as an array.

        Raises:
            EngineError: It cannot be read from this device.
        """


class RawEngineFactory(Protocol):
    """A backend's class object: reports its availability and opens graph files."""

    @staticmethod
    def probe() -> Availability:
        """Report the backend's availability without opening a graph or raising an error."""

    def __call__(self, path: Path, options: EngineOptions) -> RawEngine:
        """Open a graph.

        Raises:
            BackendUnavailableError: The backend is not installed.
            DeviceUnavailableError: `options.device` is unavailable.
            EngineError: The graph cannot be opened.
        """


def shape_fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Return True if a shape has the rank of a spec and its size along fixed axes."""
    pairs = zip(spec.shape, shape, strict=False)
    return len(shape) == len(spec.shape) and all(isinstance(want, str) or want == have for want, have in pairs)


class Engine(Closing):
    """A loaded graph that can be run; a uniform interface to every backend.

    Use it as a context manager, or call `close` when done; a closed engine refuses to run.

    Args:
        raw: The backend's object.
        backend: Name of the backend, as in the table of backends.
        name: Name of the graph in error messages, such as its file.

    Attributes:
        backend: As given.
        device: Device actually used, such as "cpu" or "cuda:0".
        details: Facts for reports on how the graph runs: versions, threads, providers.
        inputs: Input name to shape and dtype.
        outputs: Output name to shape and dtype.
        details: Facts for reports on how the graph runs: versions, threads, providers.
        name: As given.
        on_device: True if it computes on a device with its own memory, where `run_on_device` leaves results.
        axis_limits: Name of each limited free axis to its smallest and largest size.
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
            feeds: One array for each input of the graph, of exactly its dtype and of a matching shape. Arrays on the
                engine's device are read in place; a host engine copies them.
            outputs: The outputs to return; None for all.

        Raises:
            TensorMismatchError: A name, shape or dtype does not fit the graph, or a feed is on another device.
            EngineError: The engine is closed, or the backend failed.
        """
        raw = self._open()
        return raw.run(cast("Mapping[str, Array]", self._checked(feeds)), self._requested(outputs))

    def run_on_device(self, feeds: Mapping[str, Value], outputs: Sequence[str] | None = None) -> Mapping[str, Value]:
        """Run the graph and return its outputs where it computes: on its device, or on the host.

        Arrays on the device are read-only and may still be incomplete; wait for them with their own methods.

        Args:
            feeds: As in `run`.
            outputs: The outputs to return; None for all.

        Raises:
            TensorMismatchError: As in `run`.
            EngineError: The engine is closed, or the backend failed.
        """
        raw = self._open()
        if not self.on_device:
            return self.run(feeds, outputs)
        return cast("DeviceEngine", raw).run_on_device(self._checked(feeds), self._requested(outputs))

    def to_device(self, array: Array | DeviceArray | Exporter) -> Value:
        """Return an array where the engine computes.

        Args:
            array: A host array is copied to the device, if there is one; one already there is returned unchanged. One
                of another library, such as a torch tensor, is read in place if it is on the engine's device.

        Raises:
            TensorMismatchError: It is on another device, or has an unsupported dtype or layout.
            EngineError: The engine is closed, or the device is out of memory.
        """
        raw = self._open()
        if isinstance(array, DeviceArray):
            return array
        if not isinstance(array, np.ndarray):
            kind, number = array.__dlpack_device__()
            if int(kind) == CPU:
                array = np.from_dlpack(array)
            else:
                location = f"cuda:{int(number)}"
                if not self.on_device or self._array_device != location:
                    raise self._device_mismatch("the array", location, "Move it there, or to the host, first")
                return cast("DeviceEngine", raw).borrow(array)
        return cast("DeviceEngine", raw).to_device(np.asarray(array, order="C")) if self.on_device else array

    def _open(self) -> RawEngine | DeviceEngine:
        if self._raw is None:
            raise EngineError("this engine is closed", where=self.name, cure="Open it again before running it")
        return self._raw

    def _device_mismatch(self, what: str, location: str, cure: str) -> TensorMismatchError:
        return TensorMismatchError(
            f"{what} is on {location}, but this engine runs on {self.device}", where=self.name, cure=cure
        )

    def _requested(self, outputs: Sequence[str] | None) -> list[str]:
        requested = list(self.outputs) if outputs is None else list(outputs)
        unknown = [name for name in requested if name not in self.outputs]
        if unknown:
            raise TensorMismatchError(
                f"the graph has no output {unknown[0]!r}",
                where=self.name,
                cure=f"Its outputs are {', '.join(self.outputs)}",
            )
        return requested

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
            if array.dtype != spec.dtype or not shape_fits(array.shape, spec):
                raise TensorMismatchError(
                    f"input {name!r} is {have} but the graph expects {spec}",
                    where=self.name,
                    cure=f"Pass an array that fits {spec}",
                    have=have,
                    want=spec,
                )
            for axis, size in zip(spec.shape, array.shape, strict=True):
                if not isinstance(axis, str) or not axis:
                    continue
                first, owner = axes.setdefault(axis, (size, name))
                if first != size:
                    raise TensorMismatchError(
                        f"axis {axis!r} is {size} in input {name!r} and {first} in input {owner!r}",
                        where=self.name,
                        cure="Give axes of the same name the same size",
                        have=have,
                        want=spec,
                    )
            checked[name] = self._placed(name, array)
        return checked

    def _placed(self, name: str, array: Value) -> Value:
        """Return the array in the form that the backend accepts."""
        if not isinstance(array, DeviceArray):
            return np.asarray(array, order="C")  # ascontiguousarray gives a scalar an axis
        if not self.on_device:
            return array.numpy()
        if array.device != self._array_device:
            raise self._device_mismatch(
                f"input {name!r}", array.device, "Open both engines on one device, or feed array.numpy()"
            )
        return array

    def close(self) -> None:
        """Release the backend's resources. Idempotent."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._raw is None
