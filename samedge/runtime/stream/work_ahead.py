"""Work ahead of its consumer: a thread applies a function to the items of a source, pausing when too far ahead.

Order is preserved, and the number of items in memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from queue import SimpleQueue
from threading import Event, Semaphore, Thread, current_thread
from typing import Final, Generic, TypeVar

from typing_extensions import Self

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE_S: Final = 1.0
"""Time that `WorkAhead.close` waits for an unresponsive source, such as a camera without frames."""


@dataclass(frozen=True, slots=True)
class _Result(Generic[R]):
    value: R


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


class WorkAhead(Iterator[R], Generic[T, R]):
    """An iterator over ``work(index, item)`` for each item of a source, computed in its own thread after `start`.

    An exception of the source or of the work is raised in place of its result, and ends the iteration. The thread ends
    with the process. For one consumer.

    The thread, of the given name, also reads the source; at most `ahead` items are read but not yet consumed.
    """

    def __init__(self, source: Iterable[T], work: Callable[[int, T], R], *, ahead: int, name: str) -> None:
        self._source = source
        self._work = work
        self._room = Semaphore(ahead)
        self._done: SimpleQueue[_Result[R] | _End] = SimpleQueue()
        self._stopped = Event()
        self._in_source = False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread, once. Separate from construction, so that an interrupted caller can still close it."""
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        """Return the next result, and make room for one more. Ends with the source, or when closed."""
        if self._stopped.is_set():
            raise StopIteration
        done = self._done.get()
        if isinstance(done, _Result) and not self._stopped.is_set():
            self._room.release()
            return done.value
        self._stopped.set()
        if isinstance(done, _End) and done.error is not None:
            raise done.error
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and wait for it: at most for one item's work. Idempotent and thread-safe.

        A source may never respond. After one second the thread is abandoned: it ends when the source responds, and does
        no more work.
        """
        self._stopped.set()
        self._room.release()
        self._done.put(_End())  # for a consumer waiting in another thread
        if self._thread.ident is None or self._thread is current_thread():  # the garbage collector runs anywhere
            return
        while self._thread.is_alive():
            self._thread.join(_PATIENCE_S)
            if self._in_source:
                return

    def _run(self) -> None:
        try:
            source = iter(self._source)
            for index in count():
                self._room.acquire()
                # A separate function, so that no reference to this item remains while there is no room for the next.
                if not self._step(index, source):
                    break
        except BaseException as error:  # noqa: BLE001 - any exception belongs to the consumer
            self._done.put(_End(error))

    def _step(self, index: int, source: Iterator[T]) -> bool:
        if self._stopped.is_set():
            return False
        self._in_source = True
        try:
            item = next(source)
        except StopIteration:
            self._done.put(_End())
            return False
        finally:
            self._in_source = False
        if self._stopped.is_set():
            return False
        self._done.put(_Result(self._work(index, item)))
        return True
