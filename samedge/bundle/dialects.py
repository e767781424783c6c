"""The dialects of SAM graphs: a record for each way in which exporters name and shape the two halves of the model.

Whoever runs, checks or describes a graph asks its record; none compares names of exporters. A bundle's I/O scheme is
a pair of records: "native", "meta", "samexporter" and "osam" are written by ``samedge export``, and any other pair is
called "ENCODER+DECODER", such as "image+edgesam".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from samedge.types import TensorSpec

PixelLayout = Literal["normalised", "pixels", "hwc", "unit"]
"""Of an encoder's input. "normalised": ``[1, 3, S, S]``, mean and std applied, then padded with zeros. "pixels": the
same, 0..255. "hwc": ``[H, W, 3]``, 0..255, not padded. "unit": ``[1, 3, H, W]``, 0..1, stretched to the input."""

SAM_MEAN: Final = (123.675, 116.28, 103.53)
SAM_STD: Final = (58.395, 57.12, 57.375)
"""Of RGB channels, 0..255: those of every released SAM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderDialect:
    """Names and shapes of an image encoder.

    Attributes:
        name: In names of I/O schemes.
        producer: The exporters that write it.
        input: Name of the image.
        rank: Axes of the image.
        layout: Of the image; an image of integers is always 0..255.
        embedding: Name of the embedding; empty for the first output.
        features: Other outputs that a decoder may read.
        remark: Note for ``samedge inspect``.
        stretches: Images are resized without keeping their aspect ratio.
        outputs: Names of the outputs that are read.
    """

    name: str
    producer: str
    input: str
    rank: int = 4
    layout: PixelLayout = "normalised"
    embedding: str = "image_embeddings"
    features: tuple[str, ...] = ()
    remark: str = "N,3,S,S, normalised"
    stretches: bool = field(init=False)
    outputs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stretches", self.layout == "unit")
        object.__setattr__(self, "outputs", (self.embedding, *self.features) if self.embedding else ())

    def fits(self, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> bool:
        """Return True if a graph has these names, and an image of this rank."""
        if inputs.keys() != {self.input} or not set(self.outputs) <= outputs.keys():
            return False
        spec = inputs[self.input]
        if len(spec.shape) != self.rank or spec.dtype.kind not in "fui":
            return False
        return self.rank != 4 or spec.shape[1] == 3 or isinstance(spec.shape[1], str)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderDialect:
    """Names and shapes of a prompt encoder with mask decoder.

    Attributes:
        name: In names of I/O schemes.
        producer: The exporters that write it.
        coords: Name of the points, ``[prompts, points, 2]`` after the leading axes, (x, y) in px of the resized image.
        labels: Name of their labels, of any dtype.
        mask: Name of the mask prompts; empty if it takes none.
        has_mask: Name of the flags of mask prompts.
        size: Name of the image's size, (height, width); empty if it takes none.
        size_given: Side that is given as size: masks at image size are not used, and small ones cost least; 0 for the
            side of the square input.
        scaled: Points are in px of the image of the given size.
        features: Outputs of the encoder beside the embedding.
        low_res: Name of the masks that are used; empty for the output that is none of the others.
        scores: Name of the predicted IoUs.
        others: Other outputs by which it is told.
        leading_axes: Axes of size 1 before the axis of prompts.
        pads: It appends the padding point itself.
        first_mask: It returns the mask for unambiguous prompts, before those for ambiguous ones.
        mask_count: Masks of each prompt where a graph does not tell; 0 if that must be tried.
        padding_xy: Coordinates of padding points in px of the resized image.
        boxes: It takes the corners of boxes as points.
        background: It takes points beside the object.
        most_points: Maximum number of points of a prompt; 0 for any.
        remark: Note for ``samedge inspect``.
        inputs: Names of all inputs.
        outputs: Names of the outputs by which it is told.
        draws_only: The masks that are used are drawn at the size given.
    """

    name: str
    producer: str
    coords: str = "point_coords"
    labels: str = "point_labels"
    mask: str = ""
    has_mask: str = ""
    size: str = ""
    size_given: int = 1
    scaled: bool = False
    features: tuple[str, ...] = ()
    low_res: str = "low_res_masks"
    scores: str = "iou_predictions"
    others: tuple[str, ...] = ()
    leading_axes: int = 0
    pads: bool = False
    first_mask: bool = True
    mask_count: int = 0
    padding_xy: float = 0.0
    boxes: bool = True
    background: bool = True
    most_points: int = 0
    remark: str = ""
    inputs: tuple[str, ...] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)
    draws_only: bool = field(init=False)

    def __post_init__(self) -> None:
        names = ("image_embeddings", *self.features, self.coords, self.labels, self.mask, self.has_mask, self.size)
        object.__setattr__(self, "inputs", tuple(filter(None, names)))
        object.__setattr__(self, "outputs", tuple(filter(None, (self.scores, self.low_res, *self.others))))
        object.__setattr__(self, "draws_only", bool(self.size) and self.low_res == "masks")

    def fits(self, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> bool:
        """Return True if a graph has these names."""
        return inputs.keys() == set(self.inputs) and set(self.outputs) <= outputs.keys()


ENCODERS: Final = (  # the first match wins
    EncoderDialect(
        name="hq", producer="SAM-HQ", input="image", features=("interm_embeddings",),
        remark="N,3,S,S, normalised; interm_embeddings are features of early layers",
    ),
    EncoderDialect(name="image", producer="samedge, nanosam or EdgeSAM", input="image"),
    EncoderDialect(
        name="input_image_hwc", producer="samexporter", input="input_image", rank=3, layout="hwc",
        remark="H,W,3 of 0..255, long side S; normalised and padded in the graph",
    ),
    EncoderDialect(
        name="hq_input_image", producer="SAM-HQ", input="input_image", features=("interm_embeddings",),
        remark="1,3,S,S, normalised; interm_embeddings are features of early layers",
    ),
    EncoderDialect(
        name="input_image", producer="samexporter or EfficientViT", input="input_image", remark="1,3,S,S, normalised"
    ),
    EncoderDialect(
        name="pixel_values", producer="optimum", input="pixel_values",
        features=("image_positional_embeddings",),
    ),
    EncoderDialect(
        name="batched_images", producer="EfficientSAM", input="batched_images", layout="unit",
        remark="N,3,H,W of 0..1; resized in the graph without keeping the aspect ratio",
    ),
    EncoderDialect(name="images", producer="Meta's encoder, traced by hand", input="images", embedding="embeddings"),
    EncoderDialect(name="x", producer="osam or labelme", input="x", embedding="", remark="N,3,S,S, normalised"),
)  # fmt: skip

DECODERS: Final = (
    DecoderDialect(
        name="native", producer="samedge or nanosam", mask="mask_input", has_mask="has_mask_input", mask_count=4,
        remark="low-resolution masks; labels are int32 from samedge and float32 from nanosam",
    ),
    DecoderDialect(
        name="cvat", producer="CVAT", mask="mask_input", has_mask="has_mask_input", size="orig_im_size", size_given=0,
        others=("xtl", "ytl", "xbr", "ybr"), remark="one prompt at a time; masks cut out at xtl, ytl, xbr, ybr",
    ),
    DecoderDialect(
        name="meta", producer="samedge or Meta", mask="mask_input",
        has_mask="has_mask_input", size="orig_im_size", others=("masks",),
        remark="one prompt at a time; masks at image size",
    ),
    DecoderDialect(
        name="meta_masks", producer="Meta's exporter, changed", mask="mask_input", has_mask="has_mask_input",
        size="orig_im_size", size_given=0, low_res="masks", remark="one prompt at a time; masks at image size only",
    ),
    DecoderDialect(
        name="hq", producer="SAM-HQ", features=("interm_embeddings",), mask="mask_input", has_mask="has_mask_input",
        size="orig_im_size", others=("masks",), remark="one prompt at a time; masks at image size",
    ),
    DecoderDialect(
        name="edgesam", producer="EdgeSAM", low_res="masks", scores="scores",
        remark="no mask prompts; low-resolution masks",
    ),
    DecoderDialect(
        name="efficientvit", producer="EfficientViT", low_res="masks", remark="no mask prompts; low-resolution masks"
    ),
    DecoderDialect(
        name="optimum", producer="optimum", coords="input_points", labels="input_labels",
        features=("image_positional_embeddings",), low_res="pred_masks", scores="iou_scores", leading_axes=1, pads=True,
        first_mask=False, boxes=False,
        remark="points only, no boxes and no mask prompts; three masks for each prompt",
    ),
    DecoderDialect(
        name="efficientsam", producer="EfficientSAM", coords="batched_point_coords", labels="batched_point_labels",
        size="orig_im_size", scaled=True, low_res="", others=("output_masks",), leading_axes=1, first_mask=False,
        most_points=6, background=False, padding_xy=-1.0,
        remark="no mask prompts, no points beside the object; six points at most, the graph leaves out the rest",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dialect:
    """An I/O scheme: the records of both halves."""

    encoder: EncoderDialect
    decoder: DecoderDialect
    foreign: bool = False
    """A pair that ``samedge export`` does not write under this name."""


_ENCODER: Final = {record.name: record for record in ENCODERS}
_DECODER: Final = {record.name: record for record in DECODERS}

DIALECTS: Final[Mapping[str, Dialect]] = {
    "native": Dialect(_ENCODER["image"], _DECODER["native"]),
    "meta": Dialect(_ENCODER["image"], _DECODER["meta"]),
    "samexporter": Dialect(_ENCODER["input_image_hwc"], _DECODER["meta"]),
    "osam": Dialect(_ENCODER["x"], _DECODER["meta"]),
    **{
        f"{encoder.name}+{decoder.name}": Dialect(encoder, decoder, foreign=True)
        for encoder in ENCODERS
        for decoder in DECODERS
        if set(decoder.features) <= set(encoder.features)
    },
}
"""Every I/O scheme by name."""
