"""Repeated GPU work: recorded as a CUDA graph the second time, and replayed from then on.

TensorRT forbids touching an execution context from which a graph was captured, so there is one graph at a time, which
the owner drops before changing shapes or addresses.
"""

from __future__ import annotations

from collections.abc import Callable

from samedge.engines.cuda.memory import CudaMemory


class RepeatedWork:
    """Work for one stream. Call inside the memory's context.

    Args:
        memory: The GPU.
        enabled: False disables capturing.
    """

    def __init__(self, memory: CudaMemory, *, enabled: bool) -> None:
        self._memory = memory
        self._graph: int | None = None
        self._repeats = 0
        self.enabled = enabled

    def run(self, work: Callable[[], bool], stream: int) -> bool:
        """Queue the work on the stream; return False if that failed.

        The first time it is called directly, because TensorRT prepares for new shapes in that call. Work that cannot be
        captured is not captured again.
        """
        if self._graph is None and self.enabled and self._repeats > 0:
            self._graph = self._memory.capture(stream, work)
            self.enabled = self._graph is not None
        self._repeats += 1
        if self._graph is None:
            return work()
        self._memory.launch(self._graph, stream)
        return True

    def forget(self) -> None:
        """Drop the graph because the work is about to change. None of it may be in progress."""
        self._repeats = 0
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._memory.destroy_graph(graph)
