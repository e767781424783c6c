"""Engines of TensorRT and of TensorRT for RTX: plan files in, arrays in and out, on the host or on the GPU.

One stream for each engine, buffers that are reused, and a CUDA graph while the shapes stay, so that a call in the
steady state allocates nothing and gives the GPU one thing to do. Engines of one process share the GPU's primary
context with torch and with each other; calls of one engine from several threads take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from threading import Lock
from typing import ClassVar

from samedge.engines.cuda_memory import CudaMemory, open_cuda
from samedge.engines.device_array import DeviceArray, DevicePool
from samedge.engines.protocol import Availability, EngineOptions
from samedge.engines.repeated_work import RepeatedWork
from samedge.engines.tensorrt_api import Flavour, FlavourName, find_flavour
from samedge.engines.tensorrt_buffers import TensorBuffers
from samedge.engines.tensorrt_log import log_router
from samedge.engines.tensorrt_plan import open_plan
from samedge.errors import EngineError, SamedgeError, TensorMismatchError
from samedge.types import Array, TensorSpec

Shapes = dict[str, tuple[int, ...]]


class TensorRtEngine:
    """One plan on one GPU.

    Args:
        path: The engine file: a raw plan, or one with Ultralytics' header.
        options: The device: "cuda", "cuda:1"; None for the first GPU. Threads mean nothing here.
        flavour: The TensorRT that runs it; None for the installed one.
        memory: The GPU's memory; None for the installed provider. It is closed with the engine.

    Raises:
        BackendUnavailableError: TensorRT is not installed.
        DeviceUnavailableError: There is no driver, or no such GPU.
        EngineError: The plan must not or cannot be opened here.
    """

    flavour_name: ClassVar[FlavourName] = "tensorrt"

    def __init__(
        self,
        path: Path,
        options: EngineOptions,
        *,
        flavour: Flavour | None = None,
        memory: CudaMemory | None = None,
    ) -> None:
        self._flavour = find_flavour(self.flavour_name) if flavour is None else flavour
        self._memory = open_cuda(options.device) if memory is None else memory
        self._router = log_router(self._flavour.module)
        self._where = path.name
        self._lock = Lock()
        self._ready: tuple[Shapes, Shapes] | None = None  # inputs and outputs that TensorRT was told
        self._stream: int | None = None
        try:
            with self._memory.current():
                self._plan = open_plan(path, self._flavour, self._memory.gpu)
                self._buffers = TensorBuffers(self._memory, self._plan.largest_bytes())
                self._stream = self._memory.create_stream()
                self._pool = DevicePool(self._memory)
        except BaseException:
            self._memory.close()
            raise
        # RTX captures by itself: a second graph around its own would fail.
        captures = self._memory.captures and not self._flavour.features.own_cuda_graphs
        self._work = RepeatedWork(self._memory, enabled=captures)

    @classmethod
    def probe(cls) -> Availability:
        """Whether this TensorRT, the CUDA bindings, the driver and a GPU are there."""
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
        if targets and f"sm{gpu.compute_capability.replace('.', '')}" not in targets:
            return Availability(
                False,
                f"{flavour} does not run on {gpu}: it knows {', '.join(targets)}",
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
        """The device really used."""
        return f"cuda:{self._memory.gpu.index}"

    @property
    def details(self) -> Mapping[str, str]:
        """Versions, GPU, provider of the memory, and what the sidecar tells."""
        details = {
            self._flavour.name: self._flavour.version,
            "gpu": str(self._memory.gpu),
            "memory": self._memory.provider,
            "cuda graphs": "by the runtime"
            if self._flavour.features.own_cuda_graphs
            else ("while shapes stay" if self._work.enabled else "no"),
        }
        sidecar = self._plan.sidecar
        if sidecar is not None:
            details["precision"] = sidecar.key.precision
            details["fused attentions"] = str(sidecar.report.fused_attentions)
        return details

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Runs the plan.

        Raises:
            TensorMismatchError: A shape is outside of the engine's profile.
            EngineError: TensorRT or CUDA failed.
        """
        with self._running(feeds) as (stream, shapes):
            for name in outputs:
                self._buffers.fetch(name, self._nbytes(name, shapes[name]), stream)
            self._memory.synchronise(stream)
            return {name: self._buffers.take(name, shapes[name], self._plan.outputs[name].dtype) for name in outputs}

    def run_on_device(self, feeds: Mapping[str, Array | DeviceArray], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Runs the plan and leaves the outputs on the GPU; arrays that lie there already are taken as feeds too.

        The arrays are complete when this returns. They keep their memory until they are closed or forgotten.

        Raises:
            TensorMismatchError: A shape is outside of the engine's profile, or a feed lies on another GPU.
            EngineError: TensorRT or CUDA failed.
        """
        results: dict[str, DeviceArray] = {}
        with self._running(feeds) as (stream, shapes):
            for name in outputs:
                results[name] = self._pool.take(shapes[name], self._plan.outputs[name].dtype)
                self._buffers.copy_to(name, results[name].address, results[name].nbytes, stream)
        return results

    @contextmanager
    def _running(self, feeds: Mapping[str, Array | DeviceArray]) -> Iterator[tuple[int, Shapes]]:
        """Gives feeds and work to the stream; inside the block outputs can be copied away, after it all is done."""
        self._check_feeds(feeds)
        with self._lock, self._memory.current(), self._router.to(self._plan.log):
            stream = self._open_stream()
            self._plan.log.errors.clear()
            try:
                shapes = self._prepare(feeds)
                for name, array in feeds.items():
                    if isinstance(array, DeviceArray):
                        self._buffers.copy_from(name, array.address, array.nbytes, stream)
                    else:
                        self._buffers.send(name, array, stream)
                worked = self._work.run(lambda: self._plan.context.execute_async_v3(stream), stream)
                self._require(worked, "failed while running")
                yield stream, shapes
            finally:
                # Also after a failure: what was started must not run into memory that the caller takes back.
                self._memory.synchronise(stream)

    def close(self) -> None:
        """Frees the plan, its memory and its stream."""
        with self._lock, self._memory.current(), self._router.to(self._plan.log):
            stream = self._open_stream()
            self._memory.synchronise(stream)
            self._plan.save_cache()
            self._work.forget()
            self._buffers.release()
            self._memory.destroy_stream(stream)
            self._stream = None
            # In this order: a context must not outlive its engine's memory, nor the engine its runtime.
            del self._plan.context
            del self._plan.engine
            self._plan.keeps.clear()
        self._pool.close()

    def _open_stream(self) -> int:
        if self._stream is None:
            raise EngineError("this engine was closed", where=self._where)
        return self._stream

    def _check_feeds(self, feeds: Mapping[str, Array | DeviceArray]) -> None:
        for name, array in feeds.items():
            if isinstance(array, DeviceArray):
                self._check_device_array(name, array)
        self._plan.check_ranges({name: array.shape for name, array in feeds.items()}, self._where)

    def _check_device_array(self, name: str, array: DeviceArray) -> None:
        """Arrays of the host were checked by `Engine`."""
        spec = self._plan.inputs[name]
        if array.dtype != spec.dtype or not spec.accepts(array.shape):
            raise TensorMismatchError(
                f"input {name!r} is {array.spec}, and the graph takes {spec}",
                where=self._where,
                have=array.spec,
                want=spec,
            )
        if array.device != self._memory.gpu.index:
            raise TensorMismatchError(
                f"input {name!r} lies on cuda:{array.device}, and this engine runs on {self.device}",
                where=self._where,
                cure="Open both engines on one GPU, or feed array.numpy()",
            )

    def _prepare(self, feeds: Mapping[str, Array | DeviceArray]) -> Shapes:
        """Tells TensorRT shapes and addresses if they changed; returns the outputs' shapes."""
        inputs = {name: array.shape for name, array in feeds.items()}
        if self._ready is not None and self._ready[0] == inputs:
            return self._ready[1]
        self._ready = None
        self._work.forget()
        context = self._plan.context
        for name, array in feeds.items():
            self._require(context.set_input_shape(name, array.shape), f"takes no {name!r} of shape {array.shape}")
            self._require(context.set_tensor_address(name, self._buffers.ensure(name, array.nbytes)), "has no memory")
        missing = context.infer_shapes()
        self._require(not missing, f"cannot tell the shapes of its outputs without {', '.join(missing)}")
        outputs = self._plan.output_shapes()
        for name, shape in outputs.items():
            self._require(min(shape, default=0) >= 0, f"has an output {name!r} whose shape depends on values")
            address = self._buffers.ensure(name, self._nbytes(name, shape))
            self._require(context.set_tensor_address(name, address), "has no memory")
        self._ready = (inputs, outputs)
        return outputs

    def _nbytes(self, name: str, shape: tuple[int, ...]) -> int:
        return prod(shape) * self._plan.outputs[name].dtype.itemsize

    def _require(self, worked: bool, what: str) -> None:
        if worked:
            return
        said = self._plan.log.errors[-1][:400] if self._plan.log.errors else "TensorRT did not say why"
        raise EngineError(
            f"the engine {what}: {said}", where=self._where, cure="Build the engine again, or report this", said=said
        )


class TensorRtRtxEngine(TensorRtEngine):
    """One plan of TensorRT for RTX on one GPU."""

    flavour_name = "tensorrt-rtx"
