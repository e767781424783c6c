"""Execution contexts of one plan: one for each set of shapes, with the CUDA graph of its work.

TensorRT forbids changing the shapes of a context from which a graph was captured, so each set of shapes has its own
where TensorRT lets contexts share memory; they take turns in it. Elsewhere a single context gets the new shapes and
drops its graph. The most recently used shapes are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from samedge.engines.cuda.buffers import TensorBuffers
from samedge.engines.cuda.memory import CudaMemory
from samedge.engines.tensorrt.plan import OpenPlan
from samedge.engines.tensorrt.protocols import ExecutionContext
from samedge.engines.tensorrt.repeated_work import RepeatedWork

KEPT_SHAPES: Final = 8
"""Sets of shapes with a context: 1, 2, 4, 8 and 16 single-point prompts, and some boxes. Each needs a few MB."""

Shapes = dict[str, tuple[int, ...]]
ShapesKey = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(slots=True, eq=False)
class ReadyContext:
    """A context with its shapes set.

    Attributes:
        context: TensorRT's context.
        work: Its execution, as a graph once repeated.
        outputs: Shapes of the outputs.
        profile: The optimisation profile in use.
        moves: State of the buffers whose addresses are set; -1 for none.
    """

    context: ExecutionContext
    work: RepeatedWork
    outputs: Shapes = field(default_factory=dict)
    profile: int = 0
    moves: int = -1


class Contexts:
    """The contexts of a plan. Call inside the GPU's context, from one thread at a time.

    Args:
        plan: The plan, which already has its first context.
        memory: The GPU.
        buffers: Buffers of the tensors.
        captures: True if repeated work becomes a graph.

    Raises:
        EngineError: There is not enough memory.
    """

    def __init__(self, plan: OpenPlan, memory: CudaMemory, buffers: TensorBuffers, *, captures: bool) -> None:
        self._plan = plan
        self._memory = memory
        self._buffers = buffers
        self._captures = captures
        self._ready: OrderedDict[ShapesKey, ReadyContext] = OrderedDict()
        self._spare: list[ReadyContext] = [self._ready_context(plan.context)]
        self._scratch: int | None = None
        self.limit = KEPT_SHAPES if plan.managed and captures else 1
        if plan.managed:
            self._scratch = memory.allocate(max(1, plan.scratch_bytes()))
            plan.give_memory(plan.context, self._scratch)

    def _ready_context(self, context: ExecutionContext) -> ReadyContext:
        return ReadyContext(context, RepeatedWork(self._memory, enabled=self._captures))

    def prepare(self, shapes: Shapes, stream: int) -> ReadyContext:
        """Return a context for these input shapes, with all addresses set."""
        key = tuple(sorted(shapes.items()))
        ready = self._ready.pop(key, None)
        if ready is None:
            # The context reused from other shapes, and its graph, may still be running.
            self._memory.synchronise(stream)
            ready = self._unused()
            self._set_shapes(ready, shapes, stream)
        try:
            self._set_addresses(ready, shapes, stream)
        except BaseException:
            self._memory.synchronise(stream)
            self._forget(ready)
            raise
        self._ready[key] = ready
        return ready

    def _unused(self) -> ReadyContext:
        if self._spare:
            return self._spare.pop()
        if len(self._ready) < self.limit:
            context = self._plan.new_context()
            if self._scratch is not None:
                self._plan.give_memory(context, self._scratch)
            return self._ready_context(context)
        _, oldest = self._ready.popitem(last=False)
        oldest.work.forget()
        return oldest

    def _set_shapes(self, ready: ReadyContext, shapes: Shapes, stream: int) -> None:
        try:
            profile = self._plan.profile_for(shapes)
            if profile != ready.profile:
                done = ready.context.set_optimization_profile_async(profile, stream)
                self._plan.require(done, f"cannot use its optimisation profile {profile}")
                self._memory.synchronise(stream)
                ready.profile = profile
            for name, shape in shapes.items():
                done = ready.context.set_input_shape(name, shape)
                self._plan.require(done, f"does not accept {name!r} of shape {shape}")
            missing = ready.context.infer_shapes()
            self._plan.require(not missing, f"cannot infer the shapes of its outputs without {', '.join(missing)}")
            ready.outputs = self._plan.output_shapes(ready.context)
            for name, shape in ready.outputs.items():
                self._plan.require(min(shape, default=0) >= 0, f"has an output {name!r} whose shape depends on values")
        except BaseException:
            self._forget(ready)
            raise

    def _set_addresses(self, ready: ReadyContext, shapes: Shapes, stream: int) -> None:
        sizes = {name: self._plan.nbytes(name, shape) for name, shape in {**shapes, **ready.outputs}.items()}
        growing = [name for name, size in sizes.items() if not self._buffers.fits(name, size)]
        if growing:
            self._memory.synchronise(stream)
            for name in growing:
                self._buffers.ensure(name, sizes[name])
        if ready.moves == self._buffers.moves:
            return
        if ready.moves >= 0:
            self._memory.synchronise(stream)  # its graph may be running
        ready.work.forget()
        for name in sizes:
            done = ready.context.set_tensor_address(name, self._buffers.address(name))
            self._plan.require(done, f"does not accept memory for {name!r}")
        ready.moves = self._buffers.moves

    def _forget(self, ready: ReadyContext) -> None:
        """Release a context for reuse with other shapes. None of its work may be in progress."""
        ready.work.forget()
        ready.moves = -1
        self._spare.append(ready)

    def close(self) -> None:
        """Release everything except the plan's own context. No work may be in progress."""
        for ready in (*self._ready.values(), *self._spare):
            ready.work.forget()
        self._ready.clear()
        self._spare.clear()
        if self._scratch is not None:
            scratch, self._scratch = self._scratch, None
            self._memory.free(scratch)
