"""A predictor without a model, for testing applications that use one.

    predictor = fake_predictor()
    predictor.set_image(np.zeros((480, 640, 3), np.uint8))
    predictor.predict(boxes=[10, 20, 200, 300]).masks     # the box, filled, corners a little round

Everything but the two graphs is real: images are read and resized, prompts are checked, masks are drawn. In place of
the graphs, two functions draw the prompts: a box is filled, a foreground point is a disc around it, a background point
cuts a disc out, a mask is copied. The four masks of a prompt differ in size, and their scores are fixed.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from samedge.bundle.manifest import (
    SCHEMA_VERSION,
    FileRecord,
    GraphRecord,
    GraphRole,
    InputRecord,
    Manifest,
    ModelRecord,
    ParityRecord,
    TensorRecord,
)
from samedge.errors import UsageError
from samedge.runtime.predictor import Predictor
from samedge.testing.engine import fake_engine
from samedge.types import Array, FloatArray, TensorSpec

FAKE_SCORES: Final = (0.9, 0.8, 0.7, 0.6)
"""Predicted IoUs of the four masks of every prompt."""

_RADII: Final = (1 / 8, 1 / 16, 1 / 8, 1 / 4)
"""Radius of the disc of a point for each of the four masks, as a share of the square input's side."""

_F32: Final = np.dtype(np.float32)
_CHANNELS: Final = 3


def fake_predictor(*, image_size: int = 64) -> Predictor:
    """Return a predictor that draws its prompts instead of running a model.

    Args:
        image_size: Side of the square input, px; a multiple of 16. Masks have a quarter of this resolution.

    Raises:
        UsageError: `image_size` is not a positive multiple of 16.
    """
    if image_size < 16 or image_size % 16:
        raise UsageError(f"invalid image_size {image_size}", cure="Give a multiple of 16")
    grid, side = image_size // 16, image_size // 4
    embedding = TensorSpec((1, _CHANNELS, grid, grid), _F32)
    prompts, masks = decoder_specs(embedding, side)
    image = {"image": TensorSpec((1, 3, image_size, image_size), _F32)}

    def encode(feeds: dict[str, Array]) -> dict[str, Array]:
        tiles = feeds["image"].reshape(1, 3, grid, 16, grid, 16)
        return {"image_embeddings": tiles.mean(axis=(3, 5), dtype=np.float32)}

    def decode(feeds: dict[str, Array]) -> dict[str, Array]:
        count = len(feeds["point_coords"])
        drawn = np.array([_draw(feeds, at, image_size) for at in range(count)], np.float32).reshape(-1, 4, side, side)
        scores = np.tile(np.array(FAKE_SCORES, np.float32), (count, 1))
        return {"low_res_masks": drawn, "iou_predictions": scores}

    manifest = Manifest(
        schema=SCHEMA_VERSION,
        model=ModelRecord(
            name="fake",
            licence="Apache-2.0",
            checkpoint="fake.pt",
            checkpoint_sha256="0" * 64,
            seeded=True,
            layers=0,
            parameters=0,
            encoder_gflops=0.0,
            decoder_gflops=0.0,
        ),
        input=InputRecord(
            image_size=image_size, pixel_mean=(0.0, 0.0, 0.0), pixel_std=(255.0, 255.0, 255.0), mask_threshold=0.0
        ),
        io="native",
        graphs=(_record("encoder", image, {"image_embeddings": embedding}), _record("decoder", prompts, masks)),
        parity=ParityRecord(verdict="unchecked"),
        created="1970-01-01T00:00:00Z",
        versions={},
    )
    return Predictor(
        manifest,
        fake_engine(image, {"image_embeddings": embedding}, encode, name="encoder"),
        fake_engine(prompts, masks, decode, name="decoder"),
    )


def decoder_specs(embedding: TensorSpec, side: int) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Return inputs and outputs of a whole decoder, native scheme, for masks of ``[side, side]`` px."""
    inputs = {
        "image_embeddings": embedding,
        "point_coords": TensorSpec(("prompts", "points", 2), _F32),
        "point_labels": TensorSpec(("prompts", "points"), np.dtype(np.int32)),
        "mask_input": TensorSpec(("prompts", 1, side, side), _F32),
        "has_mask_input": TensorSpec(("prompts",), _F32),
    }
    outputs = {
        "low_res_masks": TensorSpec(("prompts", 4, side, side), _F32),
        "iou_predictions": TensorSpec(("prompts", 4), _F32),
    }
    return inputs, outputs


def _draw(feeds: dict[str, Array], at: int, image_size: int) -> FloatArray:
    """Return the four masks of one prompt as logits of -10 and 10, ``[4, side, side]``."""
    side = image_size // 4
    axis = (np.arange(side, dtype=np.float32) + 0.5) * 4
    y, x = np.meshgrid(axis, axis, indexing="ij")
    coords, labels = feeds["point_coords"][at], feeds["point_labels"][at]
    inside = np.zeros((4, side, side), np.bool_)
    if feeds["has_mask_input"][at]:
        inside |= feeds["mask_input"][at] > 0
    corners = coords[labels >= 2].reshape(-1)
    if len(corners):
        x1, y1, x2, y2 = corners
        inside |= (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    for label in (1, 0):
        for point in coords[labels == label]:
            disc = np.stack([np.hypot(x - point[0], y - point[1]) <= radius * image_size for radius in _RADII])
            inside = inside | disc if label else inside & ~disc
    return np.where(inside, np.float32(10), np.float32(-10))


def _record(role: GraphRole, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec]) -> GraphRecord:
    file = FileRecord(file=f"{role}.onnx", sha256="0" * 64, size=0)
    ports, results = (
        {name: TensorRecord(spec.dtype.name, spec.shape) for name, spec in specs.items()} for specs in (inputs, outputs)
    )
    return GraphRecord(role=role, graph=file, precision="fp32", opset=17, inputs=ports, outputs=results, nodes=0)
