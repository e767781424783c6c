"""The stages of a plain ONNX export: the reference encoder and Meta's decoder, in sessions as everybody opens them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Hello, Opened, Opening, Ran
from samedge.benchmarks.bench.stages.serve import Loaded
from samedge.benchmarks.measure.artefacts import versions_of
from samedge.benchmarks.measure.rounds import timed
from samedge.benchmarks.targets.variants import plain_session
from samedge.bundle.archive import open_bundle
from samedge.errors import BenchmarkError
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.image.read import as_bgr
from samedge.types import Array, BoolArray

NAME: Final = "plain-onnx"
INCLUDES: Final = {
    "encode": "the encoder's graph, opset 17, exported by torch and not simplified",
    "prompt": "Meta's decoder graph with one click; it draws all four masks at the size of the image",
    "boxes": "Meta's decoder graph 32 times, one box a call, which is all it takes",
}
WITHOUT: Final = {
    "preprocess": "everybody writes their own",
    "everything": "Meta's generator does not run on ONNX",
}


def hello() -> Hello:
    """Whether onnxruntime is installed, and what exports: the reference packages."""
    missing = [name for name in ("onnxruntime", "torch", "segment_anything", "mobile_sam") if find_spec(name) is None]
    if missing:
        return Hello(
            PROTOCOL, NAME, can=False, reason=f"{', '.join(missing)}: not installed (pip install 'samedge[bench]')"
        )
    return Hello(PROTOCOL, NAME, f"onnxruntime {versions_of('onnxruntime').get('onnxruntime', '')}")


def open_model(opening: Opening) -> Loaded:
    """Open both graphs.

    Raises:
        BenchmarkError: There is no such export of this model.
        MissingExtraError: onnxruntime is not installed.
    """
    if opening.family != "sam" or not opening.plain:
        raise BenchmarkError("the reference packages export SAM's graphs alone", where=opening.name)
    if (opening.device or "cpu") != "cpu":
        raise BenchmarkError("the plain export is measured on the CPU", where=opening.name)
    encoder = plain_session(Path(opening.plain) / "encoder.onnx", opening.threads)
    decoder = plain_session(Path(opening.plain_decoder) / "decoder.onnx", opening.threads)
    pictures = [as_bgr(path) for path in opening.images]
    geometries = [ImageGeometry.of(picture.shape[0], picture.shape[1], opening.image_size) for picture in pictures]
    numbers = open_bundle(opening.artefact, force=True, verify=False).manifest.input
    embeddings: dict[int, Array] = {}

    def encode(picture: int) -> Ran:
        image = normalised_input(pictures[picture], geometries[picture], numbers.pixel_mean, numbers.pixel_std)
        feeds = {encoder.get_inputs()[0].name: image}
        wall, cpu, embeddings[picture] = timed(lambda: encoder.run(None, feeds)[0])
        return Ran(wall, cpu)

    def prompted(picture: int, prompts: list[tuple[Array, Array]]) -> Ran:
        if picture not in embeddings:
            encode(picture)
        feeds = _feeds(embeddings[picture], geometries[picture])

        def call() -> list[BoolArray]:
            found = []
            for points, labels in prompts:
                coords = geometries[picture].to_input(points)
                given = {**feeds, "point_coords": coords[None], "point_labels": labels[None]}
                found.append(decoder.run(["masks"], given)[0][0, 0] > 0)
            return found

        wall, cpu, masks = timed(call)
        return Ran(wall, cpu, figures={"masks": len(masks)})

    stages: dict[str, Callable[[int], Ran]] = {
        "encode": encode,
        "prompt": lambda picture: prompted(picture, [_click(opening.points[picture])]),
        "boxes": lambda picture: prompted(picture, [_box(box) for box in opening.boxes[picture]]),
    }
    opened = Opened(
        stages={name: INCLUDES[name] for name in stages},
        without=WITHOUT,
        backend="onnxruntime",
        device="cpu",
        details={**versions_of("onnxruntime"), "threads": str(opening.threads)},
    )
    return Loaded(opened, stages)


def _click(point: tuple[float, float]) -> tuple[Array, Array]:
    """A click comes with a padding point where there is no box."""
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
