"""Memory and calls in child processes."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from samedge import errors
from samedge.benchmarks.measure.child import call_in_child
from samedge.benchmarks.measure.memory import measure_memory, peak_resident_bytes, resident_bytes

MB = 1 << 20
PROGRAM = """
    import os, signal, sys
    from samedge.errors import MissingExtraError

    def load(held: int, used: int):
        print("noise on stdout")
        data = bytearray(held)
        data[::4096] = b"x" * len(data[::4096])
        def call():
            more = bytearray(used)
            more[::4096] = b"x" * len(more[::4096])
            return len(data)
        return call

    def echo(**arguments):
        return {"pid": os.getpid(), **arguments}

    def refuse():
        raise MissingExtraError("it is not here", where="there", cure="Install it")

    def fail():
        raise ValueError("a bug")

    def die():
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that child processes can import."""
    (tmp_path / "tiny_program.py").write_text(textwrap.dedent(PROGRAM))
    monkeypatch.syspath_prepend(tmp_path)


def test_what_is_held_and_what_is_used_for_a_moment() -> None:
    empty = measure_memory("tiny_program:load", {"held": 0, "used": 0})
    holds = measure_memory("tiny_program:load", {"held": 100 * MB, "used": 0})
    uses = measure_memory("tiny_program:load", {"held": 0, "used": 100 * MB})
    assert 90 * MB < holds.peak - empty.peak < 120 * MB
    assert 90 * MB < uses.peak - empty.peak < 120 * MB
    assert uses.peak >= uses.loaded
    if sys.platform == "linux":  # elsewhere only the peak is known
        assert holds.loaded - empty.loaded > 90 * MB
        assert uses.loaded - empty.loaded < 30 * MB


def test_a_child_does_not_inherit_the_peak_of_its_parent() -> None:
    large = bytearray(300 * MB)
    large[::4096] = b"x" * len(large[::4096])
    assert peak_resident_bytes() > 300 * MB
    assert measure_memory("tiny_program:load", {"held": 0, "used": 0}).peak < 200 * MB
    del large


def test_memory_of_this_process() -> None:
    assert 0 < resident_bytes() <= peak_resident_bytes()


def test_arguments_and_results_are_json_and_the_process_is_another() -> None:
    said = call_in_child("tiny_program:echo", {"text": "ä", "none": None, "numbers": [1, 2.5]})
    assert said.pop("pid") != os.getpid()
    assert said == {"text": "ä", "none": None, "numbers": [1, 2.5]}


def test_errors_of_the_package_come_back_as_they_were_raised() -> None:
    with pytest.raises(errors.MissingExtraError) as caught:
        call_in_child("tiny_program:refuse", {})
    assert str(caught.value) == "there: it is not here. Install it"


def test_a_child_that_fails_is_an_error_with_its_last_words() -> None:
    with pytest.raises(errors.BenchmarkError, match=r"ended with status 1: .*ValueError: a bug"):
        call_in_child("tiny_program:fail", {})


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals are POSIX's")
def test_a_child_that_is_killed_is_an_error_with_a_cure() -> None:
    with pytest.raises(errors.BenchmarkError, match=r"ended by SIGKILL\. If memory ran out"):
        call_in_child("tiny_program:die", {})


def test_a_package_that_a_child_lacks_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_package")
    with pytest.raises(errors.MissingExtraError, match=r"needs the package 'no_such_package'.*samedge\[bench\]"):
        call_in_child("needs_more:anything", {})


@pytest.mark.parametrize("target", ["no_such_module:f", "tiny_program:no_such_function", "tiny_program"])
def test_targets_that_are_not_there(target: str) -> None:
    with pytest.raises(errors.BenchmarkError, match="no such function"):
        call_in_child(target, {})
