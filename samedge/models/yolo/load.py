"""Loading of YOLOs and FastSAM; keys and shapes alone determine the model."""

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
    """The `samedge.models.load.Loaded` of YOLO and FastSAM.

    Attributes:
        name: Such as "yolov8n-seg"; "yolov8" or "yolov8-seg" for unknown sizes.
        names: Names of the classes by number.
        image_size: Size it was trained at, px.
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
    """The `samedge.models.load.ModelLoader` of YOLO and FastSAM, which accept images of any size."""

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Return True if the keys are those of an Ultralytics YOLO, known or not."""
        return any(_FIRST_KEY.match(key) for key in checkpoint.state)

    def load(self, checkpoint: Checkpoint, image_size: int | tuple[int, int] | None) -> LoadedYolo:
        """Load a checkpoint; the image size plays no part."""
        return yolo_of(checkpoint)

    def has_seeded(self, name: str) -> bool:
        """Return True for a name that starts with "yolo" or "fastsam"."""
        return is_yolo_name(name)

    def load_seeded(self, source: str, image_size: int | tuple[int, int] | None) -> LoadedYolo:
        """Load a named size with random weights."""
        return load_yolo(source)

    def seeded_state(self, name: str) -> dict[str, Tensor]:
        """Return the weights with batch norms folded."""
        return seeded_yolo(name).state_dict()


def load_yolo(source: str | Path, *, progress: DownloadProgress | None = None) -> LoadedYolo:
    """Return the YOLO or FastSAM of a checkpoint.

    Args:
        source: Path of a checkpoint, a known name, or "seeded:NAME" such as "seeded:yolov8n-seg".
        progress: As for `samedge.models.load.load_any`.

    Raises:
        CheckpointError: The checkpoint cannot be read, or its architecture is unknown.
        DownloadError: The download failed.
        StorageError: The file is missing or cannot be read.
        UsageError: The seeded weights are unknown.
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


def yolo_of(checkpoint: Checkpoint) -> LoadedYolo:
    """Return the model of a checkpoint.

    Raises:
        UnknownArchitectureError: Keys, shapes, or the layers that the file describes are those of no known YOLO.
        CheckpointError: A weight cannot be used.
    """
    eps = float(checkpoint.metadata.get(facts.NORM_EPS, YOLO_NORM_EPS))
    state = fold_batch_norms(_bare(checkpoint.state), convolution="conv", folded_name="conv", eps=eps)
    state = {key: value for key, value in state.items() if ".proto.semseg." not in key}  # only for training
    try:
        config = yolo_sizes(state)
        with torch.device("meta"):
            model = Yolo(config)
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


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the wrappers' prefix before ``model.0.``, and the counters of batch norms."""
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
        raise MisfitError(f"{unexpected[0]!r} is unexpected")
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise MisfitError(f"{key!r} has the shape {tuple(state[key].shape)} instead of {shape}")


def _check_facts(checkpoint: Checkpoint, model: Yolo) -> None:
    """Refuse a file that has the weights of a known YOLO but describes another computation.

    Raises:
        MisfitError: It does.
    """
    described, config = checkpoint.metadata, model.config
    activations = json.loads(described.get(facts.ACTIVATIONS, "[]"))
    if not set(activations) <= {"SiLU", "Identity"}:
        raise MisfitError(f"its activations are {', '.join(activations)} instead of SiLU")
    layers: list[str] = json.loads(described.get(facts.LAYERS, "[]"))
    if not layers:
        return
    kinds = [layer.kind for layer in config.layers]
    wrong = [i for i, (kind, want) in enumerate(zip(layers, kinds, strict=False)) if kind != want]
    if wrong:
        raise MisfitError(f"layer {wrong[0]} is a {layers[wrong[0]]} instead of a {kinds[wrong[0]]}")
    if len(layers) != config.head_layer + 1 or layers[-1] not in {"Detect", "Segment", "Segment26"}:
        raise MisfitError(f"it has {len(layers)} layers and ends in a {layers[-1]}")
    shortcuts = [number for number, layer in enumerate(config.layers) if layer.shortcut]
    if json.loads(described.get(facts.SHORTCUTS, json.dumps(shortcuts))) != shortcuts:
        raise MisfitError(f"its layers {described[facts.SHORTCUTS]} have shortcuts instead of {shortcuts}")
    plain = sorted(name for name, part in model.named_modules() if isinstance(part, Conv) and part.plain)
    if facts.PLAIN in described and json.loads(described[facts.PLAIN]) != plain:
        odd = sorted(set(plain) ^ set(json.loads(described[facts.PLAIN])))[0]
        raise MisfitError(f"the activation after {odd!r} is unusual")
    heads = {
        name: [part.heads, part.area if isinstance(part, AreaAttention) else 1]
        for name, part in model.named_modules()
        if isinstance(part, (Attention, AreaAttention))
    }
    if json.loads(described.get(facts.ATTENTION, json.dumps(heads))) != heads:
        raise MisfitError("its attention has other heads or areas")
    strides = json.loads(described.get(facts.STRIDE, "[]"))
    if strides and tuple(strides) != config.strides:
        raise MisfitError(f"its strides are {strides} instead of {list(config.strides)}")


def _names(checkpoint: Checkpoint, config: YoloConfig) -> dict[int, str]:
    described: dict[str, str] = json.loads(checkpoint.metadata.get(facts.NAMES, "{}"))
    names = {int(number): name for number, name in described.items() if number.isdecimal()}
    return {number: names.get(number, str(number)) for number in range(config.classes)}


def _is_fast_sam(checkpoint: Checkpoint) -> bool:
    """Return True if a model of FastSAM's sizes has the one class "object", or FastSAM's file name."""
    names: dict[str, str] = json.loads(checkpoint.metadata.get(facts.NAMES, "{}"))
    return list(names.values()) == ["object"] or checkpoint.path.stem.lower().startswith("fastsam")


def _licence(checkpoint: Checkpoint) -> str:
    """Return the licence that the file states, or that its writer implies."""
    licence = checkpoint.metadata.get(facts.LICENCE)
    if licence:
        return f"{licence}, says the file"
    return ULTRALYTICS_LICENCE if facts.LAYERS in checkpoint.metadata else UNKNOWN_LICENCE


def _image_size(checkpoint: Checkpoint, stride: int) -> int:
    text = checkpoint.metadata.get(facts.IMAGE_SIZE, "")
    size = int(text) if text.isdecimal() else 0
    return -(-size // stride) * stride if size else DEFAULT_IMAGE_SIZE


def _unknown(checkpoint: Checkpoint, why: str) -> UnknownArchitectureError:
    return UnknownArchitectureError(f"unknown YOLO: {why}", where=checkpoint.path, cure=_CURE)
