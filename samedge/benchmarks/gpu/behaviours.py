"""Checks that a predictor on a GPU gives the same masks under all conditions.

Streams, exported and re-imported embeddings, and several predictors in several threads are compared with the same
predictor used alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from samedge.benchmarks.gpu.contenders import GpuContender, Ready, first_calls, open_contender
from samedge.benchmarks.gpu.cuda_checks import in_threads
from samedge.benchmarks.gpu.torch_engine import require_torch_device
from samedge.benchmarks.measure.agreement import mask_ious
from samedge.benchmarks.measure.artefacts import IMAGES
from samedge.benchmarks.measure.child import foreign_failures
from samedge.errors import SamedgeError
from samedge.runtime.predictor import Predictor
from samedge.types import BoolArray

POINTS: Final = ((60.0, 60.0), (90.0, 40.0), (30.0, 80.0))
"""Pixels inside every bundled image."""
_LEAST_IOU: Final = 0.999
_TURNS: Final = 2

Masks = list[BoolArray]


def predictor_problems(
    contender: GpuContender, again: Callable[[], GpuContender], images: Sequence[Path]
) -> Iterator[str]:
    """Yield a description of each failure; `again` opens the contender once more, and `images` are two or more."""
    predictor = contender.predictor
    checks: dict[str, Callable[[], list[Masks]]] = {
        "a stream": lambda: _streamed(predictor, images),
        "an exported and re-imported embedding": lambda: [_returned(predictor, image) for image in images],
        "two predictors in threads": lambda: _in_threads(predictor, again, images),
    }
    wanted = [_masks(predictor, image) for image in images]
    for name, check in checks.items():
        try:
            with foreign_failures(name):
                masks = check()
                worst = _worst_iou(masks, wanted * (len(masks) // len(wanted)))
        except SamedgeError as error:
            yield f"{name} failed: {error.what}"
            continue
        if not worst >= _LEAST_IOU:
            yield f"{name} gives different masks from the predictor alone (worst IoU {worst:.4f})"


def _worst_iou(masks: list[Masks], wanted: list[Masks]) -> float:
    pairs = [pair for ours, theirs in zip(masks, wanted, strict=True) for pair in zip(ours, theirs, strict=True)]
    return min(float(mask_ious([mine], [other])[0, 0]) for mine, other in pairs)


def _masks(predictor: Predictor, image: Path) -> Masks:
    predictor.set_image(image)
    return list(predictor.predict(points=POINTS, multimask=True).masks)


def _streamed(predictor: Predictor, images: Sequence[Path]) -> list[Masks]:
    with predictor.stream([*images] * _TURNS, {"points": POINTS, "multimask": True}) as stream:
        return [list(item.result.masks) for item in stream]


def _returned(predictor: Predictor, image: Path) -> Masks:
    """Return masks from an embedding lent through torch, if torch has the device, while the next image replaces it."""
    predictor.set_image(image)
    geometry, lent = predictor.geometry, predictor.embedding
    twin = predictor.twin()
    twin.set_embedding(_by_torch(lent), geometry.height, geometry.width)
    predictor.set_image(image)
    return list(twin.predict(points=POINTS, multimask=True).masks)


def _by_torch(embedding: Any) -> Any:
    """Return the embedding as a torch tensor without a copy; unchanged if torch is missing or lacks the device."""
    try:
        torch = require_torch_device(str(embedding.device))
    except SamedgeError:
        return embedding
    return torch.from_dlpack(embedding)


def _in_threads(predictor: Predictor, again: Callable[[], GpuContender], images: Sequence[Path]) -> list[Masks]:
    with closing(again()) as other:
        own, others = in_threads(
            lambda used: [_masks(used, image) for _ in range(_TURNS) for image in images], (predictor, other.predictor)
        )
    return [*own, *others]


def try_contender(
    name: str,
    source: str,
    bundle: str,
    device: str,
    many: str | None,
    prepared: str,
    prompts: Sequence[int],
    batches: Sequence[int],
) -> None:
    """Open a contender and call each of its steps once. Runs in a child process, which it may crash.

    `prepared` is the file of the encoder's input, `many` the plan of the encoder for several images.
    """
    with foreign_failures(name):
        ready = Ready(name, source, Path(bundle), device, None if many is None else Path(many))
        with closing(open_contender(ready)) as contender:
            first_calls(contender, np.load(prepared), prompts, batches)
            if not name.startswith("torch"):
                list(predictor_problems(contender, lambda: open_contender(ready), IMAGES))
