"""Work ahead of its consumer: bounds, order, errors and ends, with events in place of time."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from samedge.runtime.stream import work_ahead
from samedge.runtime.stream.work_ahead import WorkAhead

LONG_S = 60.0
"""Where a test waits for an event, it fails after this; it never takes that long."""


def ahead(source: Any, work: Any = lambda _, item: item, *, bound: int = 2) -> WorkAhead[Any, Any]:
    begun = WorkAhead(source, work, ahead=bound, name="test-ahead")
    begun.start()
    return begun


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "test-ahead"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert threads() == []
    yield
    for thread in threads():
        thread.join(LONG_S)
    assert threads() == []


class Numbers:
    """Counts, says how far it was read, and lets others wait for that."""

    def __init__(self) -> None:
        self.read = 0
        self.changed = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        while True:
            with self.changed:
                self.read += 1
                self.changed.notify_all()
            yield self.read - 1

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.read >= count, LONG_S)


@pytest.mark.parametrize("bound", [1, 2, 5])
def test_results_in_order_with_their_index(bound: int) -> None:
    work = ahead("abcdefg", lambda index, item: (index, item), bound=bound)
    assert list(work) == list(enumerate("abcdefg"))
    assert list(work) == []


@pytest.mark.parametrize("bound", [1, 3])
def test_it_reads_as_far_ahead_as_it_may_and_no_further(bound: int) -> None:
    source = Numbers()
    work = ahead(source, bound=bound)
    for taken in range(4):
        source.wait_for(taken + bound)
        # Reading one more takes room, and only this thread makes it.
        assert work._room._value == 0
        assert source.read == taken + bound
        assert next(work) == taken
    work.close()
    assert source.read <= 4 + bound


def test_the_source_is_read_and_worked_on_in_one_other_thread() -> None:
    seen = []

    def source() -> Iterator[int]:
        for number in range(3):
            seen.append(threading.current_thread())
            yield number

    assert len(list(ahead(source(), lambda *_: seen.append(threading.current_thread())))) == 3
    assert len(seen) == 6
    assert {thread.name for thread in seen} == {"test-ahead"}
    assert seen[0].daemon


class TestErrors:
    def test_of_the_work_come_in_their_place_and_end_it(self) -> None:
        source = Numbers()
        work = ahead(source, lambda _, item: 12 // (3 - item), bound=9)
        assert [next(work) for _ in range(3)] == [4, 6, 12]
        with pytest.raises(ZeroDivisionError):
            next(work)
        assert source.read == 4
        with pytest.raises(StopIteration):
            next(work)

    def test_of_the_source_come_after_what_it_gave(self) -> None:
        def source() -> Iterator[int]:
            yield 1
            raise OSError("the camera is gone")

        work = ahead(source())
        assert next(work) == 1
        with pytest.raises(OSError, match="the camera is gone"):
            next(work)

    def test_of_what_cannot_be_iterated(self) -> None:
        with pytest.raises(TypeError, match="not iterable"):
            next(ahead(5))

    def test_even_those_that_end_programs(self) -> None:
        def leave(*_: object) -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            next(ahead([1], leave))


class TestClose:
    def test_before_it_began(self) -> None:
        work = WorkAhead([1], lambda _, item: item, ahead=1, name="test-ahead")
        work.close()
        assert list(work) == []

    def test_while_it_waits_for_room(self) -> None:
        source = Numbers()
        work = ahead(source)
        source.wait_for(2)
        work.close()
        assert threads() == []
        assert source.read == 2
        with pytest.raises(StopIteration):  # what was ready is dropped
            next(work)
        work.close()

    def test_while_it_works_waits_for_that_work_only(self) -> None:
        begun, go_on, closed = Event(), Event(), Event()
        worked = []

        def work(_: int, item: int) -> int:
            begun.set()
            assert go_on.wait(LONG_S)
            worked.append(item)
            return item

        source = Numbers()
        running = ahead(source, work)
        assert begun.wait(LONG_S)

        def close() -> None:
            running.close()
            closed.set()

        closer = threading.Thread(target=close)
        closer.start()
        assert running._stopped.wait(LONG_S)
        assert not closed.is_set()
        go_on.set()
        closer.join(LONG_S)
        assert closed.is_set()
        assert threads() == []
        assert worked == [0]
        assert source.read == 1

    def test_wakes_a_consumer_that_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(work_ahead, "_PATIENCE_S", 0.01)
        waiting, answer = Event(), Event()
        got: list[int] = []

        def source() -> Iterator[int]:
            waiting.set()
            assert answer.wait(LONG_S)
            yield 1

        work = ahead(source())
        consumer = threading.Thread(target=lambda: got.extend(work))
        consumer.start()
        assert waiting.wait(LONG_S)
        work.close()
        consumer.join(LONG_S)
        assert not consumer.is_alive()
        assert got == []
        answer.set()

    def test_leaves_a_source_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(work_ahead, "_PATIENCE_S", 0.01)
        waiting, answer, worked = Event(), Event(), []

        def source() -> Iterator[int]:
            waiting.set()
            assert answer.wait(LONG_S)
            yield 1

        work = ahead(source(), lambda _, item: worked.append(item))
        assert waiting.wait(LONG_S)
        work.close()
        (left,) = threads()
        answer.set()
        left.join(LONG_S)
        assert not left.is_alive()
        assert worked == []

    def test_from_its_own_thread_as_the_garbage_collector_may(self) -> None:
        holder: list[WorkAhead[Any, Any]] = []
        ready = Event()

        def work(*_: object) -> int:
            assert ready.wait(LONG_S)
            holder[0].close()
            return 1

        holder.append(ahead(Numbers(), work))
        ready.set()
        for thread in threads():
            thread.join(LONG_S)
        assert list(holder[0]) == []


def test_items_are_not_kept_while_it_waits_for_room() -> None:
    class Image:
        pass

    made: list[weakref.ref[Image]] = []
    second = Event()

    def source() -> Iterator[Image]:
        while True:
            image = Image()
            made.append(weakref.ref(image))
            yield image
            del image
            second.set()

    def work(index: int, image: Image) -> int:
        return index

    running = ahead(source(), work, bound=1)
    assert next(running) == 0
    assert second.wait(LONG_S)
    gc.collect()
    assert made[0]() is None
    running.close()


def test_the_thread_ends_with_the_process() -> None:
    code = (
        "from itertools import count; from threading import Event;"
        "from samedge.runtime.stream.work_ahead import WorkAhead;"
        "begun = Event(); work = WorkAhead(count(), lambda *_: begun.set(), ahead=1, name='x');"
        "work.start(); begun.wait(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
