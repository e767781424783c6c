"""Identification of the exporter of a graph or engine by the names of its inputs and outputs.

Engines carry no metadata of their own, and graphs seldom do, but every exporter of SAM has its own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from samedge.types import TensorSpec

Part = Literal["encoder", "decoder", "detector"]


@dataclass(frozen=True, slots=True)
class ForeignGraph:
    """A naming convention of graphs.

    Attributes:
        producer: The exporter; several if indistinguishable.
        part: The part of the model.
        inputs: Names of all inputs.
        outputs: Names of required outputs; others may be present.
        remark: Note for the caller.
    """

    producer: str
    part: Part
    inputs: frozenset[str]
    outputs: frozenset[str]
    remark: str


_META_INPUTS: Final = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")


def _known(producer: str, part: Part, inputs: str, outputs: str, remark: str) -> ForeignGraph:
    return ForeignGraph(producer, part, frozenset(inputs.split()), frozenset(outputs.split()), remark)


CONVENTIONS: Final = (  # those with more names first: the first match wins
    _known("onnxruntime (SAM 2)", "encoder", "image", "image_features_0 image_features_1 image_embeddings", "SAM 2"),
    _known("samexporter (SAM 2)", "encoder", "image", "high_res_feats_0 high_res_feats_1 image_embed", "SAM 2"),
    _known("samedge, nanosam or EdgeSAM", "encoder", "image", "image_embeddings", "N,3,S,S, normalised"),
    _known("samexporter or EfficientViT", "encoder", "input_image", "image_embeddings",
           "H,W,3 of 0..255 with three axes; 1,3,S,S normalised with four"),
    _known("optimum", "encoder", "pixel_values", "image_embeddings image_positional_embeddings", "N,3,S,S, normalised"),
    _known("osam or labelme", "encoder", "x", "", "1,3,1024,1024, normalised"),
    _known("segment-anything-cpp-wrapper", "encoder", "input", "output", "1,3,H,W of 0..255"),
    _known("samedge or Meta", "decoder", " ".join((*_META_INPUTS, "orig_im_size")),
           "masks iou_predictions low_res_masks", "one prompt at a time; masks at image size"),
    _known("samedge or nanosam", "decoder", " ".join(_META_INPUTS), "low_res_masks iou_predictions", "low-resolution "
           "masks; labels are int32 from samedge and float32 from nanosam"),
    _known("EdgeSAM", "decoder", "image_embeddings point_coords point_labels", "scores masks", "low-resolution masks"),
    _known("EfficientViT", "decoder", "image_embeddings point_coords point_labels", "masks iou_predictions",
           "low-resolution masks"),
    _known("optimum", "decoder", "image_positional_embeddings image_embeddings input_points input_labels",
           "iou_scores pred_masks", "three masks for each prompt"),
    _known("Ultralytics", "detector", "images", "output0", "N,3,H,W of 0..1; output1 holds mask prototypes"),
)  # fmt: skip


def recognise(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> ForeignGraph | None:
    """Return the convention that a graph or engine follows, or None if unknown.

    Images of the "x" and "input" conventions must have four axes, because those names are common.
    """
    for known in CONVENTIONS:
        if known.inputs != inputs.keys() or not known.outputs <= outputs.keys():
            continue
        specs = list(inputs.values())
        if known.inputs <= {"x", "input"} and not _is_image(specs[0]):
            continue
        return known
    return None


def _is_image(spec: TensorSpec) -> bool:
    return len(spec.shape) == 4 and spec.shape[1] == 3 and spec.dtype in (np.float32, np.float16, np.uint8)
