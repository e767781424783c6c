"""YOLOs and FastSAM with random weights from a seed, for tests and timing.

Boxes and masks mean nothing, but the numbers behave like a trained model's: activations neither vanish nor explode, and
some anchors, but not all, score above the usual threshold.
"""

from __future__ import annotations

import hashlib
import math
import re
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.models.yolo.configs import named_yolo_config
from samedge.models.yolo.yolo import Yolo, YoloConfig

_SILU_GAIN: Final = 1.5
_SIDE: Final = 128
_BOX_SPREAD: Final = (0.0, 1.0)
_MASK_SPREAD: Final = (0.0, 0.5)
_CLASS_WIDTH: Final = 1.2
_CLASS_TOP: Final = -2.5


def seeded_yolo(model: str | YoloConfig, seed: int = 0) -> Yolo:
    """Return a model with random weights, in evaluation mode.

    Args:
        model: A configuration or its name.
        seed: Determines the weights, up to the rounding of the machine.

    Raises:
        UsageError: The name is unknown.
    """
    config = named_yolo_config(model) if isinstance(model, str) else model
    with torch.device("meta"):
        yolo = Yolo(config)
    state = {key: _fill(key, tuple(value.shape), config, seed) for key, value in yolo.state_dict().items()}
    yolo.load_state_dict(state, strict=True, assign=True)
    yolo.eval().requires_grad_(requires_grad=False)
    _settle(yolo, _images(seed))
    return yolo


def seeded_yolo_digest(name: str, seed: int = 0) -> str:
    """Return the SHA-256 of the recipe in hex, in place of a checkpoint's."""
    return hashlib.sha256(f"{name}:{seed}".encode()).hexdigest()


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _fill(key: str, shape: tuple[int, ...], config: YoloConfig, seed: int) -> Tensor:
    if key == f"model.{config.head_layer}.dfl.conv.weight":
        return torch.arange(config.bins, dtype=torch.float32).reshape(shape)
    fan_in = shape[0] if ".upsample." in key else math.prod(shape[1:])
    spread = 0.1 if key.endswith(".bias") else _SILU_GAIN / math.sqrt(fan_in)
    return torch.empty(shape).normal_(0.0, spread, generator=_generator(key, seed))


def _images(seed: int) -> Tensor:
    """Return images from coarse blobs to noise in various colours and contrasts, float32 ``[8, 3, S, S]`` 0..1."""
    images = []
    for side in (2, 8, 32, _SIDE):
        for contrast in (0.3, 1.0):
            generator = _generator(f"picture {side} {contrast}", seed)
            noise = torch.rand(1, 3, side, side, generator=generator)
            noise = F.interpolate(noise, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
            colour = torch.rand(1, 3, 1, 1, generator=generator)
            images.append(colour + contrast * (noise - colour))
    return torch.cat(images)


def _settle(yolo: Yolo, images: Tensor) -> None:
    """Scale and shift the head's last convolutions so that their outputs on the images have the target spread."""
    # The best of C class scores lies about as far above their mean as the largest of C normal numbers.
    classes = (_CLASS_TOP - _CLASS_WIDTH * math.sqrt(2 * math.log(yolo.config.classes)), _CLASS_WIDTH)
    spreads = {"cv2": _BOX_SPREAD, "cv3": classes, "cv4": _MASK_SPREAD}
    hooks = []
    for name, module in yolo.named_modules():
        last = re.match(rf"model\.{yolo.config.head_layer}\.(?:one2one_)?(cv\d)\.\d\.2$", name)
        if last:
            hooks.append(module.register_forward_hook(partial(_scale, spreads[last.group(1)])))
    with torch.no_grad():
        yolo(images)
    for hook in hooks:
        hook.remove()


def _scale(spread: tuple[float, float], conv: nn.Module, _inputs: object, out: Tensor) -> None:
    weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
    scale = spread[1] / (out.std((0, 2, 3)) + 1e-6)
    weight.mul_(scale.reshape(-1, 1, 1, 1))
    bias.sub_(out.mean((0, 2, 3))).mul_(scale).add_(spread[0])
