"""From a checkpoint to a YOLO or FastSAM: which one it is follows from keys and shapes alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import torch
from torch import Tensor

from samedge.errors import CheckpointError, UnknownArchitectureError
from samedge.models.checkpoints import ultralytics as facts
from samedge.models.checkpoints.batch_norm import fold_batch_norms
from samedge.models.checkpoints.download import DownloadProgress
from samedge.models.checkpoints.read import Checkpoint, read_checkpoint
from samedge.models.checkpoints.shapes import MisfitError
from samedge.models.checkpoints.weights import SEEDED, SEEDED_LICENCE, UNKNOWN_LICENCE, find_checkpoint, licence_of
from samedge.models.yolo.blocks import AreaAttention, Attention, Conv
from samedge.models.yolo.configs import is_yolo_name, known_yolo_name
from samedge.models.yolo.seeded import seeded_yolo, seeded_yolo_digest
from samedge.models.yolo.shapes import yolo_sizes
from samedge.models.yolo.yolo import Yolo, YoloConfig

YOLO_NORM_EPS: Final = 1e-3
DEFAULT_IMAGE_SIZE: Final = 640
ULTRALYTICS_LICENCE: Final = (
    "AGPL-3.0 (a model saved by Ultralytics' package, which puts what it trains under AGPL-3.0 or a paid licence)"
)

_FIRST_KEY: Final = re.compile(r"(.*\.)?model\.0\.conv\.weight$")
_CURE: Final = (
    "samedge reads YOLOv8, YOLO11, YOLO12 and YOLO26 detectors and segmenters, FastSAM, and models trained from them "
    "in any size"
)


@dataclass(frozen=True, slots=True)
class LoadedYolo:
    """A YOLO or FastSAM, and where it came from.

    Attributes:
        model: In evaluation mode.
        name: Such as "yolov8n-seg"; "yolov8" or "yolov8-seg" for sizes of their own.
        names: Names of the classes by number.
        image_size: What it was trained at, px.
        licence: SPDX name of the weights' licence, or a sentence that says why it is not known.
        checkpoint: File name of the checkpoint, or the source of seeded weights.
        sha256: SHA-256 of the checkpoint in hex; for seeded weights, of their recipe.
        seeded: The weights are random numbers: boxes and masks mean nothing.
    """

    family: ClassVar[str] = "yolo"
    model: Yolo
    name: str
    names: dict[int, str]
    image_size: int
    licence: str
    checkpoint: str
    sha256: str
    seeded: bool


class YoloLoader:
    """The `samedge.models.load.ModelLoader` of YOLOv8 and FastSAM, which take images of any size."""

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `is_yolo`."""
        return is_yolo(checkpoint)

    def load(self, checkpoint: Checkpoint, image_size: int | tuple[int, int] | None) -> LoadedYolo:
        """See `yolo_of`."""
        return yolo_of(checkpoint)

    def has_seeded(self, name: str) -> bool:
        """See `is_yolo_name`."""
        return is_yolo_name(name)

    def load_seeded(self, source: str, image_size: int | tuple[int, int] | None) -> LoadedYolo:
        """See `load_yolo`."""
        return load_yolo(source)

    def seeded_state(self, name: str) -> dict[str, Tensor]:
        """See `ModelLoader`: batch norms are folded."""
        return seeded_yolo(name).state_dict()


def load_yolo(source: str | Path, *, progress: DownloadProgress | None = None) -> LoadedYolo:
    """Return the YOLO or FastSAM of a checkpoint.

    Args:
        source: Path of a checkpoint, a known name, or "seeded:NAME" such as "seeded:yolov8n-seg".
        progress: As for `load_model`.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is of another architecture.
        DownloadError: A known name could not be fetched.
        StorageError: There is no such file, or it cannot be read.
        UsageError: There are no such seeded weights.
    """
    if str(source).startswith(SEEDED):
        name = str(source).removeprefix(SEEDED)
        return LoadedYolo(
            model=seeded_yolo(name),
            name=name,
            names={},
            image_size=DEFAULT_IMAGE_SIZE,
            licence=SEEDED_LICENCE,
            checkpoint=str(source),
            sha256=seeded_yolo_digest(name),
            seeded=True,
        )
    return yolo_of(read_checkpoint(find_checkpoint(source, progress=progress)))


def is_yolo(checkpoint: Checkpoint) -> bool:
    """Return True if the keys are those of an Ultralytics YOLO, possibly another than YOLOv8."""
    return any(_FIRST_KEY.match(key) for key in checkpoint.state)


def yolo_of(checkpoint: Checkpoint) -> LoadedYolo:
    """Return the model of a checkpoint.

    Raises:
        UnknownArchitectureError: The keys and shapes, or what the file says of its layers, are not those of a YOLOv8.
        CheckpointError: A weight cannot be used.
    """
    eps = float(checkpoint.metadata.get(facts.NORM_EPS, YOLO_NORM_EPS))
    state = fold_batch_norms(_bare(checkpoint.state), convolution="conv", folded_name="conv", eps=eps)
    state = {key: value for key, value in state.items() if ".proto.semseg." not in key}  # for training alone
    try:
        config = yolo_sizes(state)
        model = _empty(config)
        _check_facts(checkpoint, model)
        _check_shapes(model, state)
    except MisfitError as error:
        raise _unknown(checkpoint, str(error)) from error
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(
                f"the batch norm at {key.rpartition('.')[0]!r} divides by zero or by the root of a negative variance",
                where=checkpoint.path,
                cure="The training diverged or the file is damaged: use another checkpoint",
            )
    model.load_state_dict({key: state[key] for key in model.state_dict()}, strict=True, assign=True)
    return LoadedYolo(
        model=model.eval().requires_grad_(requires_grad=False),
        name=known_yolo_name(config, fast_sam=_is_fast_sam(checkpoint)),
        names=_names(checkpoint, config),
        image_size=_image_size(checkpoint, max(config.strides)),
        licence=licence_of(checkpoint.path, checkpoint.sha256) or _licence(checkpoint),
        checkpoint=checkpoint.path.name,
        sha256=checkpoint.sha256,
        seeded=False,
    )


