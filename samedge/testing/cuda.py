# ruff: noqa: D102 - methods without a docstring are documented by `CudaMemory`
"""A GPU simulated in Python, for testing everything that manages device memory.

    cuda = FakeCuda()
    with cuda.current():
        address = cuda.allocate(16)
        ...
    cuda.check()    # raises CudaMisuseError if something was not freed

Work on streams is deferred until a synchronisation, in the order of each stream, so a result read too early is missing.
Mistakes that seldom show on a real GPU are errors here: leaks, double frees, use after free, memory freed during a
copy, pinned memory touched during a copy, a graph destroyed while it is running, two streams on the same memory without
an event between them, and calls outside the context. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from threading import RLock, local
from typing import cast

import numpy as np
from numpy.typing import NDArray

from samedge.engines.cuda.memory import ALIGNMENT, LEGACY_STREAM, Gpu, PinnedBuffer, out_of_memory
from samedge.testing.cuda_state import CudaMisuseError, FakeMemory, FakePinned, FakeStream, FakeWork, one_at_a_time

_POISON = 0xA5
_GAP = 1 << 16
_FIRST = 16  # numbers below are CUDA's names for its own streams


@one_at_a_time
class FakeCuda:
    """A `CudaMemory` simulated in Python that detects misuse.

    Args:
        memory_bytes: Size of the GPU's memory.
        gpu: The reported properties.
        captures: True if work can be captured as a graph.

    Attributes:
        allocations: Number of device and pinned allocations so far.
        captured: Number of captured graphs so far.
        launches: Number of launched graphs so far.
        calls: Names of the methods called so far.
    """

    provider = "fake"

    def __init__(self, *, memory_bytes: int = 1 << 30, gpu: Gpu | None = None, captures: bool = True) -> None:
        self.gpu = gpu or Gpu(0, "Fake GPU", "8.6", 16, memory_bytes)
        self.captures = captures
        self.allocations = 0
        self.captured = 0
        self.launches = 0
        self.lock = RLock()
        self.calls: list[str] = []
        self.closed = False
        self._limit = memory_bytes
        self._numbers = count(_FIRST)
        self._next_address = 1 << 32
        self._device: dict[int, FakeMemory] = {}
        self._freed: set[int] = set()
        self._pinned: list[FakeMemory] = []
        self._streams: dict[int, FakeStream] = {LEGACY_STREAM: FakeStream()}
        self._events: dict[int, dict[int, int] | None] = {}
        self._graphs: dict[int, list[FakeWork]] = {}
        self._launched: dict[int, list[FakeWork]] = {}
        self._thread = local()

    # Context

    @contextmanager
    def current(self) -> Iterator[None]:
        self._thread.depth = self._depth + 1
        try:
            yield
        finally:
            self._thread.depth -= 1

    @property
    def _depth(self) -> int:
        return int(getattr(self._thread, "depth", 0))

    @property
    def _recording(self) -> tuple[int, list[FakeWork]] | None:
        """Capture in progress on this thread; other threads may allocate and wait meanwhile."""
        return getattr(self._thread, "recording", None)

    def _enter(self, name: str, *, recordable: bool = False) -> None:
        self.calls.append(name)
        if self.closed:
            raise CudaMisuseError(f"{name} after close")
        if not self._depth:
            raise CudaMisuseError(f"{name} outside the context: call it inside `with memory.current()`")
        if self._recording is not None and not recordable:
            raise CudaMisuseError(f"{name} while work is captured as a graph")

    def close(self) -> None:
        """End the context.

        Raises:
            CudaMisuseError: It is already closed, or something is left in it.
        """
        if self.closed:
            raise CudaMisuseError("the context is closed twice")
        self.check()
        self.closed = True

    def check(self) -> None:
        """Verify that everything was freed.

        Raises:
            CudaMisuseError: Something was not; it is named.
        """
        if leaks := self.leaks():
            raise CudaMisuseError(f"not freed: {', '.join(leaks)}")

    def leaks(self) -> list[str]:
        """Return what was not freed."""
        return [
            *(memory.name for memory in self._device.values()),
            *(memory.name for memory in self._pinned),
            *(f"stream {stream}" for stream in self._streams if stream >= _FIRST),
            *(f"event {event}" for event in self._events),
            *(f"graph {graph}" for graph in self._graphs),
        ]

    # Memory

    def free_bytes(self) -> int:
        self._enter("free_bytes")
        return self._limit - sum(memory.data.nbytes for memory in self._device.values())

    def allocate(self, nbytes: int) -> int:
        self._enter("allocate")
        if nbytes > self.free_bytes():
            raise out_of_memory("GPU memory", nbytes)
        address = self._next_address
        self._next_address += -(-nbytes // ALIGNMENT) * ALIGNMENT + _GAP
        self._device[address] = self._new_memory("device", nbytes)
        return address

    def _new_memory(self, kind: str, nbytes: int) -> FakeMemory:
        self.allocations += 1
        data = np.full(max(1, nbytes), _POISON, np.uint8)
        return FakeMemory(f"{kind} memory {self.allocations} of {nbytes} bytes", data)

    def free(self, address: int) -> None:
        self._enter("free")
        if address in self._freed:
            raise CudaMisuseError(f"address {address:#x} is freed twice")
        if address not in self._device:
            raise CudaMisuseError(f"address {address:#x} was never allocated")
        self._end(self._device.pop(address))
        self._freed.add(address)

    def pin(self, nbytes: int) -> PinnedBuffer:
        self._enter("pin")
        memory = self._new_memory("pinned", nbytes)
        self._pinned.append(memory)
        return FakePinned(memory)

    def unpin(self, buffer: PinnedBuffer) -> None:
        self._enter("unpin")
        memory = cast("FakePinned", buffer).memory
        if memory not in self._pinned:
            raise CudaMisuseError(f"{memory.name} is freed twice")
        self._end(memory)
        self._pinned.remove(memory)

    def _end(self, memory: FakeMemory) -> None:
        if memory.pending:
            raise CudaMisuseError(f"{memory.name} is freed while {memory.pending[0].name} still needs it")
        memory.alive = False
        memory.data[:] = _POISON

    def _at(self, address: int, nbytes: int) -> tuple[FakeMemory, int]:
        for start, memory in self._device.items():
            if start <= address < start + memory.data.nbytes:
                if address - start + nbytes > memory.data.nbytes:
                    raise CudaMisuseError(f"{nbytes} bytes at {address:#x} reach beyond {memory.name}")
                return memory, address - start
        state = "was freed" if address in self._freed else "was never allocated"
        raise CudaMisuseError(f"address {address:#x} {state}")

    def device_bytes(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Return device memory as a kernel sees it. Call it only from within work."""
        memory, offset = self._at(address, nbytes)
        return memory.data[offset : offset + nbytes]

    # Work

    def copy_in(self, address: int, buffer: PinnedBuffer, nbytes: int, stream: int) -> None:
        host = cast("FakePinned", buffer).memory
        memory, offset = self._at(address, nbytes)
        target = memory.data[offset : offset + nbytes]
        self._queue_work("copy_in", stream, lambda: np.copyto(target, host.data[:nbytes]), [host], [memory])

    def copy_out(self, buffer: PinnedBuffer, address: int, nbytes: int, stream: int) -> None:
        host = cast("FakePinned", buffer).memory
        memory, offset = self._at(address, nbytes)
        host.data[:] = _POISON  # until then, an earlier view sees garbage
        source = memory.data[offset : offset + nbytes]
        self._queue_work("copy_out", stream, lambda: np.copyto(host.data[:nbytes], source), [memory], [host])

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self.run_kernel(
            "copy_across",
            stream,
            lambda: np.copyto(self.device_bytes(target, nbytes), self.device_bytes(source, nbytes)),
            reads=[(source, nbytes)],
            writes=[(target, nbytes)],
        )

    def run_kernel(
        self,
        name: str,
        stream: int,
        do: Callable[[], None],
        *,
        reads: Sequence[tuple[int, int]],
        writes: Sequence[tuple[int, int]],
    ) -> None:
        """Queue work of a fake runtime on a stream.

        Args:
            name: Its name in error messages.
            stream: The stream.
            do: The work, which accesses memory through `device_bytes`.
            reads: Addresses and sizes that it reads.
            writes: Addresses and sizes that it writes.
        """
        read, written = ([self._at(*place)[0] for place in places] for places in (reads, writes))
        self._queue_work(name, stream, do, read, written)

    def _queue_work(
        self, name: str, stream: int, do: Callable[[], None], reads: Sequence[FakeMemory], writes: Sequence[FakeMemory]
    ) -> FakeWork:
        self._enter(name, recordable=True)
        queue = self._stream(stream)
        work = FakeWork(name, do, tuple(reads), tuple(writes), stream, next(self._numbers), dict(queue.seen))
        for memory in (*reads, *writes):
            if not memory.alive:
                raise CudaMisuseError(f"{name} uses {memory.name} after it was freed")
        if self._recording is not None and self._recording[0] == stream:
            self._recording[1].append(work)
            return work
        for memory in (*reads, *writes):
            for other in memory.pending:
                ordered = other.stream == stream or queue.seen.get(other.stream, 0) >= other.number
                clash = memory in writes or memory in other.writes
                if clash and not ordered:
                    raise CudaMisuseError(
                        f"{name} on stream {stream} and {other.name} on stream {other.stream} use {memory.name} "
                        f"at the same time: put an event between them"
                    )
        for memory in {*reads, *writes}:
            memory.pending.append(work)
        queue.queue.append(work)
        return work

    # Streams and events

    def create_stream(self) -> int:
        self._enter("create_stream")
        stream = next(self._numbers)
        self._streams[stream] = FakeStream()
        return stream

    def synchronise(self, stream: int) -> None:
        self._enter("synchronise")
        self._drain(self._stream(stream), None)
        self._drain_up_to(self._stream(stream).seen)

    def destroy_stream(self, stream: int) -> None:
        self._enter("destroy_stream")
        if self._stream(stream).queue:
            raise CudaMisuseError(f"stream {stream} is destroyed while work is in progress: synchronise first")
        del self._streams[stream]

    def _stream(self, stream: int) -> FakeStream:
        if stream not in self._streams:
            raise CudaMisuseError(f"there is no stream {stream}")
        return self._streams[stream]

    def _drain(self, stream: FakeStream, until: int | None) -> None:
        while stream.queue and (until is None or stream.queue[0].number <= until):
            self._drain_up_to(stream.queue[0].after)
            work = stream.queue.pop(0)
            work.do()
            for memory in {*work.reads, *work.writes}:
                memory.pending.remove(work)

    def synchronise_all(self) -> None:
        self._enter("synchronise_all")
        for stream in list(self._streams.values()):
            self._drain(stream, None)

    def _drain_up_to(self, seen: dict[int, int]) -> None:
        for other, number in seen.items():
            if other in self._streams:
                self._drain(self._streams[other], number)

    def create_event(self) -> int:
        self._enter("create_event")
        event = next(self._numbers)
        self._events[event] = None
        return event

    def record(self, event: int, stream: int) -> None:
        self._enter("record", recordable=True)
        self._event(event)
        self._stream(stream)
        # The event also implies everything that the stream itself waited for.
        self._events[event] = {**self._stream(stream).seen, stream: next(self._numbers)}

    def wait(self, stream: int, event: int) -> None:
        self._enter("wait", recordable=True)
        if (recorded := self._event(event)) is not None:
            queue = self._stream(stream)
            for other, number in recorded.items():
                if other != stream:
                    queue.seen[other] = max(number, queue.seen.get(other, 0))

    def await_event(self, event: int) -> None:
        self._enter("await_event")
        if (recorded := self._event(event)) is not None:
            self._drain_up_to(recorded)

    def destroy_event(self, event: int) -> None:
        self._enter("destroy_event")
        self._event(event)
        del self._events[event]

    def _event(self, event: int) -> dict[int, int] | None:
        if event not in self._events:
            raise CudaMisuseError(f"there is no event {event}")
        return self._events[event]

    # Graphs

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        self._enter("capture")
        if not self.captures:
            return None
        recorded: list[FakeWork] = []
        self._thread.recording = (stream, recorded)
        try:
            worked = work()
        finally:
            self._thread.recording = None
        if not worked:
            return None
        self.captured += 1
        graph = next(self._numbers)
        self._graphs[graph] = recorded
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._enter("launch")
        if graph not in self._graphs:
            raise CudaMisuseError(f"there is no graph {graph}")
        self.launches += 1
        self._launched[graph] = [
            self._queue_work(work.name, stream, work.do, work.reads, work.writes) for work in self._graphs[graph]
        ]

    def destroy_graph(self, graph: int) -> None:
        self._enter("destroy_graph")
        if graph not in self._graphs:
            raise CudaMisuseError(f"graph {graph} is destroyed twice, or never existed")
        waiting = [work for stream in self._streams.values() for work in stream.queue]
        if any(work in waiting for work in self._launched.pop(graph, [])):
            raise CudaMisuseError(f"graph {graph} is destroyed while it is running: synchronise first")
        del self._graphs[graph]
