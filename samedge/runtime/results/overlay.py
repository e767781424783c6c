"""Drawing on images: results, masks, boxes, labels, prompts; and writing the image to a file.

Everything is drawn on a BGR uint8 copy of the image, and only inside the box of each object: an image of 10 000 px per
side needs no more than its copy and a few megabytes.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.image.read import as_bgr
from samedge.runtime.masks.polygons import mask_outlines
from samedge.runtime.masks.rle import mask_extent
from samedge.runtime.prompts.shapes import PADDING, PromptLike, read_boxes, read_labels, read_points
from samedge.runtime.results.masks import Objects
from samedge.storage.files import storage_errors
from samedge.types import Array, BoolArray, ImageArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Colour: TypeAlias = tuple[int, int, int]

FOREGROUND: Final[Colour] = (60, 200, 60)
BACKGROUND: Final[Colour] = (50, 50, 230)
BOX: Final[Colour] = (0, 140, 255)
_WHITE: Final[Colour] = (255, 255, 255)
_BLACK: Final[Colour] = (0, 0, 0)
_BAND_PIXELS: Final = 1 << 20
# OpenCV shifts 32-bit coordinates; nothing is drawn this far out.
_FARTHEST: Final = 1 << 20


def instance_colour(index: int) -> Colour:
    """Return the BGR colour of the i-th object: hues advance by the golden ratio, so neighbours differ."""
    hue = (0.58 + index * 0.61803398875) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.9, 0.65, 0.8)[index % 3], (1.0, 0.95, 0.8)[index % 3])
    return round(blue * 255), round(green * 255), round(red * 255)


def line_width_for(height: int, width: int) -> int:
    """Return the line width for an image of this size, px, at least 1."""
    return max(1, round((height + width) * 0.0015))


def draw_mask_overlay(
    canvas: ImageArray, mask: BoolArray, colour: Colour, *, alpha: float = 0.45, line_width: int | None = None
) -> None:
    """Blend a colour into the canvas inside the mask, and draw its contour and those of its holes.

    The canvas is BGR uint8 ``(H, W, 3)``, contiguous. `alpha` is the share of the colour, 0..1; `line_width` the width
    of the contour in px: 0 for none, None for one that fits the image.
    """
    extent = mask_extent(mask)
    if extent is None:
        return
    rows, columns = extent
    # A table for each channel instead of arithmetic: no float arrays of the mask's size.
    values = np.arange(256, dtype=np.float32)
    tables = [np.rint(values * (1 - alpha) + channel * alpha).astype(np.uint8) for channel in colour]
    step = max(1, _BAND_PIXELS // (columns.stop - columns.start))
    for top in range(rows.start, rows.stop, step):
        band = slice(top, min(top + step, rows.stop))
        inside = mask[band, columns]
        for channel, table in enumerate(tables):
            plane = canvas[band, columns, channel]
            np.copyto(plane, table[plane], where=inside)
    width = line_width_for(*mask.shape) if line_width is None else line_width
    if width > 0:
        import cv2

        outlines = [outline.astype(np.int32) for outline in mask_outlines(mask, holes=True)]
        cv2.polylines(canvas, outlines, isClosed=True, color=colour, thickness=width, lineType=cv2.LINE_AA)


def draw_box(canvas: ImageArray, box: Array, colour: Colour, *, line_width: int | None = None) -> None:
    """Draw a box (x1, y1, x2, y2), px, on the canvas, uint8 ``(H, W, 3)``, BGR, contiguous."""
    import cv2

    width = line_width_for(*canvas.shape[:2]) if line_width is None else max(1, line_width)
    x1, y1, x2, y2 = _pixels(box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width)


def draw_label(
    canvas: ImageArray,
    text: str,
    at: Array,
    colour: Colour,
    *,
    font_size: float | None = None,
    font: str | None = None,
    text_colour: Colour | None = None,
) -> None:
    """Write black or white text on a coloured background, above a point or, without room there, below it.

    `text_colour` (BGR) replaces black or white.

    The point (x, y), px, is the top left of the labelled object. `font_size` is in px, by default one that fits the
    image; `font` is a TrueType file, by default PIL's own. Overflow is clipped.

    Raises:
        StorageError: The font cannot be read.
    """
    from PIL import Image, ImageDraw

    height, width = canvas.shape[:2]
    size = max(10.0, (height + width) * 0.015) if font_size is None else max(1.0, float(font_size))
    typeface = _font(font, size)
    left, top, right, bottom = typeface.getbbox(text)
    margin = max(1, round(size * 0.15))
    label_width, label_height = int(right - left) + 2 * margin, int(bottom - top) + 2 * margin
    blue, green, red = colour
    readable = _BLACK if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else _WHITE
    ink = readable if text_colour is None else text_colour
    label = Image.new("RGB", (label_width, label_height), (blue, green, red))  # BGR throughout: pasted unchanged
    ImageDraw.Draw(label).text((margin - left, margin - top), text, fill=ink, font=typeface)
    x, y = _pixels(at)
    y = y - label_height if y >= label_height else y
    x, y = max(0, min(x, width - label_width)), max(0, min(y, height - label_height))
    rows, columns = min(label_height, height - y), min(label_width, width - x)
    canvas[y : y + rows, x : x + columns] = np.asarray(label)[:rows, :columns]


def draw_prompts(
    image: ImageArray,
    points: PromptLike | None = None,
    labels: PromptLike | None = None,
    boxes: PromptLike | None = None,
) -> ImageArray:
    """Return a copy of an image with prompts on it: green dots inside, red dots outside, boxes; with white rims.

    Args:
        image: BGR uint8 ``(H, W, 3)``.
        points: ``(2,)``, ``(N, 2)`` or ``(N, P, 2)``: (x, y) in px.
        labels: One per point: 1 inside, 0 outside, -1 is not drawn; by default all 1.
        boxes: ``(4,)`` or ``(N, 4)``: x1, y1, x2, y2 in px.

    Raises:
        PromptError: A prompt that predictors would reject.
        ImageError: It is not an image.
    """
    import cv2

    canvas = np.array(as_bgr(image), order="C")
    line = line_width_for(*canvas.shape[:2])
    if boxes is not None:
        height, width = canvas.shape[:2]
        for box in read_boxes(boxes, ImageGeometry.of(height, width, max(height, width))):
            if box is not None:
                draw_box(canvas, box, _WHITE, line_width=2 * line + 2)
                draw_box(canvas, box, BOX, line_width=2 * line)
    if points is not None:
        dots = read_points(points)
        for own, kinds in zip(dots, read_labels(labels, dots), strict=True):
            for dot, kind in zip(own[kinds != PADDING], kinds[kinds != PADDING], strict=True):
                x, y = _pixels(dot)
                cv2.circle(canvas, (x, y), 3 * line + max(2, line), _WHITE, cv2.FILLED, cv2.LINE_AA)
                cv2.circle(canvas, (x, y), 3 * line, FOREGROUND if kind else BACKGROUND, cv2.FILLED, cv2.LINE_AA)
    return canvas


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
    text_colour: Colour | None = None


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
        sizes = f"img is {canvas.shape[1]} x {canvas.shape[0]} px, but the results are for {width} x {height} px"
        raise UsageError(sizes, cure="Resize it first")
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
            draw_label(
                canvas, text, box[:2], colour, font_size=look.font_size, font=look.font, text_colour=look.text_colour
            )
    return canvas


def write_image(path: str | Path, image: ImageArray) -> None:
    """Write a BGR image, uint8 ``(H, W, 3)``, to a file in the format of its suffix.

    Folders are created. A partially written file is removed.

    Raises:
        UsageError: The format is unknown, or cannot hold an image of this size.
        StorageError: The file cannot be written.
    """
    import cv2

    path = Path(path)
    known, encoded = False, None
    try:
        # Only the suffix: OpenCV crashes on a name that is not UTF-8.
        known = len(path.suffix) > 1 and path.suffix.isascii() and cv2.haveImageWriter(f"image{path.suffix}")
        if known:
            written, data = cv2.imencode(path.suffix, image)
            encoded = data.tobytes() if written else None
    except cv2.error:
        encoded = None
    if not known:
        raise UsageError("unknown image format", where=path, cure="End the name in .png, .jpg, .webp or .tiff")
    if encoded is None:
        size = f"{image.shape[1]} x {image.shape[0]} px"
        raise UsageError(f"{size} are too large for this format", where=path, cure="End the name in .png or .tiff")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            try:
                file.write(encoded)
                file.flush()
            except OSError:
                if path.is_file():  # not a device
                    path.unlink()
                raise


@lru_cache(maxsize=8)
def _font(font: str | None, size: float) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    if font is None:
        return ImageFont.load_default(size)
    with storage_errors(font, "read"):
        return ImageFont.truetype(font, size)


def _pixels(values: Array) -> tuple[int, ...]:
    clipped = np.clip(np.rint(np.asarray(values, np.float64)), -_FARTHEST, _FARTHEST)
    return tuple(int(value) for value in clipped)
