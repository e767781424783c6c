"""Stages of Meta's own code in torch: segment_anything, and mobile_sam for TinyViT."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Capabilities, OpenedModel, OpenRequest, StageTiming
from samedge.benchmarks.bench.stages.serve import LoadedModel, timed_stage
from samedge.benchmarks.measure.artefacts import versions_of
from samedge.bundle.archive import model_family
from samedge.errors import BenchmarkError
from samedge.runtime.image.read import as_bgr

NAME: Final = "meta"
PACKAGES: Final = {"segment_anything": "segment-anything", "mobile_sam": "mobilesam-mirror"}
INCLUDES: Final = {
    "preprocess": "SamPredictor's transform and Sam.preprocess, from RGB pixels",
    "encode": "the image encoder alone",
    "prompt": "SamPredictor.predict with one click, its mask at image size",
    "boxes": "SamPredictor.predict_torch with 32 boxes, their masks at image size",
    "everything": "SamAutomaticMaskGenerator.generate, from RGB pixels",
}


def hello() -> Capabilities:
    """Report if torch and one of the packages are installed."""
    installed = [package for package in PACKAGES if find_spec(package) is not None]
    missing = [name for name in ("torch", "torchvision") if find_spec(name) is None]
    if missing or not installed:
        reason = f"{', '.join(missing or PACKAGES.values())}: not installed (pip install 'samedge[bench]')"
        return Capabilities(PROTOCOL, NAME, can=False, reason=reason)
    versions = versions_of("torch", *(PACKAGES[package] for package in installed))
    return Capabilities(PROTOCOL, NAME, ", ".join(f"{name} {version}" for name, version in versions.items()))


def open_model(opening: OpenRequest) -> LoadedModel:
    """Build the reference model with the checkpoint's weights."""
    if NAME not in model_family(opening.artefact).peers:
        raise BenchmarkError(
            "Meta's code runs SAM only", where=opening.name, cure="Measure a SAM model, or drop this peer"
        )
    import torch

    from samedge.benchmarks.reference.packages import reference_of, reference_package, use_threads

    use_threads(opening.threads)
    sam, config = reference_of(opening.source)
    device = torch.device(opening.device or "cpu")
    sam = sam.to(device)
    package = reference_package(config).package()
    predictor = package.SamPredictor(sam)
    generator = package.SamAutomaticMaskGenerator(sam, **opening.everything)
    images = [np.ascontiguousarray(as_bgr(path)[..., ::-1]) for path in opening.images]
    opened = OpenedModel(
        stages=INCLUDES,
        image_stages=("preprocess", "encode", "prompt"),
        backend=f"{package.__name__} in torch",
        device=str(device),
        details={**versions_of("torch", PACKAGES[package.__name__]), "threads": str(torch.get_num_threads())},
    )
    stages = _stages(opening, predictor, generator, images)
    allocated = torch.cuda.max_memory_allocated if device.type == "cuda" else lambda: None
    return LoadedModel(opened, stages, device_bytes=allocated)


def _stages(
    opening: OpenRequest, predictor: Any, generator: Any, images: list[Any]
) -> dict[str, Callable[[int], StageTiming]]:
    import torch

    sam, transform = predictor.model, predictor.transform
    inputs: dict[int, Any] = {}
    embeddings: dict[int, Any] = {}

    def ran(call: Callable[[], Any], count: Callable[[Any], int] | None = None) -> tuple[StageTiming, Any]:
        def synchronised() -> Any:
            with torch.no_grad():
                result = call()
            if predictor.device.type == "cuda":
                torch.cuda.synchronize()
            return result

        return timed_stage(synchronised, count)

    def resized(index: int) -> Any:
        pixels = torch.as_tensor(transform.apply_image(images[index]), device=predictor.device)
        return pixels.permute(2, 0, 1).contiguous()[None]

    def preprocess(index: int) -> StageTiming:
        run, inputs[index] = ran(lambda: sam.preprocess(resized(index)))
        return run

    def encode(index: int) -> StageTiming:
        if index not in inputs:
            preprocess(index)
        run, embeddings[index] = ran(lambda: sam.image_encoder(inputs[index]))
        return run

    def show(index: int) -> tuple[int, int]:
        """Set the current image like `SamPredictor.set_torch_image`, from the stored embedding."""
        if index not in embeddings:
            encode(index)
        size = tuple(images[index].shape[:2])
        predictor.reset_image()
        predictor.original_size = size
        predictor.input_size = transform.get_preprocess_shape(*size, transform.target_length)
        predictor.features = embeddings[index]
        predictor.is_image_set = True
        return size

    def prompt(index: int) -> StageTiming:
        show(index)
        point, label = np.array([opening.points[index]]), np.array([1])
        return ran(
            lambda: predictor.predict(point_coords=point, point_labels=label, multimask_output=False),
            lambda result: len(result[0]),
        )[0]

    def boxes(index: int) -> StageTiming:
        size = show(index)
        given = torch.tensor(opening.boxes[index], device=predictor.device)

        def call() -> Any:
            scaled = transform.apply_boxes_torch(given, size)
            return predictor.predict_torch(None, None, boxes=scaled, multimask_output=False)[0].cpu()

        return ran(call, len)[0]

    return {
        "preprocess": preprocess,
        "encode": encode,
        "prompt": prompt,
        "boxes": boxes,
        "everything": lambda index: ran(lambda: generator.generate(images[index]), len)[0],
    }
