"""Graphs and engines of others, told by their names."""

from __future__ import annotations

import numpy as np
import pytest

from samedge.bundle.foreign_graphs import CONVENTIONS, recognise
from samedge.types import TensorSpec

IMAGE = TensorSpec((1, 3, 1024, 1024), np.dtype(np.float32))
META = "image_embeddings point_coords point_labels mask_input has_mask_input"


def ports(names: str, spec: TensorSpec = IMAGE) -> dict[str, TensorSpec]:
    return dict.fromkeys(names.split(), spec)


@pytest.mark.parametrize(
    ("inputs", "outputs", "producer", "part"),
    [
        ("image", "image_embeddings", "samedge, nanosam or EdgeSAM", "encoder"),
        ("image", "image_features_0 image_features_1 image_embeddings", "onnxruntime (SAM 2)", "encoder"),
        ("input_image", "image_embeddings", "samexporter or EfficientViT", "encoder"),
        ("pixel_values", "image_embeddings image_positional_embeddings", "optimum", "encoder"),
        ("x", "whatever", "osam or labelme", "encoder"),
        (f"{META} orig_im_size", "masks iou_predictions low_res_masks", "samedge or Meta", "decoder"),
        (META, "iou_predictions low_res_masks", "samedge or nanosam", "decoder"),
        ("image_embeddings point_coords point_labels", "scores masks", "EdgeSAM", "decoder"),
        ("image_embeddings point_coords point_labels", "masks iou_predictions", "EfficientViT", "decoder"),
        ("images", "output0 output1", "Ultralytics", "detector"),
    ],
)
def test_each_producer_is_told_by_its_names(inputs: str, outputs: str, producer: str, part: str) -> None:
    found = recognise(ports(inputs), ports(outputs))
    assert found is not None
    assert (found.producer, found.part) == (producer, part)
    assert found.remark


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [("image", "logits"), ("image mask", "image_embeddings"), ("", ""), (META, "low_res_masks"), ("tokens", "output")],
)
def test_others_are_not_taken_for_one(inputs: str, outputs: str) -> None:
    assert recognise(ports(inputs), ports(outputs)) is None


def test_names_that_are_anybodys_count_for_images_only() -> None:
    assert recognise(ports("x", TensorSpec(("n", 4), np.dtype(np.float32))), ports("y")) is None
    assert recognise(ports("input", TensorSpec((1, 1, 28, 28), np.dtype(np.float32))), ports("output")) is None
    assert recognise(ports("input"), ports("output")) is not None


def test_every_convention_can_be_reached() -> None:
    for known in CONVENTIONS:
        rank = getattr(known.record, "rank", 4)  # of images
        inputs = TensorSpec(IMAGE.shape[-rank:] if rank == 4 else ("h", "w", 3), IMAGE.dtype)
        outputs = known.outputs or {"any"}
        assert recognise(dict.fromkeys(known.inputs, inputs), dict.fromkeys(outputs, IMAGE)) is known
