"""Stages of YOLO and FastSAM. Their prompts select among the masks that the network has already found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from samedge.api.yolo import YOLO, FastSAM
from samedge.benchmarks.bench.records import MaskAgreement
from samedge.benchmarks.bench.stages.family import PreparedModel, probed_agreement
from samedge.benchmarks.bench.stages.peer_protocol import OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel
from samedge.benchmarks.measure.device_memory import used_device_bytes
from samedge.benchmarks.measure.rounds import process_clocks, timed
from samedge.bundle.manifest import Manifest
from samedge.engines.onnx_header import read_onnx_metadata
from samedge.engines.protocol import Engine
from samedge.runtime.image.letterbox import Letterbox
from samedge.runtime.results.choose import choose
from samedge.runtime.results.results import Results
from samedge.runtime.yolo.fastsam import snap_to_border
from samedge.runtime.yolo.graph import DEFAULT_IMAGE_SIZE, PARITY, YoloGraph
from samedge.runtime.yolo.predictor import YoloPredictor
from samedge.testing.engine import fake_engine
from samedge.types import Array, ImageArray, Verdict

INCLUDES: Final = {
    "preprocess": "letterbox, from BGR pixels",
    "encode": "the whole network",
    "everything": "from BGR pixels: letterbox, network, suppression, masks at image size",
}
_CHOOSING: Final = "suppression, masks of all objects found, and the selection among them"
NO_PROMPTS: Final = "the model takes no prompts"
_GRAPH_ALONE: Final = "not recorded in a graph file"
_ANCHORS: Final = "probe set, the 20 best anchors"


class YoloBench:
    """The `samedge.benchmarks.bench.stages.family.FamilyBench` of YOLOv8 and FastSAM."""

    grid = False
    agreement = "samedge.benchmarks.measure.agreement:yolo_masks"
    judged = "the 20 best anchors"

    def kind(self, manifest: Manifest) -> str:
        """See `FamilyBench`."""
        return _kind(f"{manifest.model.name} {manifest.model.checkpoint}")

    def recorded(self, manifest: Manifest) -> MaskAgreement | None:
        """See `FamilyBench`: a detector has no masks."""
        segments = manifest.yolo is not None and manifest.yolo.task == "segment"
        return probed_agreement(manifest, _ANCHORS) if segments else None

    def prepare_graph(self, path: Path) -> PreparedModel:
        """See `FamilyBench`."""
        return _graph(path)

    def open(self, opening: OpenRequest, pictures: list[ImageArray]) -> LoadedModel:
        """See `FamilyBench`."""
        return open_yolo(opening, pictures)


def open_yolo(opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
    """Load a YOLO or FastSAM model.

    Args:
        opening: The request.
        images: The images.

    Raises:
        SamedgeError: The model cannot be loaded.
    """
    from samedge.benchmarks.measure.device_memory import device_bytes_of

    prompted = opening.family == "fastsam"
    before = used_device_bytes(None)
    model = (FastSAM if prompted else YOLO)(
        opening.artefact, backend=opening.backend, device=opening.device, threads=opening.threads, force=True
    )
    predictor = model.predictor
    stages = _stages(opening, model, images, prompted=prompted)
    choosing = {"prompt": f"{_CHOOSING} by one click", "boxes": f"{_CHOOSING} by 32 boxes"}
    opened = OpenedModel(
        stages={name: {**INCLUDES, **choosing}[name] for name in stages},
        without={} if prompted else dict.fromkeys(("prompt", "boxes"), NO_PROMPTS),
        image_stages=("everything",),
        backend=predictor.engine.backend,
        device=predictor.engine.device,
        details=dict(predictor.engine.details),
    )
    return LoadedModel(opened, stages, model.close, device_bytes_of(opened.device, before))


class _Replay:
    """A predictor whose network returns stored outputs at once, so that the work after the network can be timed.

    Args:
        engine: The network.
        graph: Description of its inputs and outputs.
    """

    def __init__(self, engine: Engine, graph: YoloGraph) -> None:
        self.outputs: Mapping[str, Array] = {}
        self._clocks = (0.0, 0.0)
        self.predictor = YoloPredictor(fake_engine(engine.inputs, engine.outputs, self._run), graph)

    def _run(self, _: Mapping[str, Array]) -> Mapping[str, Array]:
        self._clocks = process_clocks()
        return self.outputs

    def begun(self) -> tuple[float, float]:
        """Return the clocks at the time of the network's outputs."""
        return self._clocks


def _stages(
    opening: OpenRequest, model: YOLO, images: list[ImageArray], *, prompted: bool
) -> dict[str, Callable[[int], StageTiming]]:
    engine, graph = model.predictor.engine, model.predictor.graph
    replay = _Replay(engine, graph)
    outputs: dict[int, Mapping[str, Array]] = {}

    def feed_of(image: ImageArray) -> dict[str, Array]:
        (rows, columns), (height, width) = image.shape[:2], graph.image_size
        box = Letterbox.of(rows, columns, height, width, rect=not graph.fixed_size, stride=graph.stride)
        feed: Array = box.input(image)
        return {graph.input: feed.astype("float16") if graph.half else feed}

    def preprocess(index: int) -> StageTiming:
        wall, cpu, _ = timed(lambda: feed_of(images[index]))
        return StageTiming(wall, cpu)

    def encode(index: int) -> StageTiming:
        feeds = feed_of(images[index])
        wall, cpu, outputs[index] = timed(lambda: engine.run(feeds))
        return StageTiming(wall, cpu)

    def prompt(index: int, **prompts: Any) -> StageTiming:
        if index not in outputs:
            outputs[index] = engine.run(feed_of(images[index]))
        replay.outputs = outputs[index]

        def chosen() -> Results:
            return choose(snap_to_border(replay.predictor.predict(images[index])), **prompts)

        wall, cpu, results = timed(chosen, begun=replay.begun)
        return StageTiming(wall, cpu, figures={"masks": len(results)})

    def everything(index: int) -> StageTiming:
        wall, cpu, results = timed(lambda: model.predict(images[index]))
        return StageTiming(wall, cpu, figures={"masks": len(results[0])})

    stages: dict[str, Callable[[int], StageTiming]] = {
        "preprocess": preprocess, "encode": encode, "everything": everything,
    }  # fmt: skip
    if prompted:
        stages |= {
            "prompt": lambda index: prompt(index, points=[opening.points[index]]),
            "boxes": lambda index: prompt(index, bboxes=opening.boxes[index]),
        }
    return stages


def _kind(text: str) -> str:
    """Return which of the two a name or description is of."""
    return "fastsam" if "fastsam" in text.lower() else "yolo"


def _graph(path: Path) -> PreparedModel:
    """Describe a YOLO or FastSAM graph without a bundle from its own metadata."""
    metadata = read_onnx_metadata(path) if path.suffix.lower() == ".onnx" else {}
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
    agreement = (
        MaskAgreement(float(worst), None, f"{_ANCHORS}, at the export") if isinstance(worst, (int, float)) else None
    )
    return cast("Verdict", verdict), agreement
