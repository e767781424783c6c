"""The stages of Meta's own code in torch: segment_anything, and mobile_sam for its TinyViT."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Hello, Opened, Opening, Ran
from samedge.benchmarks.bench.stages.serve import Loaded
from samedge.benchmarks.measure.artefacts import versions_of
from samedge.benchmarks.measure.rounds import timed
from samedge.errors import BenchmarkError
from samedge.runtime.image.read import as_bgr

PACKAGES: Final = {"segment_anything": "segment-anything", "mobile_sam": "mobilesam-mirror"}
INCLUDES: Final = {
    "preprocess": "SamPredictor's transform and Sam.preprocess, from RGB pixels",
    "encode": "the image encoder alone",
    "prompt": "SamPredictor.predict with one click, its mask at the size of the image",
    "boxes": "SamPredictor.predict_torch with 32 boxes, their masks at the size of the image",
    "everything": "SamAutomaticMaskGenerator.generate, from RGB pixels",
}


def hello() -> Hello:
    """Whether torch and one of the packages are installed."""
    there = [package for package in PACKAGES if find_spec(package) is not None]
    missing = [name for name in ("torch", "torchvision") if find_spec(name) is None]
    if missing or not there:
        lacking = ", ".join(missing or PACKAGES.values())
        return Hello(PROTOCOL, "meta", can=False, reason=f"{lacking}: not installed (pip install 'samedge[bench]')")
    versions = versions_of("torch", *(PACKAGES[package] for package in there))
    return Hello(PROTOCOL, "meta", ", ".join(f"{name} {version}" for name, version in versions.items()))


def open_model(opening: Opening) -> Loaded:
    """Build the reference model with the checkpoint's weights.

    Raises:
        BenchmarkError: It is no SAM.
        MissingExtraError: The package that has it is not installed.
        SamedgeError: The checkpoint cannot be read.
    """
    if opening.family != "sam":
        raise BenchmarkError("Meta's code runs SAM alone", where=opening.name)
    import torch

    from samedge.benchmarks.reference.packages import package_of, reference_of, use_threads

    use_threads(opening.threads)
    sam, config = reference_of(opening.source)
    device = torch.device(opening.device or "cpu")
    sam = sam.to(device)
    package = package_of(config)
    predictor = package.SamPredictor(sam)
    generator = package.SamAutomaticMaskGenerator(sam, **opening.everything)
    pictures = [np.ascontiguousarray(as_bgr(path)[..., ::-1]) for path in opening.images]
    stages = _stages(opening, predictor, generator, pictures)
    opened = Opened(
        stages={name: INCLUDES[name] for name in stages},
        image_stages=("preprocess", "encode", "prompt"),
        backend=f"{package.__name__} in torch",
        device=str(device),
        details={**versions_of("torch", PACKAGES[package.__name__]), "threads": str(torch.get_num_threads())},
    )
    allocated = torch.cuda.max_memory_allocated if device.type == "cuda" else lambda: None
    return Loaded(opened, stages, device_bytes=allocated)


def _stages(opening: Opening, predictor: Any, generator: Any, pictures: list[Any]) -> dict[str, Callable[[int], Ran]]:
    import torch

    sam, transform = predictor.model, predictor.transform
    inputs: dict[int, Any] = {}
    embeddings: dict[int, Any] = {}

    def ran(call: Callable[[], Any], masks: Callable[[Any], int] | None = None) -> tuple[Ran, Any]:
        def synchronised() -> Any:
            with torch.no_grad():
                result = call()
            if predictor.device.type == "cuda":
                torch.cuda.synchronize()
            return result

        wall, cpu, result = timed(synchronised)
        return Ran(wall, cpu, figures={} if masks is None else {"masks": masks(result)}), result

    def resized(picture: int) -> Any:
        pixels = torch.as_tensor(transform.apply_image(pictures[picture]), device=predictor.device)
        return pixels.permute(2, 0, 1).contiguous()[None]

    def preprocess(picture: int) -> Ran:
        run, inputs[picture] = ran(lambda: sam.preprocess(resized(picture)))
        return run

    def encode(picture: int) -> Ran:
        if picture not in inputs:
            preprocess(picture)
        run, embeddings[picture] = ran(lambda: sam.image_encoder(inputs[picture]))
        return run

    def show(picture: int) -> tuple[int, int]:
        """Set the present image as `SamPredictor.set_torch_image` does, with what was encoded before."""
        if picture not in embeddings:
            encode(picture)
        size = tuple(pictures[picture].shape[:2])
        predictor.reset_image()
        predictor.original_size = size
        predictor.input_size = transform.get_preprocess_shape(*size, transform.target_length)
        predictor.features = embeddings[picture]
        predictor.is_image_set = True
        return size

    def prompt(picture: int) -> Ran:
        show(picture)
        point, label = np.array([opening.points[picture]]), np.array([1])
        return ran(
            lambda: predictor.predict(point_coords=point, point_labels=label, multimask_output=False),
            lambda found: len(found[0]),
        )[0]

    def boxes(picture: int) -> Ran:
        size = show(picture)
        given = torch.tensor(opening.boxes[picture], device=predictor.device)

        def call() -> Any:
            scaled = transform.apply_boxes_torch(given, size)
            return predictor.predict_torch(None, None, boxes=scaled, multimask_output=False)[0].cpu()

        return ran(call, len)[0]

    def everything(picture: int) -> Ran:
        return ran(lambda: generator.generate(pictures[picture]), len)[0]

    return {
        "preprocess": preprocess, "encode": encode, "prompt": prompt, "boxes": boxes, "everything": everything,
    }  # fmt: skip
