"""What a predictor on a GPU must do beside masks of one image: the same masks, whatever goes on around it.

Streams, embeddings that go out and come back, and several predictors in several threads, each compared with the same
predictor that is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Final

import numpy as np

from samedge.benchmarks.gpu.contenders import GpuContender, Ready, first_calls, open_contender
from samedge.benchmarks.gpu.engines import MeasuredEngines
from samedge.benchmarks.gpu.torch_engine import require_torch_device
from samedge.benchmarks.measure.agreement import mask_ious
from samedge.benchmarks.measure.artefacts import PICTURES
from samedge.benchmarks.measure.child import foreign_failures
from samedge.errors import SamedgeError
from samedge.runtime.predictor import Predictor
from samedge.types import BoolArray

POINTS: Final = ((60.0, 60.0), (90.0, 40.0), (30.0, 80.0))
"""Pixels, inside of every picture that comes along."""
_LEAST_IOU: Final = 0.999
_TURNS: Final = 2

Masks = list[BoolArray]


def predictor_problems(
    contender: GpuContender, again: Callable[[], GpuContender], pictures: Sequence[Path]
) -> Iterator[str]:
    """Yield what goes wrong, as half a sentence each.

    Args:
        contender: Who is checked; its present image is another one afterwards.
        again: Opens the same once more.
        pictures: Two or more.
    """
    predictor = contender.predictor
    checks: dict[str, Callable[[], list[Masks]]] = {
        "a stream": lambda: _streamed(predictor, pictures),
        "an embedding that went out and came back": lambda: [_returned(predictor, picture) for picture in pictures],
        "two predictors in threads": lambda: _in_threads(predictor, again, pictures),
    }
    wanted = [_masks(predictor, picture) for picture in pictures]
    for name, check in checks.items():
        try:
            with foreign_failures(name):
                found = check()
                worst = _worst_iou(found, wanted * (len(found) // len(wanted)))
        except SamedgeError as error:
            yield f"{name} failed: {error.what}"
            continue
        if not worst >= _LEAST_IOU:
            yield f"{name} has other masks than the predictor alone (IoU {worst:.4f} at worst)"


def _worst_iou(found: list[Masks], wanted: list[Masks]) -> float:
    pairs = [pair for ours, theirs in zip(found, wanted, strict=True) for pair in zip(ours, theirs, strict=True)]
    return min(float(mask_ious([mine], [other])[0, 0]) for mine, other in pairs)


def _masks(predictor: Predictor, picture: Path) -> Masks:
    predictor.set_image(picture)
    return list(predictor.predict(points=POINTS, multimask=True).masks)


def _streamed(predictor: Predictor, pictures: Sequence[Path]) -> list[Masks]:
    with predictor.stream([*pictures] * _TURNS, {"points": POINTS, "multimask": True}) as stream:
        return [list(item.result.masks) for item in stream]


def _returned(predictor: Predictor, picture: Path) -> Masks:
    """By way of another library where that has the device, and while the next image takes its place."""
    predictor.set_image(picture)
    geometry, lent = predictor.geometry, predictor.embedding
    twin = predictor.twin()
    twin.set_embedding(_by_torch(lent), geometry.height, geometry.width)
    predictor.set_image(picture)
    return list(twin.predict(points=POINTS, multimask=True).masks)


def _by_torch(embedding: Any) -> Any:
    """The embedding as torch's tensor, without a copy; as it is where torch is missing or sees no such device."""
    try:
        torch = require_torch_device(str(embedding.device))
    except SamedgeError:
        return embedding
    return torch.from_dlpack(embedding)


def _in_threads(predictor: Predictor, again: Callable[[], GpuContender], pictures: Sequence[Path]) -> list[Masks]:
    other = again()
    found: dict[int, list[Masks]] = {}
    problems: list[BaseException] = []

    def work(number: int, own: Predictor) -> None:
        try:
            found[number] = [_masks(own, picture) for _ in range(_TURNS) for picture in pictures]
        except BaseException as problem:  # noqa: BLE001 - carried to the thread that waits
            problems.append(problem)

    try:
        threads = [Thread(target=work, args=each) for each in enumerate((predictor, other.predictor))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        other.close()
    if problems:
        raise problems[0]
    return [*found[0], *found[1]]


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
    """Open a contender and calls each of its steps once: in a process of its own, which it may take down.

    Args:
        name: One of `CONTENDERS`.
        source: The checkpoint, or a bundle.
        bundle: Its bundle.
        device: "cuda:0", or "cpu".
        many: Plan of the encoder for several images.
        prepared: File of the encoder's input.
        prompts: Numbers of prompts of one point.
        batches: Numbers of images.

    Raises:
        SamedgeError: It does not work here.
    """
    engines = None if many is None else MeasuredEngines(Path(many), {}, (), "")
    with foreign_failures(name):
        ready = Ready(name, source, Path(bundle), device, engines)
        contender = open_contender(ready)
        try:
            first_calls(contender, np.load(prepared), prompts, batches)
            if not name.startswith("torch"):
                list(predictor_problems(contender, lambda: open_contender(ready), PICTURES))
        finally:
            contender.close()
