"""Graphs of YOLO bundles through the real builder of TensorRT for RTX, which compiles without a GPU."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.yolo_models import CONF, folder

import samedge
from samedge.bundle.archive import open_bundle
from samedge.bundle.manifest import GraphRecord
from samedge.engines.tensorrt.api import find_flavour
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.errors import EngineError
from samedge.export.precision.int8 import convolutions, quantise_layers
from samedge.options import AxisRange

SIDE = 160
BATCH = AxisRange(1, 1, 4)


@cache
def exported(*, nms: bool = False, dynamic: bool = False) -> Path:
    """A bundle of the true architecture at a small size."""
    return samedge.export_model(
        "seeded:yolov8n-seg", output=folder() / f"n-{nms}-{dynamic}", image_size=SIDE, nms=nms, dynamic=dynamic,
        conf=CONF, max_det=100, check=False,
    )  # fmt: skip


def build(path: Path, record: GraphRecord, **profiles: AxisRange) -> BuildReport:
    """Builds an engine from what the manifest says of a graph, as any tool could."""
    axes = {name: port.shape for ports in (record.inputs, record.outputs) for name, port in ports.items()}
    options = BuildOptions(precision=record.precision, targets=("8.6",), profiles=profiles)
    plan, report = build_plan(find_flavour("tensorrt-rtx"), path, options, axes=axes)
    assert len(plan) == report.plan_bytes > 1e6
    return report


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_segmenter_builds(dynamic: bool) -> None:
    bundle = open_bundle(exported(dynamic=dynamic))
    record = bundle.manifest.graph("yolo")
    sides = {"height": AxisRange(96, SIDE, SIDE), "width": AxisRange(96, SIDE, SIDE)} if dynamic else {}
    report = build(bundle.graph_path("yolo"), record, batch=BATCH, **sides)
    low = 96 if dynamic else SIDE
    assert report.profiles == {"images": ((1, 3, low, low), (1, 3, SIDE, SIDE), (4, 3, SIDE, SIDE))}
    assert report.inputs["images"].shape == record.inputs["images"].shape
    assert {name: spec.shape for name, spec in report.outputs.items()} == {
        name: port.shape for name, port in record.outputs.items()
    }
    assert {spec.dtype for spec in (*report.inputs.values(), *report.outputs.values())} == {np.dtype(np.float32)}
    assert report.warnings == ()


def test_int8_convolutions_run_in_int8(tmp_path: Path) -> None:
    bundle = open_bundle(exported())
    model = onnx.load(str(bundle.graph_path("yolo")))
    layers = [layer for layer in convolutions(model.graph) if not layer.weight.startswith("model.22.dfl")]
    assert quantise_layers(model, {layer.activation: 2.0 for layer in layers}, layers) == len(layers)
    onnx.save(model, str(tmp_path / "int8.onnx"))
    report = build(tmp_path / "int8.onnx", bundle.manifest.graph("yolo"), batch=BATCH)
    plain = build(bundle.graph_path("yolo"), bundle.manifest.graph("yolo"), batch=BATCH)
    assert report.weight_bytes is not None
    assert plain.weight_bytes is not None
    assert report.weight_bytes < 0.4 * plain.weight_bytes
    assert Counter(layer.kind for layer in report.layers)["correlation"] >= len(layers)


def test_suppression_is_not_for_rtx() -> None:
    """TensorRT for RTX parses the operator and has no implementation of it; what is to be done is said."""
    bundle = open_bundle(exported(nms=True))
    with pytest.raises(EngineError, match="without --nms"):
        build(bundle.graph_path("yolo"), bundle.manifest.graph("yolo"), batch=BATCH)
