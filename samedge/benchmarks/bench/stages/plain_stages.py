"""Stages of a plain ONNX export: the reference encoder and Meta's decoder in default sessions."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Capabilities, OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel, timed_stage
from samedge.benchmarks.measure.artefacts import versions_of
from samedge.benchmarks.targets.variants import plain_session
from samedge.bundle.archive import open_bundle
from samedge.errors import BenchmarkError
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.image.read import as_bgr
from samedge.types import Array, BoolArray

NAME: Final = "plain-onnx"
INCLUDES: Final = {
    "encode": "the encoder's graph, opset 17, exported by torch and not simplified",
    "prompt": "Meta's decoder graph with one click; it draws all four masks at image size",
    "boxes": "Meta's decoder graph 32 times, one box per call, which is its maximum",
}
WITHOUT: Final = {"preprocess": "users write their own", "everything": "Meta's generator does not run on ONNX"}


def hello() -> Capabilities:
    """Report if onnxruntime and the exporting reference packages are installed."""
    missing = [name for name in ("onnxruntime", "torch", "segment_anything", "mobile_sam") if find_spec(name) is None]
    if missing:
        reason = f"{', '.join(missing)}: not installed (pip install 'samedge[bench]')"
        return Capabilities(PROTOCOL, NAME, can=False, reason=reason)
    return Capabilities(PROTOCOL, NAME, f"onnxruntime {versions_of('onnxruntime').get('onnxruntime', '')}")


def open_model(opening: OpenRequest) -> LoadedModel:
    """Open both graphs."""
    if not opening.plain:
        raise BenchmarkError(
            "the reference packages export SAM only", where=opening.name, cure="Measure a SAM model, or drop this peer"
        )
    if (opening.device or "cpu") != "cpu":
        raise BenchmarkError("the plain export runs on the CPU only", where=opening.name, cure="Use --device cpu")
    encoder = plain_session(Path(opening.plain) / "encoder.onnx", opening.threads)
    decoder = plain_session(Path(opening.plain_decoder) / "decoder.onnx", opening.threads)
    images = [as_bgr(path) for path in opening.images]
    geometries = [ImageGeometry.of(image.shape[0], image.shape[1], opening.image_size) for image in images]
    numbers = open_bundle(opening.artefact, force=True, verify=False).manifest.input
    embeddings: dict[int, Array] = {}

    def encode(index: int) -> StageTiming:
        image = normalised_input(images[index], geometries[index], numbers)
        feeds = {encoder.get_inputs()[0].name: image}
        timing, embeddings[index] = timed_stage(lambda: encoder.run(None, feeds)[0])
        return timing

    def prompted(index: int, prompts: list[tuple[Array, Array]]) -> StageTiming:
        if index not in embeddings:
            encode(index)
        feeds = _feeds(embeddings[index], geometries[index])

        def call() -> list[BoolArray]:
            masks = []
            for points, labels in prompts:
                coords = geometries[index].to_input(points)
                inputs = {**feeds, "point_coords": coords[None], "point_labels": labels[None]}
                masks.append(decoder.run(["masks"], inputs)[0][0, 0] > 0)
            return masks

        return timed_stage(call, len)[0]

    stages: dict[str, Callable[[int], StageTiming]] = {
        "encode": encode,
        "prompt": lambda index: prompted(index, [_click(opening.points[index])]),
        "boxes": lambda index: prompted(index, [_box(box) for box in opening.boxes[index]]),
    }
    opened = OpenedModel(
        stages=INCLUDES,
        without=WITHOUT,
        backend="onnxruntime",
        device="cpu",
        details={**versions_of("onnxruntime"), "threads": str(opening.threads)},
    )
    return LoadedModel(opened, stages)


def _click(point: tuple[float, float]) -> tuple[Array, Array]:
    """Return a click with the padding point that replaces a box."""
    return np.array([point, (0, 0)], np.float32), np.array([1, -1], np.float32)


def _box(box: tuple[float, float, float, float]) -> tuple[Array, Array]:
    return np.array(box, np.float32).reshape(2, 2), np.array([2, 3], np.float32)


def _feeds(embedding: Array, geometry: ImageGeometry) -> dict[str, Any]:
    side = 4 * embedding.shape[-1]
    return {
        "image_embeddings": embedding,
        "mask_input": np.zeros((1, 1, side, side), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array([geometry.height, geometry.width], np.float32),
    }
