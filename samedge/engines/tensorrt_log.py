"""TensorRT's log, led to whom it concerns.

TensorRT keeps one logger for the whole process and warns of a second one; worse, it may go on using the first after the
engine that brought it is gone. So there is one logger for each copy of TensorRT that lives as long as the process, and
a thread says whose log it is writing at the moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any, Final

from samedge.engines.build_log import BuildLog
from samedge.engines.tensorrt_protocols import TensorRtModule


class LogRouter:
    """Leads messages to the log of the thread that they come from.

    Attributes:
        logger: What TensorRT is given.
    """

    def __init__(self, module: TensorRtModule) -> None:
        self._lock = Lock()
        self._logs: dict[int, list[BuildLog]] = {}
        base: Any = module.ILogger
        router = self

        class Logger(base):  # type: ignore[misc]  # the base class is known at run time only
            def __init__(self) -> None:
                base.__init__(self)  # pybind11 wants its own constructor called by name

            def log(self, severity: Any, message: str) -> None:
                router.record(str(getattr(severity, "name", severity)), message)

        self.logger: Any = Logger()

    @contextmanager
    def to(self, log: BuildLog) -> Iterator[Any]:
        """Leads what this thread logs inside the block to a log; gives the logger."""
        thread = get_ident()
        with self._lock:
            self._logs.setdefault(thread, []).append(log)
        try:
            yield self.logger
        finally:
            with self._lock:
                self._logs[thread].pop()
                if not self._logs[thread]:
                    del self._logs[thread]

    def record(self, severity: str, message: str) -> None:
        """Takes one message. TensorRT's own threads belong to nobody: their messages go to every log in use."""
        with self._lock:
            mine = self._logs.get(get_ident())
            logs = mine[-1:] if mine else [stack[-1] for stack in self._logs.values()]
        for log in logs:
            log.record(severity, message)


_ROUTERS: Final[dict[TensorRtModule, LogRouter]] = {}
_ROUTERS_LOCK: Final = Lock()


def log_router(module: TensorRtModule) -> LogRouter:
    """Returns the one router of a copy of TensorRT."""
    with _ROUTERS_LOCK:
        if module not in _ROUTERS:
            _ROUTERS[module] = LogRouter(module)
        return _ROUTERS[module]
