"""The most memory of a GPU that something takes, by looking again and again how much is free."""

from __future__ import annotations

import gc
from threading import Event, Thread
from typing import Final

from samedge.engines.cuda.memory import CudaMemory

_WATCH_S: Final = 0.002


class MemoryWatch:
    """The most memory of the GPU that was taken inside a ``with`` block beyond what was taken before.

    Other programs count as well: measure on a GPU that is otherwise idle.

    Args:
        memory: The GPU.

    Attributes:
        peak: Bytes.
    """

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="samedge-memory", daemon=True)
        self._before = 0
        self.peak = 0

    def __enter__(self) -> MemoryWatch:
        gc.collect()
        self._before = self._free()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_S):
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, self._before - self._free())

    def _free(self) -> int:
        with self._memory.current():
            return self._memory.free_bytes()
