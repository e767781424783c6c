"""Identification of the exporter of a graph or engine by the names of its inputs and outputs.

Engines carry no metadata of their own, and graphs seldom do, but every exporter of SAM has its own names: those that
run here are the records of `samedge.bundle.dialects`; the others are named all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from samedge.bundle.dialects import DECODERS, ENCODERS, DecoderDialect, EncoderDialect
from samedge.types import TensorSpec

Part = Literal["encoder", "decoder", "detector", "whole model"]


@dataclass(frozen=True, slots=True)
class ForeignGraph:
    """A naming convention of graphs.

    Attributes:
        producer: The exporter; several if indistinguishable.
        part: The part of the model.
        inputs: Names of all inputs.
        outputs: Names of required outputs; others may be present.
        remark: Note for the caller.
        record: How it is run; None if it is not run here as a half of a SAM.
    """

    producer: str
    part: Part
    inputs: frozenset[str]
    outputs: frozenset[str]
    remark: str
    record: EncoderDialect | DecoderDialect | None = None

    def fits(self, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> bool:
        """Return True if a graph follows it."""
        if self.record is not None:
            return self.record.fits(inputs, outputs)
        if self.inputs != inputs.keys() or not self.outputs <= outputs.keys():
            return False
        return self.inputs != {"input"} or _is_image(inputs["input"])


def _known(producer: str, part: Part, inputs: str, outputs: str, remark: str) -> ForeignGraph:
    return ForeignGraph(producer, part, frozenset(inputs.split()), frozenset(outputs.split()), remark)


CONVENTIONS: Final = (  # those with more names first: the first match wins
    _known("onnxruntime (SAM 2)", "encoder", "image", "image_features_0 image_features_1 image_embeddings", "SAM 2"),
    _known("samexporter (SAM 2)", "encoder", "image", "high_res_feats_0 high_res_feats_1 image_embed", "SAM 2"),
    *(
        ForeignGraph(each.producer, "encoder", frozenset({each.input}), frozenset(each.outputs), each.remark, each)
        for each in ENCODERS
    ),
    _known("segment-anything-cpp-wrapper", "encoder", "input", "output", "1,3,H,W of 0..255"),
    *(
        ForeignGraph(each.producer, "decoder", frozenset(each.inputs), frozenset(each.outputs), each.remark, each)
        for each in DECODERS
    ),
    _known("EfficientSAM", "whole model", "batched_images batched_point_coords batched_point_labels",
           "output_masks iou_predictions", "image and prompts in one graph"),
    _known("Ultralytics", "detector", "images", "output0", "N,3,H,W of 0..1; output1 holds mask prototypes"),
)  # fmt: skip


def recognise(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> ForeignGraph | None:
    """Return the convention that a graph or engine follows, or None if unknown."""
    return next((known for known in CONVENTIONS if known.fits(inputs, outputs)), None)


def _is_image(spec: TensorSpec) -> bool:
    return len(spec.shape) == 4 and spec.shape[1] == 3 and spec.dtype in (np.float32, np.float16, np.uint8)
