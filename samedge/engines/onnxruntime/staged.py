"""onnxruntime's sessions on a stream of ours: pinned memory to and from the host, and results that stay on the GPU.

The session is opened with that stream, so that copies, its kernels, and other engines' events have one order, and the
host waits only for what it takes back. Inputs have buffers that stay. Outputs come from the session's arena, which
keeps what it took from the GPU, and are copied away in the order of the stream: to pinned memory, or to the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from samedge.engines.cuda.borrowed import PooledEngine
from samedge.engines.cuda.buffers import StagedInputs, TensorBuffers
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.memory import CudaMemory
from samedge.engines.cuda.pool import DevicePool
from samedge.engines.cuda.providers import open_cuda
from samedge.engines.onnxruntime.binding import ORT_DTYPES
from samedge.errors import EngineError, SamedgeError
from samedge.types import Array


@dataclass(frozen=True, slots=True)
class OwnStream:
    """A stream for a session that is still to be opened.

    Attributes:
        memory: The GPU.
        number: The stream.
    """

    memory: CudaMemory
    number: int

    def provider_options(self) -> dict[str, str]:
        """What tells onnxruntime's CUDA provider to work on it."""
        return {"has_user_compute_stream": "1", "user_compute_stream": str(self.number)}

    def taken_by(self, session: Any, provider: str) -> bool:
        """Whether a session says that it works on it."""
        options: Mapping[str, str] = session.get_provider_options().get(provider, {})
        return options.get("user_compute_stream") == str(self.number)

    def close(self) -> None:
        """End the stream and let go of the GPU; the session is gone."""
        with self.memory.current():
            self.memory.destroy_stream(self.number)
        self.memory.close()


def open_stream(device: str, *, open_memory: Callable[[str], CudaMemory] = open_cuda) -> OwnStream | str:
    """Open a GPU and a stream there; return why not where the CUDA bindings are missing or do not work.

    Raises:
        EngineError: CUDA failed.
    """
    try:
        memory = open_memory(device)
    except SamedgeError as error:
        return error.what
    try:
        with memory.current():
            return OwnStream(memory, memory.create_stream())
    except BaseException:
        memory.close()
        raise


class OrtStaged(PooledEngine):
    """One session on a stream of ours, and its memory. Threads take turns.

    Args:
        ort: The module onnxruntime.
        session: The session; it works on the stream.
        stream: The stream; closed with this.
        all_on_gpu: Whether every node of the graph has a kernel of CUDA. Otherwise onnxruntime copies between them and
            the host on streams that are not known here: then the host waits before and after each run.

    Raises:
        EngineError: CUDA failed; the stream is still the caller's.
    """

    def __init__(self, ort: Any, session: Any, stream: OwnStream, *, all_on_gpu: bool) -> None:
        memory = stream.memory
        self._session = session
        self._stream: OwnStream | None = stream
        self._memory = memory
        self._all_on_gpu = all_on_gpu
        self._run_options = ort.RunOptions()
        if all_on_gpu:
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._binding = session.io_binding()
        self.device = f"cuda:{memory.gpu.index}"
        self._lock = Lock()
        self._buffers = TensorBuffers(memory, {})
        with memory.current():
            self._staged = StagedInputs(memory, self._buffers)
        self._pool = DevicePool(memory)

    def run(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph and copy outputs to the host.

        Raises:
            EngineError: CUDA failed, an array was closed, or this was.
        """
        with self._running(feeds, outputs) as (stream, results):
            for name, left in results.items():
                self._buffers.fetch_from(name, left.address, left.nbytes, stream)
            self._memory.synchronise(stream)
            self._staged.let_go()
            return {name: self._buffers.take(name, left.shape, left.dtype) for name, left in results.items()}

    def run_on_device(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Give the graph to the GPU and returns arrays there, which are complete when it has come to them.

        Raises:
            EngineError: CUDA failed, an array was closed, or this was.
        """
        arrays: dict[str, DeviceArray] = {}
        with self._running(feeds, outputs) as (stream, results):
            for name, left in results.items():
                array = self._pool.take(left.shape, left.dtype)
                if array.nbytes:
                    self._memory.copy_across(array.address, left.address, array.nbytes, stream)
                array.wrote(stream)
                arrays[name] = array
        return arrays

    @contextmanager
    def _running(
        self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, _Left]]]:
        """Give feeds and work to the stream; inside the block outputs can be copied away, after it all is done."""
        with self._lock, self._memory.current():
            stream = self._open_stream()
            self._staged.begin()
            try:
                self._make_room(feeds, stream)
                self._staged.feed(feeds, stream)
                yield stream, self._give(feeds, outputs, stream)
            except BaseException:
                # What was started must not run into memory that is taken back.
                self._memory.synchronise(stream)
                self._staged.forget()
                raise
            finally:
                # The arena gives this memory to later work of the same stream only.
                self._clear()

    def _make_room(self, feeds: Mapping[str, Array | DeviceArray], stream: int) -> None:
        growing = [name for name, array in feeds.items() if not self._buffers.fits(name, array.nbytes)]
        if growing:
            self._memory.synchronise(stream)
            for name in growing:
                self._buffers.ensure(name, feeds[name].nbytes)

    def _give(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str], stream: int) -> dict[str, _Left]:
        number = self._memory.gpu.index
        for name, array in feeds.items():
            address = self._buffers.address(name)
            self._binding.bind_input(name, "cuda", number, array.dtype.type, list(array.shape), address)
        for name in outputs:
            self._binding.bind_output(name, "cuda", number)
        if not self._all_on_gpu:
            self._memory.synchronise(stream)
        self._session.run_with_iobinding(self._binding, self._run_options)
        return {name: _left(value) for name, value in zip(outputs, self._binding.get_outputs(), strict=True)}

    def _clear(self) -> None:
        """Let go of what was bound: it would be kept until the next run."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()

    def close(self) -> None:
        """End the work, the session's bindings, memory and stream; arrays in use keep theirs. May be called twice.

        The caller forgets the session before: it must not outlive the stream.
        """
        with self._lock:
            if self._stream is None:
                return
            with self._memory.current():
                stream, self._stream = self._stream.number, None
                self._memory.synchronise(stream)
                self._clear()
                self._binding = self._session = None
                self._staged.close()
                self._buffers.release()
                self._memory.destroy_stream(stream)
        self._pool.close()

    def _open_stream(self) -> int:
        if self._stream is None:
            raise EngineError("this engine was closed")
        return self._stream.number


@dataclass(frozen=True, slots=True)
class _Left:
    """Where a run left an output: in the session's arena, until the binding lets go of it."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def _left(value: Any) -> _Left:
    return _Left(int(value.data_ptr()), tuple(value.shape()), np.dtype(ORT_DTYPES[value.data_type()]))
