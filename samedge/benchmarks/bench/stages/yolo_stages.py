"""Stages of YOLO and FastSAM. Prompts select among the masks that the network has already found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from samedge.api.yolo import YOLO, FastSAM
from samedge.benchmarks.bench.records import MaskAgreement
from samedge.benchmarks.bench.stages.family import BundleBench, PreparedModel
from samedge.benchmarks.bench.stages.one_graph_stages import graph_stages
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest
from samedge.benchmarks.bench.stages.serve import LoadedModel
from samedge.benchmarks.measure.rounds import process_clocks
from samedge.bundle.archive import ARCHIVE_SUFFIX, open_bundle
from samedge.bundle.manifest import Manifest
from samedge.engines.onnx_header import read_onnx_metadata
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.runtime.image.letterbox import Letterbox
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.fastsam import snap_to_border
from samedge.runtime.yolo.graph import DEFAULT_IMAGE_SIZE, PARITY, YoloGraph, describe_yolo
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.testing.engine import fake_engine
from samedge.types import Array, ImageArray, Verdict

_CHOOSING: Final = "suppression, masks of all objects found, and the selection among them"
INCLUDES: Final = {
    "preprocess": "letterbox, from BGR pixels",
    "encode": "the whole network",
    "prompt": f"{_CHOOSING} by one click",
    "boxes": f"{_CHOOSING} by 32 boxes",
    "everything": "from BGR pixels: letterbox, network, suppression, masks at image size",
}
_PROMPTED: Final = ("prompt", "boxes")
NO_PROMPTS: Final = "the model takes no prompts"
_GRAPH_ALONE: Final = "not recorded in a graph file"
_ANCHORS: Final = "probe set, the 20 best anchors"


class YoloBench(BundleBench):
    """The `samedge.benchmarks.bench.stages.family.FamilyBench` of YOLOv8 and FastSAM."""

    agreement = f"{__name__}:yolo_masks"
    judged = "the 20 best anchors"
    probes = _ANCHORS

    def kind(self, manifest: Manifest) -> str:
        """Return "fastsam" or "yolo"."""
        return _kind(f"{manifest.model.name} {manifest.model.checkpoint}")

    def recorded(self, manifest: Manifest) -> MaskAgreement | None:
        """Return the agreement in the manifest; None for a detector, which has no masks."""
        segments = manifest.yolo is not None and manifest.yolo.task == "segment"
        return super().recorded(manifest) if segments else None

    def prepare_graph(self, path: Path) -> PreparedModel:
        """Describe a graph without a bundle from its own metadata."""
        metadata = _metadata(path)
        verdict, recorded = _graph_parity(metadata)
        return PreparedModel(
            family=_kind(f"{path} {metadata.get('description', '')}"),
            architecture=metadata.get("description", "").partition(",")[0].lower(),
            artefact=str(path),
            image_size=_side(metadata),
            size_bytes=path.stat().st_size,
            seeded=metadata.get("seeded") == "True",
            verdict=verdict,
            recorded=recorded,
            empty=dict.fromkeys(("params", "gflops"), _GRAPH_ALONE),
        )

    def open(self, opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
        """Load a bundle or a graph."""
        prompted = opening.family == "fastsam"
        model = (FastSAM if prompted else YOLO)(
            opening.artefact, backend=opening.backend, device=opening.device, threads=opening.threads, force=True
        )
        engine, graph = model.predictor.engine, model.predictor.graph
        replay = _Replay(engine, graph)

        def feed(index: int) -> dict[str, Array]:
            (rows, columns), (height, width) = images[index].shape[:2], graph.image_size
            box = Letterbox.of(rows, columns, height, width, rect=not graph.fixed_size, stride=graph.stride)
            prepared: Array = box.input(images[index])
            return {graph.input: prepared.astype("float16") if graph.half else prepared}

        def results(index: int, outputs: Mapping[str, Array]) -> Results:
            replay.outputs = outputs
            return snap_to_border(replay.predictor.predict(images[index]))

        stages = graph_stages(
            opening,
            engine,
            feed=feed,
            results=results,
            everything=lambda index: model.predict(images[index])[0],
            begun=lambda: replay.begun,
        )
        without = () if prompted else _PROMPTED
        opened = OpenedModel(
            stages={name: includes for name, includes in INCLUDES.items() if name not in without},
            without=dict.fromkeys(without, NO_PROMPTS),
            image_stages=("everything",),
            backend=engine.backend,
            device=engine.device,
            details=dict(engine.details),
        )
        return LoadedModel(opened, {name: stages[name] for name in opened.stages}, model.close)


class _Replay:
    """A predictor whose network returns stored outputs at once, so that the work after the network can be timed.

    Attributes:
        outputs: The stored outputs.
        begun: The clocks when the network returned them.
    """

    def __init__(self, engine: Engine, graph: YoloGraph) -> None:
        self.outputs: Mapping[str, Array] = {}
        self.begun = (0.0, 0.0)
        self.predictor = YoloPredictor(fake_engine(engine.inputs, engine.outputs, self._run), graph)

    def _run(self, _: Mapping[str, Array]) -> Mapping[str, Array]:
        self.begun = process_clocks()
        return self.outputs


def yolo_masks(source: str, artefact: str, backend: str, threads: int | None, device: str = "cpu") -> dict[str, Any]:
    """Compare the boxes and masks of a graph, or its bundle, with those of its checkpoint in torch, on probe images.

    Called in a child process, because it needs torch. Returns ``worst`` of the IoUs of the 20 best anchors' masks, and
    ``passed``: True if boxes, scores and masks pass.
    """
    from samedge.export.yolo.parity import check_yolo
    from samedge.models.yolo.load import load_yolo

    path = Path(artefact)
    if path.is_dir() or path.suffix == ARCHIVE_SUFFIX:
        path = open_bundle(path, force=True).graph_path("yolo")
    with open_engine(path, backend=backend, device=device, threads=threads) as engine:
        description = describe_yolo(engine, _metadata(path))
        parity = check_yolo(load_yolo(source).model, engine, description.image_size, rect=not description.fixed_size)
    return {"worst": parity.mask_iou_min, "passed": parity.verdict == "passed"}


def _kind(text: str) -> str:
    """Return the kind that a name or description is of."""
    return "fastsam" if "fastsam" in text.lower() else "yolo"


def _metadata(path: Path) -> dict[str, str]:
    return read_onnx_metadata(path) if path.suffix.lower() == ".onnx" else {}


def _side(metadata: dict[str, str]) -> int:
    try:
        sides = json.loads(metadata.get("imgsz", ""))
    except ValueError:
        return DEFAULT_IMAGE_SIZE[0]
    return int(max(sides)) if isinstance(sides, list) and sides else DEFAULT_IMAGE_SIZE[0]


def _graph_parity(metadata: dict[str, str]) -> tuple[Verdict, MaskAgreement | None]:
    try:
        record = json.loads(metadata.get(PARITY, "{}"))
    except ValueError:
        record = {}
    verdict = record.get("verdict") if isinstance(record, dict) else None
    if verdict not in ("passed", "failed"):
        return "unchecked", None
    worst = record.get("mask_iou_min")
    known = isinstance(worst, (int, float))
    agreement = MaskAgreement(float(worst), None, f"{_ANCHORS}, at the export") if known else None
    return cast("Verdict", verdict), agreement
