"""Checks of the memory layer, the same on a real GPU and on the fake one.

Each takes a `CudaMemory`, releases its resources, and raises `EngineError` if a number is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Barrier
from typing import Final, TypeVar, cast

import numpy as np

from samedge.engines.cuda.borrowed import borrow
from samedge.engines.cuda.memory import ALIGNMENT, CudaMemory, PinnedBuffer
from samedge.engines.cuda.pool import DevicePool
from samedge.engines.tensorrt.repeated_work import RepeatedWork
from samedge.errors import EngineError
from samedge.types import Array

T = TypeVar("T")
R = TypeVar("R")

_NBYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class CudaCheck:
    """One check; `run` raises if it fails."""

    name: str
    run: Callable[[CudaMemory], None]


class _Resources:
    """Memory, streams and events of one check, released in reverse order."""

    def __init__(self, memory: CudaMemory, stack: ExitStack) -> None:
        self._memory, self._stack = memory, stack

    def device(self, nbytes: int = _NBYTES) -> int:
        address = self._memory.allocate(nbytes)
        self._stack.callback(self._memory.free, address)
        return address

    def pinned(self, nbytes: int = _NBYTES) -> PinnedBuffer:
        buffer = self._memory.pin(nbytes)
        self._stack.callback(self._memory.unpin, buffer)
        return buffer

    def stream(self) -> int:
        stream = self._memory.create_stream()
        self._stack.callback(self._memory.destroy_stream, stream)
        self._stack.callback(self._memory.synchronise, stream)
        return stream

    def event(self) -> int:
        event = self._memory.create_event()
        self._stack.callback(self._memory.destroy_event, event)
        return event


def check_copies(memory: CudaMemory) -> None:
    """Check copies to the device, within it, and back."""
    with memory.current(), ExitStack() as stack:
        of = _Resources(memory, stack)
        first, second, there, back, stream = of.device(), of.device(), of.pinned(), of.pinned(), of.stream()
        _require(first % ALIGNMENT == 0 and second % ALIGNMENT == 0, f"addresses are not multiples of {ALIGNMENT}")
        _require(memory.free_bytes() > 0, "there is no free memory")
        data = _numbers(1)
        there.view()[:_NBYTES] = data
        memory.copy_in(first, there, _NBYTES, stream)
        memory.copy_across(second, first, _NBYTES, stream)
        memory.copy_out(back, second, _NBYTES, stream)
        memory.synchronise(stream)
        _require_same(back.view()[:_NBYTES], data)


def check_events(memory: CudaMemory) -> None:
    """Check that a stream, and the host, wait for an event of another stream."""
    with memory.current(), ExitStack() as stack:
        of = _Resources(memory, stack)
        address, there, back, event, done = of.device(), of.pinned(), of.pinned(), of.event(), of.event()
        memory.await_event(event)  # never recorded: does not wait
        writes, reads = of.stream(), of.stream()
        for turn in range(20):
            data = _numbers(turn)
            there.view()[:_NBYTES] = data
            memory.copy_in(address, there, _NBYTES, writes)
            memory.record(event, writes)
            memory.wait(reads, event)
            memory.copy_out(back, address, _NBYTES, reads)
            memory.record(done, reads)
            memory.await_event(done)
            _require_same(back.view()[:_NBYTES], data)
        memory.synchronise_all()


def check_graphs(memory: CudaMemory) -> None:
    """Check that captured work runs at each launch, with the memory's current content."""
    if not memory.captures:
        return
    with memory.current(), ExitStack() as stack:
        of = _Resources(memory, stack)
        first, second, there, back, stream = of.device(), of.device(), of.pinned(), of.pinned(), of.stream()

        def work() -> bool:
            memory.copy_across(second, first, _NBYTES, stream)
            return True

        repeated = RepeatedWork(memory, enabled=True)
        stack.callback(repeated.forget)
        stack.callback(memory.synchronise, stream)
        for turn in range(4):
            data = _numbers(turn)
            there.view()[:_NBYTES] = data
            memory.copy_in(first, there, _NBYTES, stream)
            _require(repeated.run(work, stream), "work could not be submitted to the stream")
            memory.copy_out(back, second, _NBYTES, stream)
            memory.synchronise(stream)
            _require_same(back.view()[:_NBYTES], data)
        _require(repeated.enabled, "a copy could not be captured as a graph")


def check_failed_captures(memory: CudaMemory) -> None:
    """Check that a stream still works after a capture that ended with an exception."""
    if not memory.captures:
        return

    class Interrupted(Exception):
        pass

    with memory.current(), ExitStack() as stack:
        of = _Resources(memory, stack)
        first, second, stream = of.device(), of.device(), of.stream()

        def work() -> bool:
            memory.copy_across(second, first, _NBYTES, stream)
            raise Interrupted

        try:
            memory.capture(stream, work)
        except Interrupted:
            memory.copy_across(second, first, _NBYTES, stream)
            memory.synchronise(stream)
            return
        _require(False, "an exception of the captured work was lost")


def check_pool(memory: CudaMemory) -> None:
    """Check that arrays keep their values while others are made, and that freed memory is reused."""
    pool = DevicePool(kept_open(memory))
    values = [_numbers(turn)[:4096].reshape(16, 256) for turn in range(4)]
    arrays = [pool.upload(value) for value in values]
    for value, array in zip(values, arrays, strict=True):
        _require_same(array.numpy(), value)
        _require_same(array.rows([3, 4, 5, 1, 1]), value[[3, 4, 5, 1, 1]])
    places = {array.address for array in arrays}
    for array in arrays:
        array.close()
    again = pool.upload(values[0])
    _require(again.address in places, "freed memory is not reused")
    again.close()
    pool.close()


def check_threads(memory: CudaMemory) -> None:
    """Check several threads that use the GPU at once."""
    for _ in range(5):
        in_threads(check_copies, [memory] * 4)


def check_lending(memory: CudaMemory) -> None:
    """Check that memory lent by DLPack is readable, and is not overwritten while it is borrowed."""
    pool = DevicePool(kept_open(memory))
    value = _numbers(7)[:4096]
    array = pool.upload(value)
    borrowed = borrow(array, pool)
    array.close()
    _require_same(borrowed.numpy(), value)
    borrowed.close()
    _require_same(pool.upload(value).numpy(), value)
    pool.close()


CHECKS: Final = (
    CudaCheck("copies", check_copies),
    CudaCheck("events between streams", check_events),
    CudaCheck("graphs", check_graphs),
    CudaCheck("captures that fail", check_failed_captures),
    CudaCheck("arrays in a pool", check_pool),
    CudaCheck("threads", check_threads),
    CudaCheck("lending by DLPack", check_lending),
)
"""Checks that the fake GPU passes as well."""


def kept_open(memory: CudaMemory) -> CudaMemory:
    """Return the memory protected from being closed by a pool."""
    return cast("CudaMemory", _Kept(memory))


class _Kept:
    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> object:
        return getattr(self._memory, name)


def in_threads(call: Callable[[T], R], arguments: Sequence[T]) -> list[R]:
    """Call a function with each argument, in as many threads at the same time, and return the results."""
    start = Barrier(len(arguments))

    def begin(argument: T) -> R:
        start.wait()  # or a thread that is done early would take two arguments
        return call(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(begin, arguments))


def _numbers(seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, _NBYTES, dtype=np.uint8)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise EngineError(f"the GPU memory check failed: {what}", cure="Update the driver, or report this")


def _require_same(have: Array, want: Array) -> None:
    _require(np.array_equal(have, want), f"{int((have != want).sum())} of {want.size} numbers are wrong")
