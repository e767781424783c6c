"""One logger for each TensorRT, and each message where it belongs."""

from __future__ import annotations

from threading import Thread

from support.fake_tensorrt import FakeTensorRt

from samedge.engines.tensorrt.log import BuildLog, log_router


def test_a_copy_of_tensorrt_gets_one_logger_for_all_time() -> None:
    module = FakeTensorRt("10.3").flavour.module
    other = FakeTensorRt("10.3").flavour.module
    assert log_router(module) is log_router(module)
    assert log_router(module).logger is not log_router(other).logger


def test_messages_go_to_the_log_of_their_thread() -> None:
    router = log_router(FakeTensorRt("11").flavour.module)
    severity = router.logger.Severity
    outer, inner, theirs = BuildLog(), BuildLog(), BuildLog()

    def other_engine() -> None:
        with router.to(theirs):
            router.logger.log(severity.ERROR, "theirs")

    with router.to(outer):
        with router.to(inner):
            router.logger.log(severity.ERROR, "inner")
            thread = Thread(target=other_engine)
            thread.start()
            thread.join()
        router.logger.log(severity.INTERNAL_ERROR, "outer")
        # A thread of TensorRT's own.
        thread = Thread(target=router.logger.log, args=(severity.ERROR, "worker"))
        thread.start()
        thread.join()
    router.logger.log(severity.ERROR, "nobody listens")
    assert (outer.errors, inner.errors, theirs.errors) == (["outer", "worker"], ["inner"], ["theirs"])


def test_repeated_lines_are_kept_once_and_not_without_end() -> None:
    log = BuildLog()
    for number in range(1000):
        log.record("WARNING", f"line {number // 2}")
    assert log.warnings[:2] == ["line 0", "line 1"]
    assert len(log.warnings) == 200
