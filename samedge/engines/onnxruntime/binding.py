"""onnxruntime sessions bound to device memory through I/O binding.

A plain session call copies every input to the GPU and every output back, allocating both each time. Here host inputs go
into persistent buffers, device inputs are read in place, and outputs stay on the device until they are fetched.
onnxruntime waits at the end of each run, so its outputs are complete. Host copies are pageable; with the CUDA bindings
installed, CUDA sessions use `samedge.engines.onnxruntime.staged` instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import RLock
from typing import Any, Final

import numpy as np

from samedge.engines.cuda.borrowed import borrow
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import Exporter
from samedge.engines.cuda.memory import CudaMemory
from samedge.engines.cuda.pool import DevicePool
from samedge.engines.cuda.providers import open_cuda
from samedge.errors import EngineError
from samedge.types import Array

KEPT_INPUTS: Final = 32
"""Input buffers kept by name and shape, most recently used."""


class OrtBinding:
    """One session and its device memory. Calls from several threads are serialised.

    Args:
        ort: The onnxruntime module.
        session: The session.
        device: Device that computes, such as "cuda:0"; "cpu" uses host memory in the same way.
        open_memory: Opens the GPU for arrays of other libraries; by default through the installed CUDA bindings.
    """

    def __init__(
        self, ort: Any, session: Any, device: str, *, open_memory: Callable[[str], CudaMemory] = open_cuda
    ) -> None:
        self._ort = ort
        self._session = session
        self._binding = session.io_binding()
        self.device = device
        kind, _, number = device.partition(":")
        self._kind, self._number = kind, int(number or 0)
        self._open_memory = open_memory
        self._inputs: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()
        self._pool: DevicePool | None = None
        self._lock = RLock()

    def run(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph and copy outputs to the host."""
        with self._lock:
            try:
                self._bind(feeds, outputs)
                return dict(zip(outputs, self._binding.copy_outputs_to_cpu(), strict=True))
            finally:
                self._clear()

    def run_on_device(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Run the graph and return its outputs on the device, complete."""
        with self._lock:
            try:
                self._bind(feeds, outputs)
                values = self._binding.get_outputs()
                return {name: OrtArray(self, value) for name, value in zip(outputs, values, strict=True)}
            finally:
                self._clear()

    def _bind(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> None:
        for name, array in feeds.items():
            if isinstance(array, OrtArray):
                self._binding.bind_ortvalue_input(name, array.value)
            elif isinstance(array, DeviceArray):
                array.wait()  # onnxruntime's stream is private: only the host can order work before it
                shape = list(array.shape)
                self._binding.bind_input(name, self._kind, self._number, array.dtype.type, shape, array.address)
            else:
                value = self._memory_for(name, array)
                value.update_inplace(array)
                self._binding.bind_ortvalue_input(name, value)
        for name in outputs:
            self._binding.bind_output(name, self._kind, self._number)
        self._session.run_with_iobinding(self._binding)

    def _memory_for(self, name: str, array: Array) -> Any:
        key = (name, array.shape)
        value = self._inputs.pop(key, None)
        if value is None:
            if len(self._inputs) >= KEPT_INPUTS:
                self._inputs.popitem(last=False)
            value = self._new(array)
        self._inputs[key] = value
        return value

    def _new(self, array: Array) -> Any:
        return self._ort.OrtValue.ortvalue_from_shape_and_type(
            list(array.shape), array.dtype.type, self._kind, self._number
        )

    def _clear(self) -> None:
        """Clear the bindings, which would otherwise be kept until the next run."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()

    def to_device(self, array: Array) -> DeviceArray:
        """Copy a host array to the device."""
        value = self._new(array)
        value.update_inplace(array)
        return OrtArray(self, value)

    def borrow(self, exporter: Exporter) -> DeviceArray:
        """Wrap another library's memory on this GPU as an array."""
        return borrow(exporter, self._gpu())

    def _gpu(self) -> DevicePool:
        with self._lock:
            if self._pool is None:
                self._pool = DevicePool(self._open_memory(self.device))
            return self._pool

    def session(self) -> Any:
        """Return the session, which must outlive arrays in its memory."""
        return self._session

    def before_lending(self) -> Callable[[], None]:
        """Return a function to call when another library releases the memory, before it is reused."""
        return (lambda: None) if self._kind == "cpu" else partial(_wait_for_all, self._gpu().memory)

    def close(self) -> None:
        """Release everything; arrays still in use keep the session's memory alive."""
        with self._lock:
            self._clear()
            self._inputs.clear()
            self._binding = self._session = None
            if self._pool is not None:
                self._pool.close()
                self._pool = None


class OrtArray(DeviceArray):
    """A complete output of onnxruntime on its device, which keeps its memory until closed."""

    def __init__(self, binding: OrtBinding, value: Any) -> None:
        dtype = np.dtype(ORT_DTYPES[value.data_type()])
        super().__init__(tuple(value.shape()), dtype, binding.device)
        self._value: Any = value
        self._binding = binding
        # The allocator of this memory belongs to the session, which may be closed earlier.
        self._keeps: Any = binding.session()

    @property
    def value(self) -> Any:
        """The ``OrtValue``."""
        if self._value is None:
            raise EngineError("this device array is closed", cure="Run the engine again")
        return self._value

    @property
    def address(self) -> int:
        """Device address."""
        return int(self.value.data_ptr())

    def wait(self) -> None:
        """Return immediately: onnxruntime has already waited."""

    def numpy(self) -> Array:
        """Copy the array to the host."""
        array: Array = self.value.numpy()
        return array if array.flags.owndata else array.copy()

    def hold(self) -> Callable[[], None]:
        """Keep the memory alive until the returned function is called."""
        held = [self.value, self._keeps]
        return held.clear

    def lend(self, stream: int | None) -> Callable[[], None]:
        """Lend the array to another library; the memory is reused once that library's GPU work is done."""
        del stream
        settle, release = self._binding.before_lending(), self.hold()

        def take_back() -> None:
            settle()
            release()

        return take_back

    def close(self) -> None:
        """Release the memory. Idempotent."""
        self._value = self._keeps = None


def _wait_for_all(memory: CudaMemory) -> None:
    with memory.current():
        memory.synchronise_all()


ORT_DTYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}
