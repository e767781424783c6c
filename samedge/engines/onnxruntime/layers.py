"""Node timings of onnxruntime, read from the session's profile file, which is then removed."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

from samedge.engines.layer_times import LayerTime, median_layers
from samedge.engines.onnxruntime.engine import OrtEngine
from samedge.engines.protocol import EngineOptions
from samedge.errors import EngineError
from samedge.storage.files import storage_errors

_BYTES: Final = {"float": 4, "double": 8, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2}
"""Bytes per value by onnxruntime's type name; 1 for the others: int8, uint8, bool."""
_OWN: Final = re.compile(r"^fused |_(?:nchwc|token_\d+)$")
"""Prefix of a node name, or suffix of a tensor name, that marks a node added by onnxruntime."""


class ProfiledOrtEngine(OrtEngine):
    """An onnxruntime session that writes a profile."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="samedge-profile-", ignore_cleanup_errors=True)
        try:
            super().__init__(path, options, profile=Path(self._folder.name) / "session")
        except BaseException:
            self._folder.cleanup()
            raise

    def layer_times(self, warm_ups: int) -> list[LayerTime]:
        """End profiling and return the layer times."""
        path = Path(self._session.end_profiling())
        try:
            with storage_errors(path, "read"):
                events = json.loads(path.read_bytes())
        except ValueError as error:
            raise EngineError(
                f"onnxruntime's profile cannot be read: {error}", where=path.name, cure="Profile fewer runs"
            ) from error
        finally:
            self._folder.cleanup()
        return median_layers(list(layers_of_runs(events))[warm_ups:])

    def close(self) -> None:
        """Release the session and remove the profile."""
        super().close()
        self._folder.cleanup()


def layers_of_runs(events: Sequence[Mapping[str, Any]]) -> Iterator[list[LayerTime]]:
    """Yield the layers of each run in execution order, from the events of a profile."""
    runs = sorted(
        (event for event in events if event.get("cat") == "Session" and event["name"] == "model_run"),
        key=lambda event: int(event["ts"]),
    )
    kernels = sorted(
        (event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")),
        key=lambda event: int(event["ts"]),
    )
    for run in runs:
        begin, end = int(run["ts"]), int(run["ts"]) + int(run["dur"])
        yield [_layer(event) for event in kernels if begin <= int(event["ts"]) <= end]


def _layer(event: Mapping[str, Any]) -> LayerTime:
    facts = event["args"]
    name = str(event["name"]).removesuffix("_kernel_time")
    provider = str(facts.get("provider", "")).removesuffix("ExecutionProvider")
    source = _OWN.sub("", name)
    nbytes = sum(map(_nbytes, (*facts.get("input_type_shape", ()), *facts.get("output_type_shape", ()))))
    return LayerTime(
        name=name,
        operator=str(facts["op_name"]),
        milliseconds=int(event["dur"]) / 1e3,
        kernel=provider,
        sources=(source,) if source else (),
        nbytes=nbytes or None,
    )


def _nbytes(typed: Mapping[str, Sequence[int]]) -> int:
    return sum(prod(shape) * _BYTES.get(kind, 1) for kind, shape in typed.items())
