"""Peak performance of the machine through a backend: operations per second of products, bytes per second of copies.

Both are graphs that run like the profiled one and are timed by the same counters, so that the gap between a layer and
its roof is due to the layer, not to different tools, threads or clocks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from samedge.benchmarks.measure.child import EXTRA
from samedge.benchmarks.profile.graph_work import ComputePrecision
from samedge.engines.layer_times import LayerProfile, profile_layers
from samedge.engines.tensorrt.api import FlavourName, find_flavour
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.errors import missing_extra
from samedge.storage.files import storage_errors
from samedge.types import Array

SIDES: Final = (256, 512, 1024)
"""Rows and columns of the matrices: some fit into a core's cache, some are large enough for many threads."""
COPIED: Final = 1 << 24
"""Number of copied values: 64 MB in, 64 MB out, more than caches hold."""
RUNS: Final = 12

_OPSET: Final = 17
_ONNX_IR: Final = 8
_SCALE: Final = 1 / 64
_BETWEEN_QDQ: Final = """
    q = QuantizeLinear(x, scale, zero)
    a = DequantizeLinear(q, scale, zero)
    b = DequantizeLinear(w, scale, zero)
    y = MatMul(a, b)
"""

RunGraph = Callable[[Path], LayerProfile]


class Peaks(msgspec.Struct, frozen=True):
    """The roof of the roofline model.

    Attributes:
        gflops: 1e9 operations per second of a matrix product, by compute precision.
        gigabytes: 1e9 bytes per second, read and written.
        how: Description of the measurement.
    """

    gflops: dict[str, float]
    gigabytes: float
    how: str

    def attainable(self, precision: str, intensity: float | None) -> float | None:
        """Return the attainable 1e9 operations per second, by operations per byte (if known); None if not measured."""
        roof = self.gflops.get(precision)
        if roof is None or intensity is None:
            return roof
        return min(roof, intensity * self.gigabytes)


def measure_peaks(
    precisions: Collection[ComputePrecision],
    *,
    backend: str,
    device: str | None = None,
    threads: int | None = None,
    dynamic: bool = False,
    run: RunGraph | None = None,
) -> Peaks:
    """Measure the roof, which takes a second or two.

    The best run counts, not the median, because a peak is the most that the machine can do. `dynamic` measures int8
    with onnxruntime's dynamic operator instead of a product between Q/DQ nodes; `run` replaces the backend.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise missing_extra("onnx", EXTRA, "Measuring peak performance") from error

    def run_here(path: Path) -> LayerProfile:
        return profile_layers(_opened_by(path, backend), backend=backend, device=device, threads=threads, runs=RUNS)

    run = run or run_here
    wanted: set[ComputePrecision] = {"fp32", *precisions}
    gflops: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="samedge-peak-") as folder:
        for precision in sorted(wanted):
            for side in SIDES:
                path = Path(folder) / f"product-{precision}-{side}.onnx"
                _save(onnx, *_product(precision, side, dynamic=dynamic), path)
                reached = 2 * side**3 / _best_ms(run(path)) / 1e6
                gflops[precision] = max(reached, gflops.get(precision, 0.0))
        path = Path(folder) / "copy.onnx"
        rows = 1 << (COPIED.bit_length() // 2)
        port = f"float[{COPIED // rows},{rows}]"
        # A negation, because backends optimise a mere copy away.
        _save(onnx, f"({port} x) => ({port} y) {{ y = Neg(x) }}", {}, path)
        gigabytes = 2 * 4 * COPIED / _best_ms(run(path)) / 1e6
    sides = ", ".join(map(str, SIDES))
    how = (
        f"products of square matrices of {sides} rows, and a pass over {4 * COPIED >> 20} MiB; the best of {RUNS} runs"
    )
    return Peaks(gflops, gigabytes, how)


def _best_ms(profile: LayerProfile) -> float:
    """Return the best time of the graph's slowest layer, so that feeding the graph does not count."""
    return max((layer.best or layer.milliseconds for layer in profile.layers), default=profile.run_ms)


def _opened_by(path: Path, backend: str) -> Path:
    """Return the file that a backend opens: the graph, or a plan built from it."""
    flavours: dict[str, FlavourName] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
    if backend not in flavours:
        return path
    plan, _ = build_plan(find_flavour(flavours[backend]), path, BuildOptions())
    target = path.with_suffix(".engine")
    with storage_errors(target):
        target.write_bytes(plan)
    return target


def _product(precision: ComputePrecision, side: int, *, dynamic: bool) -> tuple[str, dict[str, Array]]:
    """Return a graph that multiplies its input by weights, in ONNX's textual syntax, and its constants."""
    rng = np.random.default_rng(0)
    port = f"{'float16' if precision == 'fp16' else 'float'}[{side},{side}]"
    constants: dict[str, Array] = {"w": rng.standard_normal((side, side), np.float32)}
    body = "y = MatMul(x, w)"
    if precision == "fp16":
        constants["w"] = constants["w"].astype(np.float16)
    elif precision == "int8":
        constants["w"] = rng.integers(-127, 128, (side, side)).astype(np.int8)
        constants |= {"scale": np.array(_SCALE, np.float32), "zero": np.array(0, np.int8)}
        body = "y = com.microsoft.DynamicQuantizeMatMul(x, w, scale, zero)" if dynamic else _BETWEEN_QDQ
    return f"({port} x) => ({port} y) {{ {body} }}", constants


def _save(onnx: Any, graph: str, constants: Mapping[str, Array], path: Path) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: {_ONNX_IR}, opset_import: ["": {_OPSET}, "com.microsoft": 1]> graph {graph}'
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    with storage_errors(path):
        path.write_bytes(model.SerializeToString())
