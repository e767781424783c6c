"""TensorRT's log, led to whom it concerns.

TensorRT keeps one logger for the whole process and warns of a second one; worse, it may go on using the first after the
engine that brought it is gone. So there is one logger for each copy of TensorRT that lives as long as the process, and
a thread says whose log it is writing at the moment.
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
        name: TensorRT's name of it.
        kind: TensorRT's kind of it, such as "gemm" or "kgen".
        tactic: The kernel that was chosen, or an empty text.
    """

    name: str
    kind: str
    tactic: str = ""


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
        """Lead what this thread logs inside the block to a log; gives the logger."""
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
        """Take one message. TensorRT's own threads belong to nobody: their messages go to every log in use."""
        with self._lock:
            mine = self._logs.get(get_ident())
            logs = mine[-1:] if mine else [stack[-1] for stack in self._logs.values()]
        for log in logs:
            log.record(severity, message)


_ROUTERS: Final[dict[TensorRtModule, LogRouter]] = {}
_ROUTERS_LOCK: Final = Lock()


def log_router(module: TensorRtModule) -> LogRouter:
    """Return the one router of a copy of TensorRT."""
    with _ROUTERS_LOCK:
        if module not in _ROUTERS:
            _ROUTERS[module] = LogRouter(module)
        return _ROUTERS[module]


FUSED_ATTENTION: Final = "_gemm_mha_v2"
"""In the name of every layer that is one fused attention."""

_KEPT_LINES: Final = 200
_LAYERS: Final = ("Layers:", "Engine Layer Information:")  # with detailed verbosity, and without
_LAYER: Final = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+),(?:.*?TacticName: (?P<tactic>[^,]*),)?")
_SHORT_LAYER: Final = re.compile(r"^Layer\((?P<kind>[^)]+)\): (?P<name>.+?), Tactic: (?P<tactic>[^,]*),")
_ACTIVATION: Final = re.compile(r"Total Activation Memory: (\d+)")
_WEIGHTS: Final = re.compile(r"Total Weights Memory: (\d+)")


class BuildLog:
    """Takes TensorRT's log line by line.

    Attributes:
        errors: What it logged as an error or internal error, oldest first.
        warnings: What it warned of, each text once.
        layers: The layers of the finished engine, if its list was logged.
        activation_bytes: Device memory for activations, bytes; None if it was not logged.
        weight_bytes: Device memory for weights, bytes; None if it was not logged.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.layers: tuple[LayerRecord, ...] = ()
        self.activation_bytes: int | None = None
        self.weight_bytes: int | None = None

    def record(self, severity: str, message: str) -> None:
        """Take one message.

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
        """How many layers are one fused attention each."""
        return sum(FUSED_ATTENTION in layer.name or FUSED_ATTENTION in layer.tactic for layer in self.layers)

    @staticmethod
    def _keep(lines: list[str], message: str) -> None:
        text = " ".join(message.split())
        if text not in lines and len(lines) < _KEPT_LINES:
            lines.append(text)


def read_layers(text: str) -> tuple[LayerRecord, ...]:
    """Read the list of layers that TensorRT logs at the end of a build."""
    found = (_LAYER.match(line) or _SHORT_LAYER.match(line) for line in text.splitlines())
    return tuple(
        LayerRecord(match["name"], match["kind"].strip(), (match["tactic"] or "").strip()) for match in found if match
    )
