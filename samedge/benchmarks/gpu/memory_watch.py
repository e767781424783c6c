"""Peak memory use of a GPU, by sampling its free memory."""

from __future__ import annotations

import gc
from threading import Event, Thread
from typing import Final

from samedge.engines.cuda.memory import CudaMemory

_WATCH_S: Final = 0.002


class MemoryWatch:
    """Peak GPU memory allocated inside a ``with`` block, above the level at its start.

    Memory of other programs counts too: measure on an otherwise idle GPU.

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
        self._sample()

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_S):
            self._sample()

    def _sample(self) -> None:
        self.peak = max(self.peak, self._before - self._free())

    def _free(self) -> int:
        with self._memory.current():
            return self._memory.free_bytes()
