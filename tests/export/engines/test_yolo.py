"""Engines of YOLO bundles on a board: judged by the bundle's own graph, found by key, refused where they are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.boards import ORIN, RTX3060, Board, overflown, shifted
from support.yolo_models import CONF, DETECTOR, SIDE, SMALL, bundle, checkpoint

import samedge
from samedge.api.yolo import YOLO, FastSAM
from samedge.bundle.archive import bundle_manifest, engines_folder, open_bundle
from samedge.bundle.engine_notes import engine_notes
from samedge.bundle.engines import bundle_pairs
from samedge.bundle.manifest import MANIFEST_NAME, encode_manifest
from samedge.engines.protocol import Availability
from samedge.engines.registry import availability
from samedge.engines.tensorrt.store.sidecar import read_sidecar
from samedge.errors import BackendUnavailableError, BundleError, EngineError, ParityError, UsageError
from samedge.export.engines.build import build_engines
from samedge.export.engines.yolo import yolo_profiles
from samedge.export.exporter import export_with_engines
from samedge.models.yolo.yolo import YoloConfig
from samedge.options import AxisRange, ExportOptions
from samedge.parity import yolo_verify
from samedge.parity.verify import verify_bundle
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.types import Array

COFFEE = Path(samedge.__file__).parent / "assets" / "coffee.jpg"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAMEDGE_AUTO", "first")
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Path]:
    """The same bundle at a place of its own, so that engines beside it are those of one test."""

    def copied(config: YoloConfig = SMALL, *, nms: bool = False, dynamic: bool = True, **changes: Any) -> Path:
        folder = tmp_path / "small-samedge"
        folder.mkdir()
        made = bundle(config, nms=nms, dynamic=dynamic)
        for path in made.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        manifest = msgspec.structs.replace(bundle_manifest(made), **changes)
        (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
        return folder

    return copied


def no_reference(name: str) -> Availability:
    return Availability(False, f"{name} is not installed")


def less_sure(array: Array) -> Array:
    """Scores that are a tenth lower; boxes and masks as they were."""
    changed = array.copy()
    changed[:, 4 : 4 + SMALL.classes] *= np.float32(0.9)
    return changed


class TestBuilding:
    @pytest.mark.parametrize("config", [SMALL, DETECTOR], ids=["segmenter", "detector"])
    def test_an_engine_that_is_the_graph_lies_beside_the_bundle(
        self, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, config: YoloConfig
    ) -> None:
        board = Board(monkeypatch)
        path = board.serve(own(config))
        steps: list[str] = []
        built = build_engines(path, progress=lambda step, _share: steps.append(step))
        assert (built.verdict, built.rungs, built.precision) == ("passed", ("fp16",), "fp16")
        assert built.plans == {"yolo": engines_folder(path) / "yolo.tensorrt.orin-nvgpu-sm87.engine"}
        assert built.notes == ()
        assert board.builds == [("yolo", "fp16")]
        assert "Comparing with the bundle's graph: image 5 of 5" in steps
        assert built.parity.backend == "fake cuda:0, as onnxruntime cpu"
        assert len(built.parity.rows) == 5
        sidecar = read_sidecar(built.plans["yolo"])
        assert sidecar is not None
        assert sidecar.key.profiles == {"batch": "1/1/4", "height": "32/128/1280", "width": "32/128/1280"}
        notes = engine_notes(sidecar)
        assert notes is not None
        assert (notes.role, notes.rung, notes.verdict, notes.partner_sha256) == ("yolo", "fp16", "passed", "")

        again = build_engines(path)
        assert (again.verdict, len(board.builds), len(board.opened)) == ("passed", 1, 1)

    @pytest.mark.parametrize("spoil", [overflown, shifted, less_sure])
    def test_wrong_values_walk_down_the_ladder_and_the_rung_is_remembered(
        self, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Array], Array]
    ) -> None:
        board = Board(monkeypatch)
        board.wrong = {("yolo", "fp16"): spoil}
        path = board.serve(own())
        built = build_engines(path)
        assert (built.verdict, built.rungs) == ("passed", ("fp32",))
        assert [(attempt.encoder, attempt.decoder, attempt.passed) for attempt in built.attempts] == [
            ("fp16", "", False),
            ("fp32", "", True),
        ]
        assert str(built.attempts[0]).startswith("fp16: failed, boxes off by up to ")
        board.builds.clear()
        assert len(build_engines(path, batch="1/2/8").attempts) == 1
        assert board.builds == [("yolo", "fp32")]

    def test_where_no_rung_passes_it_is_kept_and_refused(
        self, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        board = Board(monkeypatch)
        board.wrong = {("yolo", "fp32"): overflown}
        path = board.serve(own())
        built = build_engines(path, precision="fp32")
        assert (built.verdict, built.rungs) == ("failed", ("fp32",))
        with pytest.raises(ParityError, match=r"the checkpoint's boxes and masks .*samedge build .*force"):
            samedge.load(path, backend="tensorrt")
        with samedge.load(path, backend="tensorrt", force=True) as predictor:
            assert predictor.device == "cuda:0"
        with samedge.load(path) as predictor:
            assert (predictor.backend, predictor.device) == ("onnxruntime", "cpu")

    @pytest.mark.parametrize("why", ["no GPU", "asked for", "no reference", "unproved", "suppression"])
    def test_what_cannot_be_judged_is_unchecked_and_why(
        self, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, why: str
    ) -> None:
        board = Board(monkeypatch, *(("rtx", None) if why == "no GPU" else ("10.3", ORIN)))
        parity = bundle_manifest(bundle()).parity
        changes = {"parity": msgspec.structs.replace(parity, verdict="unchecked")} if why == "unproved" else {}
        path = board.serve(own(nms=why == "suppression", **changes))
        sentence = {
            "no GPU": "cannot be run without a GPU: they will be checked on the device",
            "asked for": "not checked, as requested",
            "no reference": "no other backend is installed to run its graph on the CPU",
            "unproved": "its graph was not compared with its checkpoint",
            "suppression": "rounding near a threshold makes a box disappear",
        }[why]
        if why == "no reference":
            monkeypatch.setattr(yolo_verify, "availability", no_reference)
        built = build_engines(path, targets=("8.6",) if why == "no GPU" else (), check=why != "asked for")
        assert (built.verdict, built.rungs, board.opened) == ("unchecked", ("fp16",), [])
        assert sentence in built.notes[0]
        if why != "no GPU":  # the same holds when it is loaded, but where no check was only what was asked for
            samedge.load(path, backend="tensorrt").close()
            verdict = bundle_pairs(open_bundle(path))[0].verdict
            assert verdict == ("passed" if why == "asked for" else "unchecked")

    def test_int8_is_built_as_it_is(self, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        (graph,) = bundle_manifest(bundle()).graphs
        board = Board(monkeypatch)
        path = board.serve(own(graphs=(msgspec.structs.replace(graph, precision="int8", variant="int8 static"),)))
        board.wrong = {("yolo", "fp32"): less_sure}  # this far off int8 may be
        built = build_engines(path)
        assert (built.precision, built.rungs, built.verdict) == ("int8", ("int8 as exported",), "passed")
        assert [options.precision for options in board.options] == ["int8"]
        with pytest.raises(UsageError, match="the bundle's graph is int8, not fp16"):
            build_engines(path, precision="fp16")

    def test_a_fixed_size_has_a_profile_of_images_alone(
        self, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        board = Board(monkeypatch)
        path = board.serve(own(dynamic=False))
        built = build_engines(path, batch="2/4/4")
        sidecar = read_sidecar(built.plans["yolo"])
        assert sidecar is not None
        assert sidecar.key.profiles == {"batch": "2/4/4"}
        assert built.verdict == "passed"
        with pytest.raises(UsageError, match=r"--height: the graph fixes the height of its input"):
            build_engines(path, height="64")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"prompts": "1/2/3"}, "--prompts: not supported for a YOLO"),
            ({"points": "2/2/3"}, "--points: not supported for a YOLO"),
            ({"height": "32/100/320"}, "--height: sizes of 32/100/320 px are unsupported. Choose multiples"),
            ({"width": "many"}, "--width: invalid range 'many'"),
            ({"batch": "4/2/1"}, "invalid profile 4/2/1"),
            ({"precision": "int8"}, "the bundle's graph is fp32, not int8"),
        ],
    )
    def test_what_means_nothing_is_refused_before_anything_is_built(
        self, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
    ) -> None:
        board = Board(monkeypatch)
        with pytest.raises(UsageError) as caught:
            build_engines(board.serve(bundle()), **arguments)
        assert message in str(caught.value)
        assert board.builds == []

    def test_defaults_reach_from_the_stride_to_the_largest_models(self) -> None:
        manifest = bundle_manifest(bundle())
        assert manifest.yolo is not None
        large = msgspec.structs.replace(manifest, yolo=msgspec.structs.replace(manifest.yolo, image_size=(640, 1536)))
        assert yolo_profiles(large, {"batch": None, "height": None, "width": None}) == {
            "batch": AxisRange(1, 1, 4),
            "height": AxisRange(32, 640, 1280),
            "width": AxisRange(32, 1536, 1536),
        }

    def test_suppression_is_not_for_rtx(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        board = Board(monkeypatch, "rtx", RTX3060)
        path = board.serve(bundle(nms=True))
        message = r"TensorRT for RTX has no NonMaxSuppression\. Export without --nms"
        with pytest.raises(UsageError, match=message):
            build_engines(path)
        with pytest.raises(UsageError, match=message):
            samedge.load(path, backend="tensorrt-rtx")
        with pytest.raises(UsageError, match=message):
            samedge.export_model("seeded:yolov8n", format="rtx", nms=True, output=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert samedge.load(path).backend == "onnxruntime"


class TestLoading:
    @pytest.fixture
    def board(self, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Board:
        board = Board(monkeypatch, "rtx", RTX3060)
        self.path = board.serve(own())
        return board

    def test_what_it_finds_is_what_the_graph_finds(self, board: Board) -> None:
        build_engines(self.path)
        wanted = YOLO(self.path, backend="onnxruntime")(COFFEE, conf=CONF)[0]
        for backend in ("auto", "tensorrt-rtx"):
            model = YOLO(self.path, backend=backend)
            assert (model.predictor.device, model.task, model.names) == ("cuda:0", "segment", {0: "0", 1: "1", 2: "2"})
            assert (model.predictor.graph.stride, model.predictor.graph.image_size) == (32, (SIDE, SIDE))
            found = model(COFFEE, conf=CONF)[0]
            assert found.boxes is not None
            assert wanted.boxes is not None
            np.testing.assert_array_equal(found.boxes.data, wanted.boxes.data)
            assert len(found) > 0
        assert FastSAM(self.path, backend="rtx")(COFFEE, bboxes=[[100, 50, 400, 300]], conf=CONF)[0].masks is not None
        assert samedge.load(self.path, device="cpu").backend == "onnxruntime"

    def test_an_engine_from_elsewhere_is_checked_when_it_is_first_loaded(
        self, board: Board, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        board.gpu = None
        assert build_engines(self.path, targets=("8.6",)).verdict == "unchecked"
        board.gpu = RTX3060
        with samedge.load(self.path, kind="yolo") as predictor:
            assert predictor.device == "cuda:0"
        assert bundle_pairs(open_bundle(self.path))[0].verdict == "passed"
        monkeypatch.setattr("samedge.parity.yolo_verify.YoloParity.verify_engines", None)  # not asked again
        assert samedge.load(self.path, backend="rtx").device == "cuda:0"

    def test_one_from_elsewhere_that_is_wrong_is_left_alone_by_auto(self, board: Board) -> None:
        board.gpu = None
        build_engines(self.path, targets=("8.6",))
        board.gpu, board.wrong = RTX3060, {("yolo", "fp16"): overflown}
        with samedge.load(self.path) as predictor:
            assert predictor.backend == "onnxruntime"
        assert bundle_pairs(open_bundle(self.path))[0].verdict == "failed"
        with pytest.raises(ParityError, match="do not reproduce the checkpoint's boxes and masks"):
            samedge.load(self.path, backend="tensorrt-rtx")

    def test_without_a_fitting_engine_the_command_is_said(self, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(EngineError, match=r"there is no engine of this bundle.*samedge build .* --flavour rtx"):
            samedge.load(self.path, backend="tensorrt-rtx")
        build_engines(self.path)
        board.opened.clear()
        module: Any = board.tensorrt.module
        monkeypatch.setattr(module, "__version__", "1.9.0.1")
        with pytest.raises(EngineError, match=r"it was built by version 1.7.1.116, but this is 1.9.*samedge build"):
            samedge.load(self.path, backend="tensorrt-rtx")
        assert samedge.load(self.path).backend == "onnxruntime"
        assert board.opened == []

    def test_a_sam_was_asked_for(self, board: Board) -> None:
        build_engines(self.path)
        with pytest.raises(BundleError, match=r"bundle of a yolov8-seg.*samedge\.YOLO"):
            samedge.load(self.path, kind="sam")

    def test_its_ranges_are_kept_to(self, board: Board) -> None:
        """No more images at once, no other sizes, and the padding is cut down only as far as it may be."""
        build_engines(self.path, batch="2/2/3", height="96/128/160", width="128/128/160")
        shapes: list[tuple[int, ...]] = []
        with samedge.load(self.path, backend="rtx", kind="yolo") as predictor:
            raw: Any = predictor.engine._raw
            wide = np.zeros((20, 100, 3), np.uint8)
            predictor.predict_batch([COFFEE] * 5 + [wide])
            shapes = [call["images"].shape for call in raw.calls[-3:]]
            with pytest.raises(UsageError, match=r"imgsz is 320, but this engine accepts 96 to 160 x 128 to 160 px"):
                predictor.predict(COFFEE, image_size=320)
        # 600 x 400 becomes 128 x 96; 100 x 20 would become 128 x 32, which is too low.
        assert shapes == [(3, 3, 96, 128), (2, 3, 96, 128), (2, 3, 128, 128)]

    def test_another_size_is_the_usual_one_if_the_models_own_is_not_taken(self, board: Board) -> None:
        assert build_engines(self.path, height="64/96/96", width="64/96/96").verdict == "passed"
        with samedge.load(self.path, backend="rtx", kind="yolo") as predictor:
            assert isinstance(predictor, YoloPredictor)
            assert max(predictor.predict(COFFEE).orig_shape) == 600


class TestVerifying:
    def test_a_backend_is_compared_with_another_one(self) -> None:
        record = verify_bundle(bundle(), backend="onnxruntime")
        assert record.verdict == "passed"
        if availability("openvino").ok:
            assert record.backend == "onnxruntime cpu, as openvino cpu"
            assert verify_bundle(bundle(), backend="openvino").backend == "openvino cpu, as onnxruntime cpu"

    def test_there_is_no_other_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(yolo_verify, "availability", no_reference)
        with pytest.raises(BackendUnavailableError, match=r"cannot be verified: no other backend is installed"):
            verify_bundle(bundle())

    def test_an_engine_and_the_verdict_is_kept(self, own: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        board = Board(monkeypatch)
        path = board.serve(own())
        build_engines(path)
        board.wrong = {("yolo", "fp16"): overflown}  # a driver that was updated, say
        record = verify_bundle(path, backend="trt")
        assert (record.verdict, record.box_error_max > 1e30) == ("failed", True)
        assert bundle_pairs(open_bundle(path))[0].parity == record


class TestExport:
    def test_engines_at_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        board = Board(monkeypatch, "rtx", None)
        serve_all(board, monkeypatch)
        target, built = export_with_engines(
            checkpoint(),
            ExportOptions().updated(
                "rtx", output=tmp_path / "a", image_size=64, targets=("8.6",), batch="1/2/2", check=False
            ),
        )
        assert built.plans["yolo"].parent == tmp_path / "a-engines"
        assert bundle_manifest(target).graph("yolo").variant == "default"
        assert board.options[-1].profiles["batch"] == AxisRange(1, 2, 2)

    def test_as_people_type_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        board = Board(monkeypatch)
        serve_all(board, monkeypatch)
        path = YOLO(checkpoint()).export(format="engine", output=tmp_path / "a", imgsz=64, batch=2, check=False)
        assert path == str(tmp_path / "a")
        assert board.options[-1].profiles["batch"] == AxisRange(2, 2, 2)
        assert bundle_manifest(path).yolo == msgspec.structs.replace(
            bundle_manifest(bundle()).yolo,  # type: ignore[type-var]
            image_size=(64, 64),
            dynamic=False,
        )
        assert YOLO(path, backend="tensorrt").predictor.device == "cuda:0"
        with pytest.raises(UsageError, match=r"the model is already a bundle. Build its engine: samedge build"):
            YOLO(path).export(format="engine")
        with pytest.raises(UsageError, match=r"unknown format 'tflite'. Choose one of: onnx, trt, rtx, engine"):
            YOLO(checkpoint()).export(format="tflite")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"targets: not supported for an ONNX file"):
            YOLO(checkpoint()).export(targets=("8.6",))

    @pytest.mark.parametrize("precision", ["fp16", "fp8"])
    def test_float16_is_for_engines(self, tmp_path: Path, precision: Any) -> None:
        calib = COFFEE if precision == "fp8" else None
        with pytest.raises(UsageError, match=r"exported in fp32 or int8, not fp\d+.*samedge build"):
            samedge.export_model(checkpoint(), precision=precision, calib=calib, output=tmp_path / "a", check=False)
        assert not (tmp_path / "a").exists()


def serve_all(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tells the board of a bundle as soon as its engines are built."""
    from samedge.export import exporter

    def build(path: Path, **how: Any) -> Any:
        return build_engines(board.serve(path), **how)

    monkeypatch.setattr(exporter, "build_engines", build)
