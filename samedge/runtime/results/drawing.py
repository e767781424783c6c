"""Drawing of results with the strokes of the overlay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.image.read import as_bgr
from samedge.runtime.results.masks import Objects
from samedge.runtime.results.overlay import draw_box, draw_label, draw_mask_overlay, instance_colour
from samedge.types import ImageArray


@dataclass(frozen=True, slots=True)
class Look:
    """Options of drawing; see `Results.plot`."""

    conf: bool = True
    line_width: float | None = None
    font_size: float | None = None
    font: str | None = None
    labels: bool = True
    boxes: bool = True
    masks: bool = True
    color_mode: Literal["class", "instance"] = "class"


def draw_results(results: Objects, image: ImageArray | None, look: Look) -> ImageArray:
    """Return a copy of the image (or of another one of its size) with masks, boxes and labels, BGR uint8 ``(H, W, 3)``.

    Raises:
        UsageError: `image` has another size, or the colour mode is unknown.
        StorageError: The font cannot be read.
    """
    if look.color_mode not in ("class", "instance"):
        raise UsageError(f"invalid color_mode {look.color_mode!r}", cure="Give 'class' or 'instance'")
    canvas = np.array(as_bgr(results.orig_img if image is None else image), order="C")
    height, width = results.orig_shape
    if canvas.shape[:2] != (height, width):
        raise UsageError(
            f"img is {canvas.shape[1]} x {canvas.shape[0]} px, but the results are for {width} x {height} px",
            cure="Resize it first",
        )
    if results.boxes is None:
        return canvas
    classes = results.boxes.cls.astype(int).tolist()
    colours = [instance_colour(i) for i in (classes if look.color_mode == "class" else range(len(classes)))]
    line_width = None if look.line_width is None else max(1, round(look.line_width))
    if look.masks and results.masks is not None:
        for mask, colour in zip(results.masks.iter_masks(), colours, strict=True):
            draw_mask_overlay(canvas, mask, colour, line_width=line_width)
    corners = results.boxes.xyxy
    if look.boxes:
        for box, colour in zip(corners, colours, strict=True):
            draw_box(canvas, box, colour, line_width=line_width)
    if look.labels:
        for box, colour, index, score in zip(corners, colours, classes, results.boxes.conf, strict=True):
            text = f"{results.name_of(index)} {score:.2f}" if look.conf else results.name_of(index)
            draw_label(canvas, text, box[:2], colour, font_size=look.font_size, font=look.font)
    return canvas
