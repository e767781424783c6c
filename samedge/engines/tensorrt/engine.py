"""TensorRT and TensorRT-RTX engines: plan files in, arrays in and out, on the host or on the GPU.

Each engine has one stream, reusable buffers, and a CUDA graph for each set of shapes, so that a steady-state call
allocates nothing and is one launch. Arrays that stay on the device pass between engines in event order, without the
host waiting. Engines share the GPU's primary context with each other and with torch; calls of one engine from several
threads are serialised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import ClassVar

from samedge.engines.cuda.borrowed import PooledEngine
from samedge.engines.cuda.buffers import StagedInputs, TensorBuffers
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.memory import CudaMemory
from samedge.engines.cuda.pool import DevicePool
from samedge.engines.cuda.providers import open_cuda
from samedge.engines.protocol import Availability, EngineOptions
from samedge.engines.tensorrt.api import Flavour, FlavourName, find_flavour
from samedge.engines.tensorrt.contexts import Contexts, Shapes
from samedge.engines.tensorrt.log import log_router
from samedge.engines.tensorrt.plan import open_plan
from samedge.errors import EngineError, SamedgeError
from samedge.types import Array, TensorSpec


class TensorRtEngine(PooledEngine):
    """One plan on one GPU.

    Args:
        path: The engine file: a raw plan, or one with Ultralytics' header.
        options: The device: "cuda", "cuda:1"; None for the first GPU. Threads are ignored.
        flavour: The TensorRT to use; None for the installed one.
        memory: The GPU's memory; None for the installed provider. Closed with the engine.

    Raises:
        BackendUnavailableError: TensorRT is not installed.
        DeviceUnavailableError: There is no driver, or no such GPU.
        EngineError: The plan cannot be opened on this machine, or would be unsafe to open.
    """

    flavour_name: ClassVar[FlavourName] = "tensorrt"
    keeps_on_device = True

    def __init__(
        self, path: Path, options: EngineOptions, *, flavour: Flavour | None = None, memory: CudaMemory | None = None
    ) -> None:
        self._flavour = find_flavour(self.flavour_name) if flavour is None else flavour
        self._memory = open_cuda(options.device) if memory is None else memory
        self._router = log_router(self._flavour.module)
        self._where = path.name
        self._lock = Lock()
        self._stream: int | None = None
        self._kept = False
        # RTX captures graphs itself: nesting another around them would fail.
        self._captures = self._memory.captures and not self._flavour.features.own_cuda_graphs
        try:
            with self._memory.current():
                self._plan = open_plan(path, self._flavour, self._memory.gpu)
                self._start()
        except BaseException:
            self._memory.close()
            raise

    def _start(self) -> None:
        """Create the resources that `close` releases; on failure, none."""
        memory, plan = self._memory, self._plan
        self._buffers = TensorBuffers(memory, plan.largest_bytes())
        self._contexts = Contexts(plan, memory, self._buffers, captures=self._captures)
        try:
            self._stream = memory.create_stream()
            self._staged = StagedInputs(memory, self._buffers)
        except BaseException:
            self._contexts.close()
            if self._stream is not None:
                memory.destroy_stream(self._stream)
            raise
        self._pool = DevicePool(memory)

    @classmethod
    def probe(cls) -> Availability:
        """Report whether this TensorRT, the CUDA bindings, the driver and a GPU are present."""
        try:
            flavour = find_flavour(cls.flavour_name)
            memory = open_cuda()
        except SamedgeError as error:
            return Availability(False, error.what, error.cure)
        gpu = memory.gpu
        with memory.current():
            pass
        memory.close()
        targets = flavour.features.compute_capabilities
        if targets and gpu.target not in targets:
            return Availability(
                False,
                f"{flavour} does not run on {gpu}: it supports {', '.join(targets)}",
                "Use TensorRT itself (backend 'tensorrt'), or onnxruntime with device 'cuda'",
            )
        return Availability(True, f"{flavour} on {gpu} through {memory.provider}", devices=("cuda",))

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Input name to shape and dtype."""
        return self._plan.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Output name to shape and dtype."""
        return self._plan.outputs

    @property
    def device(self) -> str:
        """Device actually used."""
        return f"cuda:{self._memory.gpu.index}"

    @property
    def array_device(self) -> str:
        """Device of its arrays."""
        return self.device

    @property
    def details(self) -> Mapping[str, str]:
        """Versions, GPU, memory provider, and facts from the sidecar."""
        details = {
            self._flavour.name: self._flavour.version,
            "gpu": str(self._memory.gpu),
            "memory": self._memory.provider,
            "cuda graphs": "by the runtime"
            if self._flavour.features.own_cuda_graphs
            else (f"{self._contexts.limit}, one for each set of shapes" if self._captures else "no"),
        }
        sidecar = self._plan.sidecar
        if sidecar is not None:
            details["precision"] = sidecar.key.precision
            details["fused attentions"] = str(sidecar.report.fused_attentions)
        return details

    @property
    def axis_limits(self) -> Mapping[str, tuple[int, int]]:
        """Name of each free axis to the smallest and largest size that the engine was built for."""
        return self._plan.axis_limits

    def run(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the plan. Feeds may be on the host or on this GPU."""
        with self._running(feeds) as (stream, shapes):
            for name in outputs:
                self._buffers.fetch(name, self._plan.nbytes(name, shapes[name]), stream)
            self._memory.synchronise(stream)
            self._staged.release()
            return {name: self._buffers.read(name, shapes[name], self._plan.outputs[name].dtype) for name in outputs}

    def run_on_device(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Queue the plan on the GPU and return its outputs there, complete once the stream reaches them.

        The arrays keep their memory until they are closed or garbage-collected.
        """
        results: dict[str, DeviceArray] = {}
        with self._running(feeds) as (stream, shapes):
            for name in outputs:
                result = self._pool.allocate(shapes[name], self._plan.outputs[name].dtype)
                self._buffers.copy_to(name, result.address, result.nbytes, stream)
                result.mark_written(stream)
                results[name] = result
        return results

    @contextmanager
    def _running(self, feeds: Mapping[str, Array | DeviceArray]) -> Iterator[tuple[int, Shapes]]:
        """Queue feeds and work on the stream; inside the block outputs can be copied out in stream order."""
        shapes = {name: array.shape for name, array in feeds.items()}
        self._plan.profile_for(shapes)
        with self._lock, self._memory.current(), self._router.to(self._plan.log):
            stream = self._open_stream()
            self._plan.log.errors.clear()
            self._staged.begin()
            try:
                ready = self._contexts.prepare(shapes, stream)
                self._staged.feed(feeds, stream)
                worked = ready.work.run(lambda: ready.context.execute_async_v3(stream), stream)
                self._plan.require(worked, "failed while running")
                yield stream, ready.outputs
                self._keep_compiled()
            except BaseException:
                # Queued work must not touch memory that the caller is about to reclaim.
                self._memory.synchronise(stream)
                self._staged.invalidate()
                raise

    def _keep_compiled(self) -> None:
        """Save the kernels compiled on this GPU after the first run: cameras are switched off, not closed."""
        if not self._kept:
            self._kept = True
            self._plan.save_cache()

    def close(self) -> None:
        """Release the plan, its memory and its stream."""
        with self._lock, self._memory.current(), self._router.to(self._plan.log):
            stream = self._open_stream()
            self._stream = None
            self._memory.synchronise(stream)
            self._staged.release()
            self._plan.save_cache()
            self._contexts.close()
            self._buffers.release()
            self._staged.close()
            self._memory.destroy_stream(stream)
            # The order matters: a context must not outlive its engine's memory, nor the engine its runtime.
            del self._plan.context
            del self._plan.engine
            self._plan.keeps.clear()
            self._plan.cache = None
        self._pool.close()

    def _open_stream(self) -> int:
        if self._stream is None:
            raise EngineError("this engine is closed", where=self._where, cure="Open it again before running it")
        return self._stream


class TensorRtRtxEngine(TensorRtEngine):
    """One plan of TensorRT for RTX on one GPU."""

    flavour_name = "tensorrt-rtx"
