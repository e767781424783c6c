"""Processes that speak the protocol, and processes that do not."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest
from support.bench_rows import command, opening

from samedge.benchmarks.bench.stages.measured_process import MeasuredProcess
from samedge.errors import BenchmarkError


def test_a_peer_is_greeted_opened_and_asked() -> None:
    with MeasuredProcess(command("good"), "fake") as process:
        hello = process.hello()
        assert (hello.name, hello.version, hello.can) == ("fake", "1.2", True)
        opened = process.open(opening("a row"))
        assert opened.stages["encode"] == "nothing at all"
        assert opened.details["threads"] == "1"
        first, second = process.run("encode"), process.run("encode")
        assert (first.wall, second.wall, second.cpu) == (0.002, 0.004, 0.002)
        assert first.figures == {"masks": 2}


def test_a_peer_that_is_not_installed_says_so() -> None:
    with MeasuredProcess(command("missing"), "fake") as process:
        hello = process.hello()
        assert not hello.can
        assert hello.reason == "fake is not installed"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("old", r"fake: the peer speaks protocol 2, not 1"),
        ("refuses", r"fake: it knows no such model"),
        ("dies", r"the measuring process ended with status 9: first line / out of memory"),
        ("noise", r"invalid reply to 'open' .*Loading the model, please wait.*to stderr"),
        ("other", r"invalid reply to 'open' \(Expected `object`, got `int`"),
    ],
)
def test_what_goes_wrong_is_a_sentence(kind: str, message: str) -> None:
    def begin(process: MeasuredProcess) -> None:
        process.hello()
        process.open(opening("a row"))

    with MeasuredProcess(command(kind), "fake") as process, pytest.raises(BenchmarkError, match=message):
        begin(process)


def test_a_process_that_says_nothing_is_ended() -> None:
    with MeasuredProcess(command("silent"), "fake", patience=1.0) as process:
        process.hello()
        process.open(opening("a row"))
        with pytest.raises(BenchmarkError, match="no reply to 'run' within 1 s"):
            process.run("encode")
        with pytest.raises(BenchmarkError, match="ended"):
            process.run("encode")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(BenchmarkError, match=r"mine: the process cannot be started: No such file.*Check the command"):
        MeasuredProcess(("/no/such/program",), "mine")


def test_a_closed_process_is_not_asked() -> None:
    process = MeasuredProcess(command("good"), "fake")
    process.close()
    process.close()
    with pytest.raises(BenchmarkError, match="was closed"):
        process.hello()


def test_whoever_is_interrupted_does_not_wait() -> None:
    process = MeasuredProcess(command("silent"), "fake")
    process.hello()
    with suppress(KeyboardInterrupt), process:
        raise KeyboardInterrupt
    assert process.status == -signal.SIGKILL
