"""Routing of TensorRT's process-wide log to the operation it concerns.

TensorRT keeps one logger per process and warns of a second; worse, it may go on using the first after its engine is
gone. So each copy of TensorRT has one logger for the life of the process, and each thread selects the log that its
messages go to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, get_ident
from typing import Any, Final

from samedge.engines.tensorrt.protocols import TensorRtModule


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of a finished engine.

    Attributes:
        name: TensorRT's name for it.
        kind: TensorRT's kind, such as "gemm" or "kgen".
        tactic: The chosen kernel, or an empty string.
    """

    name: str
    kind: str
    tactic: str = ""


class LogRouter:
    """Routes messages to the log of the thread that emits them.

    Attributes:
        logger: The logger to pass to TensorRT.
    """

    def __init__(self, module: TensorRtModule) -> None:
        self._lock = Lock()
        self._logs: dict[int, list[BuildLog]] = {}
        base: Any = module.ILogger
        router = self

        class Logger(base):  # type: ignore[misc]  # the base class is known only at run time
            def __init__(self) -> None:
                base.__init__(self)  # pybind11 requires an explicit call of its constructor

            def log(self, severity: Any, message: str) -> None:
                router.record(str(getattr(severity, "name", severity)), message)

        self.logger: Any = Logger()

    @contextmanager
    def to(self, log: BuildLog) -> Iterator[Any]:
        """Route this thread's messages in the block to a log; yield the logger."""
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
        """Record a message. Messages from TensorRT's own threads go to every log in use."""
        with self._lock:
            mine = self._logs.get(get_ident())
            logs = mine[-1:] if mine else [stack[-1] for stack in self._logs.values()]
        for log in logs:
            log.record(severity, message)


_ROUTERS: Final[dict[TensorRtModule, LogRouter]] = {}
_ROUTERS_LOCK: Final = Lock()


def log_router(module: TensorRtModule) -> LogRouter:
    """Return the router of a copy of TensorRT."""
    with _ROUTERS_LOCK:
        if module not in _ROUTERS:
            _ROUTERS[module] = LogRouter(module)
        return _ROUTERS[module]


FUSED_ATTENTION: Final = "_gemm_mha_v2"
"""Part of the name of every fused attention layer."""

_KEPT_LINES: Final = 200
_LAYERS: Final = ("Layers:", "Engine Layer Information:")  # with detailed verbosity, and without
_LAYER: Final = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+),(?:.*?TacticName: (?P<tactic>[^,]*),)?")
_SHORT_LAYER: Final = re.compile(r"^Layer\((?P<kind>[^)]+)\): (?P<name>.+?), Tactic: (?P<tactic>[^,]*),")
_ACTIVATION: Final = re.compile(r"Total Activation Memory: (\d+)")
_WEIGHTS: Final = re.compile(r"Total Weights Memory: (\d+)")


class BuildLog:
    """A collector of TensorRT's log.

    Attributes:
        errors: Errors and internal errors, oldest first.
        warnings: Warnings, without duplicates.
        layers: The layers of the finished engine, if logged.
        activation_bytes: Device memory for activations, bytes; None if not logged.
        weight_bytes: Device memory for weights, bytes; None if not logged.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.layers: tuple[LayerRecord, ...] = ()
        self.activation_bytes: int | None = None
        self.weight_bytes: int | None = None

    def record(self, severity: str, message: str) -> None:
        """Record a message.

        Args:
            severity: Name of TensorRT's severity, such as "WARNING".
            message: One line, or the whole list of layers.
        """
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._keep(self.errors, message)
        elif severity == "WARNING":
            self._keep(self.warnings, message)
        elif message.lstrip().startswith(_LAYERS):
            self.layers = read_layers(message)
        elif found := _ACTIVATION.search(message):
            self.activation_bytes = int(found[1])
        elif found := _WEIGHTS.search(message):
            self.weight_bytes = int(found[1])

    @property
    def fused_attentions(self) -> int:
        """Number of fused attention layers."""
        return sum(FUSED_ATTENTION in layer.name or FUSED_ATTENTION in layer.tactic for layer in self.layers)

    @staticmethod
    def _keep(lines: list[str], message: str) -> None:
        text = " ".join(message.split())
        if text not in lines and len(lines) < _KEPT_LINES:
            lines.append(text)


def read_layers(text: str) -> tuple[LayerRecord, ...]:
    """Parse the list of layers that TensorRT logs at the end of a build."""
    found = (_LAYER.match(line) or _SHORT_LAYER.match(line) for line in text.splitlines())
    return tuple(
        LayerRecord(match["name"], match["kind"].strip(), (match["tactic"] or "").strip()) for match in found if match
    )
