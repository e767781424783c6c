"""From what the user names to a model of any kind that samedge knows: a SAM, a YOLOv8 or FastSAM."""

from __future__ import annotations

from pathlib import Path

from samedge.errors import UsageError
from samedge.models.checkpoints.download import DownloadProgress
from samedge.models.checkpoints.read import read_checkpoint
from samedge.models.checkpoints.weights import SEEDED, find_checkpoint
from samedge.models.sam.load import LoadedModel, load_model, model_of
from samedge.models.yolo.configs import is_yolo_name
from samedge.models.yolo.load import LoadedYolo, is_yolo, load_yolo, yolo_of


def load_any(
    source: str | Path, *, image_size: int | tuple[int, int] | None = None, progress: DownloadProgress | None = None
) -> LoadedModel | LoadedYolo:
    """Return the model of a checkpoint; which kind it is follows from its keys alone.

    Args:
        source: As for `load_model`.
        image_size: Side of the square input, px, for a SAM whose weights do not tell it. A YOLO takes any.
        progress: As for `load_model`.

    Raises:
        SamedgeError: As `load_model` and `load_yolo`.
    """
    text = str(source)
    if text.startswith(SEEDED):
        if is_yolo_name(text.removeprefix(SEEDED)):
            return load_yolo(text)
        return load_model(text, image_size=_side(image_size))
    checkpoint = read_checkpoint(find_checkpoint(source, progress=progress))
    return yolo_of(checkpoint) if is_yolo(checkpoint) else model_of(checkpoint, _side(image_size))


def _side(image_size: int | tuple[int, int] | None) -> int | None:
    if isinstance(image_size, tuple):
        raise UsageError(
            f"an image size of {image_size} is for a YOLO", cure="The input of a SAM is square: give a side"
        )
    return image_size
