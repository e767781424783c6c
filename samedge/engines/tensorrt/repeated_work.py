"""GPU work that is often repeated as it is: recorded as a CUDA graph the second time, and replayed from then on.

TensorRT forbids to touch an execution context from which a graph was captured, so that there is one graph at a time:
the owner forgets it before it changes shapes or addresses.
"""

from __future__ import annotations

from collections.abc import Callable

from samedge.engines.cuda.memory import CudaMemory


class RepeatedWork:
    """Work for one stream. Called inside the memory's context.

    Args:
        memory: The GPU.
        enabled: Whether to capture at all.
    """

    def __init__(self, memory: CudaMemory, *, enabled: bool) -> None:
        self._memory = memory
        self._graph: int | None = None
        self._repeats = 0
        self.enabled = enabled

    def run(self, work: Callable[[], bool], stream: int) -> bool:
        """Give the work to the stream; returns whether that worked.

        The first time it is called directly, because TensorRT prepares itself for new shapes in that call. Work that
        cannot be captured once is not tried again.
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
        """Drop the graph: the work is about to change. None of it may be under way."""
        self._repeats = 0
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._memory.destroy_graph(graph)
