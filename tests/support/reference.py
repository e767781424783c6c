"""The reference packages as the benchmarks build them, and two more that only tests compare with.

``import reference`` and call one of the functions: nothing is imported before. All modules are untyped, hence `Any`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from samedge.benchmarks.reference.packages import (
    MobileSam,
    SegmentAnything,
    mobile_sam,
    quiet_import,
    segment_anything,
    torchvision,
)

reference_sam = SegmentAnything().build
reference_mobile_sam = MobileSam().build

__all__ = [
    "mobile_sam",
    "reference_mobile_sam",
    "reference_sam",
    "reference_tiny_vit",
    "segment_anything",
    "timm",
    "torchvision",
]


@cache
def timm() -> Any:
    """Returns the module timm."""
    return quiet_import("timm")


def reference_tiny_vit(image_encoder: Any, image: Tensor) -> Tensor:
    """Runs the reference's TinyViT at any size: its own modules, without the ``view(B, 64, 64, C)`` at the end.

    Args:
        image_encoder: A `mobile_sam.modeling.TinyViT`.
        image: float32 ``[N, 3, S, S]``.

    Returns:
        float32 ``[N, out_chans, S / 16, S / 16]``.
    """
    x = image_encoder.patch_embed(image)
    for layer in image_encoder.layers:
        x = layer(x)
    side = image.shape[-1] // 16
    embedding: Tensor = image_encoder.neck(x.transpose(1, 2).reshape(len(x), -1, side, side))
    return embedding