def _empty(config: YoloConfig) -> Yolo:
    with torch.device("meta"):
        return Yolo(config)


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what wrappers put before ``model.0.``, and counters that no folded model has."""
    prefix = next((match.group(1) or "" for key in state if (match := _FIRST_KEY.match(key))), "")
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and not key.endswith(".num_batches_tracked")
    }


def _check_shapes(model: Yolo, state: Mapping[str, Tensor]) -> None:
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = [key for key in expected if key not in state]
    if missing:
        raise MisfitError(f"{missing[0]!r} is missing")
    unexpected = [key for key in state if key not in expected]
    if unexpected:
        raise MisfitError(f"{unexpected[0]!r} has no place in it")
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise MisfitError(f"{key!r} has the shape {tuple(state[key].shape)} where {shape} would fit")


def _check_facts(checkpoint: Checkpoint, model: Yolo) -> None:
    """Refuse what has the weights of a known YOLO and computes something else with them.

    Raises:
        MisfitError: It does.
    """
    told, config = checkpoint.metadata, model.config
    activations = json.loads(told.get(facts.ACTIVATIONS, "[]"))
    if not set(activations) <= {"SiLU", "Identity"}:
        raise MisfitError(f"its activations are {', '.join(activations)}, and not SiLU")
    layers: list[str] = json.loads(told.get(facts.LAYERS, "[]"))
    if not layers:
        return
    kinds = [layer.kind for layer in config.layers]
    wrong = [i for i, (kind, want) in enumerate(zip(layers, kinds, strict=False)) if kind != want]
    if wrong:
        raise MisfitError(f"layer {wrong[0]} is a {layers[wrong[0]]} and not a {kinds[wrong[0]]}")
    if len(layers) != config.head_layer + 1 or layers[-1] not in {"Detect", "Segment", "Segment26"}:
        raise MisfitError(f"it has {len(layers)} layers and ends in a {layers[-1]}")
    shortcuts = [number for number, layer in enumerate(config.layers) if layer.shortcut]
    if json.loads(told.get(facts.SHORTCUTS, json.dumps(shortcuts))) != shortcuts:
        raise MisfitError(f"its layers {told[facts.SHORTCUTS]} have shortcuts, and not {shortcuts}")
    plain = sorted(name for name, part in model.named_modules() if isinstance(part, Conv) and part.plain)
    if facts.PLAIN in told and json.loads(told[facts.PLAIN]) != plain:
        odd = sorted(set(plain) ^ set(json.loads(told[facts.PLAIN])))[0]
        raise MisfitError(f"whether {odd!r} has an activation is not as usual")
    heads = {
        name: [part.heads, part.area if isinstance(part, AreaAttention) else 1]
        for name, part in model.named_modules()
        if isinstance(part, (Attention, AreaAttention))
    }
    if json.loads(told.get(facts.ATTENTION, json.dumps(heads))) != heads:
        raise MisfitError("its attention has other heads or areas")
    strides = json.loads(told.get(facts.STRIDE, "[]"))
    if strides and tuple(strides) != config.strides:
        raise MisfitError(f"its strides are {strides}, and not {list(config.strides)}")


def _names(checkpoint: Checkpoint, config: YoloConfig) -> dict[int, str]:
    told: dict[str, str] = json.loads(checkpoint.metadata.get(facts.NAMES, "{}"))
    names = {int(number): name for number, name in told.items() if number.isdecimal()}
    return {number: names.get(number, str(number)) for number in range(config.classes)}


def _is_fast_sam(checkpoint: Checkpoint) -> bool:
    """Return True if a model of FastSAM's sizes is one: it has one class, "object", and its file the name."""
    told: dict[str, str] = json.loads(checkpoint.metadata.get(facts.NAMES, "{}"))
    return list(told.values()) == ["object"] or checkpoint.path.stem.lower().startswith("fastsam")


def _licence(checkpoint: Checkpoint) -> str:
    """Return what the file says itself, what follows from who wrote it, or that it is not known."""
    told = checkpoint.metadata.get(facts.LICENCE)
    if told:
        return f"{told}, says the file"
    return ULTRALYTICS_LICENCE if facts.LAYERS in checkpoint.metadata else UNKNOWN_LICENCE


def _image_size(checkpoint: Checkpoint, stride: int) -> int:
    told = checkpoint.metadata.get(facts.IMAGE_SIZE, "")
    size = int(told) if told.isdecimal() else 0
    return -(-size // stride) * stride if size else DEFAULT_IMAGE_SIZE


def _unknown(checkpoint: Checkpoint, why: str) -> UnknownArchitectureError:
    return UnknownArchitectureError(
        f"this is none of the YOLOs that are known here: {why}", where=checkpoint.path, cure=_CURE
    )
