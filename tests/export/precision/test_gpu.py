"""The ladder for GPUs: what passes is used, what fails is told, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.traced_graphs import DEMO, loaded, traced
from support.traced_graphs import VIT as TINY

import samedge
from samedge.bundle.manifest import MANIFEST_NAME, GraphRole, Manifest, ParityRecord, read_manifest
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.errors import UsageError
from samedge.export import sam_bundle
from samedge.export.exporter import export_model
from samedge.export.graphs.encoder_forms import ENCODER_FORMS
from samedge.export.graphs.plans import GraphPlan
from samedge.export.precision import int8
from samedge.export.precision.half import HALF_RUNGS, to_half
from samedge.export.precision.rounding import judged_graph
from samedge.export.torch_reference import TorchRunner
from samedge.parity.compare import FP32_THRESHOLDS, HALF_THRESHOLDS, INT8_THRESHOLDS, compare
from samedge.parity.graph_runner import GraphRunner, judged_roles
from samedge.parity.probes import probe_set

PASSED, FAILED = ParityRecord(verdict="passed"), ParityRecord(verdict="failed", mask_iou_mean=0.9)
ASSETS = Path(samedge.__file__).parent / "assets"


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing is the slow part, and the same for all."""

    def trace(plan: GraphPlan, opset: int) -> onnx.ModelProto:
        form = plan.variant if plan.variant in ENCODER_FORMS else "mask"
        return traced(TINY, plan.role, form, opset)

    monkeypatch.setattr(sam_bundle, "trace", trace)


def read(bundle: Path) -> Manifest:
    manifest = read_manifest(bundle / MANIFEST_NAME)
    assert {path.name for path in bundle.iterdir()} == {MANIFEST_NAME, *(file.file for file in manifest.files)}
    return manifest


class Judge:
    """Says what a test wants, and remembers what it was asked."""

    def __init__(self, verdicts: list[ParityRecord]) -> None:
        self.verdicts: Iterator[ParityRecord] = iter(verdicts)
        self.asked: list[tuple[str, str]] = []
        self.compare = sam_bundle._check_parity

    def __call__(self, *others: Any, **named: Any) -> ParityRecord:
        *_, graphs, thresholds = others
        if thresholds == FP32_THRESHOLDS:
            return self.compare(*others, **named)
        assert thresholds in (HALF_THRESHOLDS, INT8_THRESHOLDS)
        self.asked.append((graphs[0].variant, graphs[1].variant))
        return next(self.verdicts)


def test_fp16_is_proved_with_rounding_and_runs(tmp_path: Path) -> None:
    manifest = read(bundle := export_model(TINY, precision="fp16", output=tmp_path / "b"))
    assert {graph.precision for graph in manifest.graphs} == {"fp16"}
    assert [graph.variant for graph in manifest.graphs] == ["mask, fp16", *["default, fp16"] * 4]
    assert {graph.opset for graph in manifest.graphs} == {17}
    assert manifest.parity.verdict == "passed"
    assert manifest.parity.backend == "onnxruntime cpu, float16 rounded"
    assert manifest.parity.thresholds == HALF_THRESHOLDS
    assert 0.995 < manifest.parity.mask_iou_mean < 1
    assert manifest.notes == ()
    assert {t.dtype for g in manifest.graphs for t in (*g.inputs.values(), *g.outputs.values())} == {"float32", "int32"}
    with samedge.load(bundle, "onnxruntime", threads=1) as predictor:
        predictor.set_image(np.zeros((40, 60, 3), np.uint8))
        assert predictor.predict(points=[20, 20]).masks.shape == (1, 40, 60)


def test_each_half_of_the_model_walks_down_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge([FAILED, FAILED, PASSED, FAILED, FAILED, PASSED])
    monkeypatch.setattr(sam_bundle, "_check_parity", judge)
    manifest = read(export_model(TINY, precision="fp16", form="concat", output=tmp_path / "b"))
    assert judge.asked == [
        ("concat, fp16", "default, fp16"),
        ("concat, fp16", "default"),
        ("concat, fp16-norms", "default"),
        ("concat, fp16-norms", "default, fp16"),
        ("concat, fp16-norms", "default, fp16-norms"),
        ("concat, fp16-norms", "default, fp16-attention"),
    ]
    assert [graph.variant for graph in manifest.graphs[:2]] == ["concat, fp16-norms", "default, fp16-attention"]
    assert manifest.parity == PASSED
    assert len(manifest.notes) == 6
    assert manifest.notes[0].startswith("float16 for all graphs is not used: masks agree with float32 by 0.900")
    assert manifest.notes[2] == "the encoder is float16, norms and softmax float32"
    assert manifest.notes[5] == "the decoder is float16, norms and attention float32"


