"""onnxruntime sessions on a stream of our own: pinned host copies, and results that stay on the GPU.

The session is opened with that stream, so copies, kernels and other engines' events share one order, and the host waits
only for what it fetches. Inputs have persistent buffers. Outputs come from the session's arena, which keeps its GPU
memory, and are copied out in stream order: to pinned memory or to the pool.
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
    """A CUDA stream for a session yet to be opened.

    Attributes:
        memory: The GPU.
        number: The stream.
    """

    memory: CudaMemory
    number: int

    def provider_options(self) -> dict[str, str]:
        """Return the CUDA provider options that select this stream."""
        return {"has_user_compute_stream": "1", "user_compute_stream": str(self.number)}

    def accepted_by(self, session: Any, provider: str) -> bool:
        """Return True if the session reports using this stream."""
        options: Mapping[str, str] = session.get_provider_options().get(provider, {})
        return options.get("user_compute_stream") == str(self.number)

    def close(self) -> None:
        """Destroy the stream and release the GPU, after the session is gone."""
        with self.memory.current():
            self.memory.destroy_stream(self.number)
        self.memory.close()


def open_stream(device: str, *, open_memory: Callable[[str], CudaMemory] = open_cuda) -> OwnStream | str:
    """Open a stream on a GPU, or return the reason if the CUDA bindings are missing or fail."""
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
    """One session on its own stream, and its memory. Calls from several threads are serialised.

    Args:
        ort: The onnxruntime module.
        session: The session, opened on the stream.
        stream: The stream; closed with this object.
        all_on_gpu: True if every node has a CUDA kernel. Otherwise onnxruntime copies between nodes and the host on
            unknown streams, so the host waits before and after each run.

    Raises:
        EngineError: CUDA failed; the caller still owns the stream.
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
        """Run the graph and copy outputs to the host."""
        with self._running(feeds, outputs) as (stream, results):
            for name, left in results.items():
                self._buffers.fetch_from(name, left.address, left.nbytes, stream)
            self._memory.synchronise(stream)
            self._staged.release()
            return {name: self._buffers.read(name, left.shape, left.dtype) for name, left in results.items()}

    def run_on_device(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Queue the graph on the GPU and return its outputs there, complete once the stream reaches them."""
        arrays: dict[str, DeviceArray] = {}
        with self._running(feeds, outputs) as (stream, results):
            for name, left in results.items():
                array = self._pool.allocate(left.shape, left.dtype)
                if array.nbytes:
                    self._memory.copy_across(array.address, left.address, array.nbytes, stream)
                array.mark_written(stream)
                arrays[name] = array
        return arrays

    @contextmanager
    def _running(
        self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, _ArenaOutput]]]:
        """Queue feeds and work on the stream; inside the block outputs can be copied out in stream order."""
        with self._lock, self._memory.current():
            stream = self._open_stream()
            self._staged.begin()
            try:
                self._make_room(feeds, stream)
                self._staged.feed(feeds, stream)
                yield stream, self._bind(feeds, outputs, stream)
            except BaseException:
                # Queued work must not touch memory that is about to be released.
                self._memory.synchronise(stream)
                self._staged.invalidate()
                raise
            finally:
                # The arena reuses this memory only for later work on the same stream.
                self._clear()

    def _make_room(self, feeds: Mapping[str, Array | DeviceArray], stream: int) -> None:
        growing = [name for name, array in feeds.items() if not self._buffers.fits(name, array.nbytes)]
        if growing:
            self._memory.synchronise(stream)
            for name in growing:
                self._buffers.ensure(name, feeds[name].nbytes)

    def _bind(
        self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str], stream: int
    ) -> dict[str, _ArenaOutput]:
        number = self._memory.gpu.index
        for name, array in feeds.items():
            address = self._buffers.address(name)
            self._binding.bind_input(name, "cuda", number, array.dtype.type, list(array.shape), address)
        for name in outputs:
            self._binding.bind_output(name, "cuda", number)
        if not self._all_on_gpu:
            self._memory.synchronise(stream)
        self._session.run_with_iobinding(self._binding, self._run_options)
        return {name: _arena_output(value) for name, value in zip(outputs, self._binding.get_outputs(), strict=True)}

    def _clear(self) -> None:
        """Clear the bindings, which would otherwise be kept until the next run."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()

    def close(self) -> None:
        """Finish the work, then release bindings, memory and stream; arrays in use keep theirs. Idempotent.

        The caller releases the session first: it must not outlive the stream.
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
            raise EngineError("this engine is closed", cure="Open it again before running it")
        return self._stream.number


@dataclass(frozen=True, slots=True)
class _ArenaOutput:
    """An output in the session's arena, valid until the bindings are cleared."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def _arena_output(value: Any) -> _ArenaOutput:
    return _ArenaOutput(int(value.data_ptr()), tuple(value.shape()), np.dtype(ORT_DTYPES[value.data_type()]))
