"""What TensorRT says while it builds: kept as far as it matters, and read.

Many of TensorRT's setters do not fail: they write an ERROR line and go on with another value. So the log is part of
the result, and an error in it fails the build. Without a GPU it is also the only place that tells of the finished
engine: its layers, its fused attentions and its memory.
"""

from __future__ import annotations

import re
from typing import Final

from samedge.engines.build_options import LayerRecord

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
        """Takes one message.

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
    """Reads the list of layers that TensorRT logs at the end of a build."""
    found = (_LAYER.match(line) or _SHORT_LAYER.match(line) for line in text.splitlines())
    return tuple(
        LayerRecord(match["name"], match["kind"].strip(), (match["tactic"] or "").strip()) for match in found if match
    )