def test_what_fails_on_all_rungs_stays_float32_and_is_judged_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge([FAILED] * 7)
    monkeypatch.setattr(sam_bundle, "_check_parity", judge)
    manifest = read(export_model(TINY, precision="fp16", output=tmp_path / "b"))
    assert {graph.precision for graph in manifest.graphs} == {"fp32"}
    assert "embedding_error_max" in manifest.parity.thresholds
    assert manifest.parity.verdict == "passed"
    assert len(manifest.notes) == len(judge.asked) == 7


def test_fp8_is_written_on_top_of_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SMALLEST_LINEAR", 1024)
    judge = Judge([PASSED, FAILED, PASSED])
    monkeypatch.setattr(sam_bundle, "_check_parity", judge)
    bundle = export_model(TINY, precision="fp8", calib=ASSETS, output=tmp_path / "b")
    manifest = read(bundle)
    encoder = manifest.graph("encoder")
    assert (encoder.precision, encoder.opset) == ("fp8", 19)
    assert encoder.variant == "mask, fp8 static, all linear layers but those that narrow, fp16"
    assert {graph.precision for graph in manifest.graphs[1:]} == {"fp16"}
    assert manifest.notes[-1].endswith("is used; only the GPU can tell whether it is faster")
    kinds = {tensor.data_type for tensor in onnx.load(bundle / encoder.graph.file).graph.initializer}
    assert {onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT16} < kinds


def test_int8_that_fails_leaves_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SMALLEST_LINEAR", 1024)
    monkeypatch.setattr(sam_bundle, "_check_parity", Judge([PASSED, FAILED, FAILED]))
    manifest = read(export_model(TINY, precision="int8", form="mask", calib=ASSETS, output=tmp_path / "b"))
    assert {graph.precision for graph in manifest.graphs} == {"fp16"}
    assert manifest.parity == PASSED
    assert [note.partition(" is ")[0] for note in manifest.notes] == [
        "int8 (every linear layer)",
        "int8 (all linear layers but those that narrow)",
    ]


def test_unchecked_is_said(tmp_path: Path) -> None:
    manifest = read(export_model(TINY, precision="fp16", check=False, output=tmp_path / "b"))
    assert manifest.parity.verdict == "unchecked"
    assert manifest.notes == ("float16 was not checked",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "fp8 needs calibration images"),
        ({"precision": "fp8", "calib": ".", "opset": 17}, "opset 17 has no fp8"),
        ({"precision": "fp8", "calib": ".", "io": "samexporter"}, "not supported in the samexporter scheme"),
        ({"precision": "fp16", "calib": "."}, "calibration images are only for int8 and fp8"),
        ({"precision": "fp4"}, "unknown precision 'fp4'.*fp32, fp16, int8, fp8"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export_model(TINY, output=tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


def test_masks_of_trained_weights_stay_on_every_rung(tmp_path: Path) -> None:
    sam = loaded(DEMO)
    probes = probe_set(sam.image_size, sam.embedding_size)  # all, as engines are judged
    figures = []
    for rung in HALF_RUNGS:
        with ExitStack() as stack:
            engines: dict[GraphRole, Engine] = {}
            roles: tuple[GraphRole, ...] = ("encoder", "decoder")
            for role in roles:
                model = traced(DEMO, role)
                to_half(model, rung)
                onnx.save(model, tmp_path / f"{role}.onnx")
                file = stack.enter_context(judged_graph(tmp_path / f"{role}.onnx"))
                engines[role] = stack.enter_context(open_engine(file, backend="onnxruntime", device="cpu", threads=1))
            runner = GraphRunner(engines, "native", sam_bundle._input_record(sam), sam.embedding_size)
            reference = TorchRunner(sam, judged_roles(engines))
            figures.append(compare(reference, runner, probes, backend="", thresholds=HALF_THRESHOLDS, shown_only=True))
    assert {parity.verdict for parity in figures} == {"passed"}
    means = [parity.mask_iou_mean for parity in figures]
    assert min(means) > 0.997
    for before, after in pairwise(means):
        assert after > before - 5e-4  # which is noise
    assert means[-1] > 0.9999 > max(means[:-1])
