"""Results: the masks and boxes of one image, and the ways to view, select and save them.

Names, shapes and file formats are those familiar from Ultralytics, reimplemented on numpy. New is what keeps masks and
prompts together: `prompt_index` follows every mask through slicing and filtering, `dropped` names the prompts without a
mask, and RLE keeps the holes and parts that polygons lose.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from samedge.errors import UsageError
from samedge.runtime.masks.polygons import Parts
from samedge.runtime.masks.rle import Rle
from samedge.runtime.results import records
from samedge.runtime.results.boxes import Boxes, Selection, boxes_of_masks, selected_rows
from samedge.runtime.results.host_array import HostArrays
from samedge.runtime.results.masks import Masks, RleMasks
from samedge.runtime.results.prediction import Prediction
from samedge.types import Array, BoolArray, ImageArray

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["Boxes", "Masks", "Results"]

STAGES = ("preprocess", "inference", "postprocess")


class Results(HostArrays):
    """The masks and boxes of one image.

    Args and attributes:
        orig_img: The image, uint8 ``(H, W, 3)``, BGR; its (height, width) is `orig_shape`.
        path: Source of the image, or None.
        names: Names of the classes; by default ``{i: str(i)}``.
        boxes: ``[N, 6]``: x1, y1, x2, y2, score, class; by default the masks' tight boxes, score 1. Kept as `Boxes`.
        masks: bool ``[N, H, W]``, a prediction, or RLEs; kept as `Masks`, or None when there are none.
        speed: Milliseconds for "preprocess", "inference" and "postprocess"; None if not measured.
        prompt_index: Index of the prompt of each mask, int ``[N]``; by default the classes.
        dropped: Prompts without a mask because none scored well enough.
        save_dir: Attribute only: folder that a call with ``save=True``, ``save_txt=True`` or ``save_crop=True`` wrote
            to, and that of images that `save` writes without a name; None for the current folder.
        frame: Attribute only: position of the image in its video, from 1; None for other images.
        frame_rate: Attribute only: frames read for each second of the video.
        probs, keypoints, obb: Attributes only, None: samedge's models have none of these.

    Raises:
        UsageError: Numbers of boxes, masks and prompt indices differ, or masks are not at image size.
    """

    def __init__(
        self,
        orig_img: ImageArray,
        path: str | os.PathLike[str] | None = None,
        names: Mapping[int, str] | None = None,
        boxes: Array | None = None,
        masks: BoolArray | Prediction | RleMasks | None = None,
        speed: Mapping[str, float] | None = None,
        *,
        prompt_index: Sequence[int] | NDArray[np.integer] | None = None,
        dropped: Iterable[int] = (),
    ) -> None:
        self.orig_img = orig_img
        self.orig_shape: tuple[int, int] = (int(orig_img.shape[0]), int(orig_img.shape[1]))
        self.path = None if path is None else os.fspath(path)
        self.speed: dict[str, float | None] = {**dict.fromkeys(STAGES), **(speed or {})}
        self.dropped = tuple(dropped)
        self.save_dir: str | None = None
        self.frame: int | None = None
        self.frame_rate: float | None = None
        self.probs: None = None
        self.keypoints: None = None
        self.obb: None = None
        self.boxes: Boxes | None = None
        self.masks: Masks | None = None
        self.prompt_index: NDArray[np.intp] = np.zeros(0, np.intp)
        self._set(boxes, masks, prompt_index)
        known = [-1, *self.dropped, *([] if self.boxes is None else self.boxes.cls.astype(int).tolist())]
        self.names = {i: str(i) for i in range(max(known) + 1)} if names is None else dict(names)

    @classmethod
    def from_prediction(
        cls,
        prediction: Prediction,
        orig_img: ImageArray,
        *,
        path: str | os.PathLike[str] | None = None,
        speed: Mapping[str, float] | None = None,
        dropped: Iterable[int] = (),
    ) -> Self:
        """Return the results of a prediction: class = prompt, score = predicted IoU, box = tight box of the mask.

        The masks are drawn on first use. `speed` is by default the prediction's; the other arguments are those of
        `Results`.
        """
        index = prediction.prompt_index
        boxes = np.column_stack([prediction.boxes, prediction.scores, index]).astype(np.float32)
        speed = prediction.speed if speed is None else speed
        return cls(orig_img, path, None, boxes, prediction, speed, prompt_index=index, dropped=dropped)

    def _set(
        self,
        boxes: Array | Boxes | None,
        masks: BoolArray | Prediction | RleMasks | Masks | None,
        prompt_index: Sequence[int] | NDArray[np.integer] | None,
    ) -> None:
        if masks is not None and not isinstance(masks, Masks):
            masks = Masks(masks, self.orig_shape)
        if boxes is None and masks is not None:
            index = np.arange(len(masks)) if prompt_index is None else np.asarray(prompt_index)
            if len(index) == len(masks):
                boxes = np.column_stack([boxes_of_masks(masks.data), np.ones(len(masks)), index])
        if boxes is not None and not isinstance(boxes, Boxes):
            boxes = Boxes(boxes, self.orig_shape)
        count = len(boxes) if boxes is not None else 0
        if prompt_index is None:
            prompt_index = [] if boxes is None else boxes.cls.astype(np.intp)
        index = np.asarray(prompt_index, np.intp).reshape(-1)
        if len(index) != count or (masks is not None and len(masks) != count):
            counts = f"{count} boxes, {0 if masks is None else len(masks)} masks and {len(index)} prompt indices"
            raise UsageError(f"{counts} differ", cure="Give one of each for every object")
        self.boxes = boxes
        self.masks = masks if masks is not None and len(masks) else None
        self.prompt_index = index

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.prompt_index)

    def __getitem__(self, selection: Selection) -> Results:
        """Return some of the objects: by index, slice, or a list or array of indices or booleans."""
        rows = selected_rows(len(self), selection)
        chosen = self.new()
        chosen.update(
            None if self.boxes is None else self.boxes[rows],
            None if self.masks is None else self.masks[rows],
            prompt_index=self.prompt_index[rows],
        )
        return chosen

    def __iter__(self) -> Iterator[Results]:
        """Yield each object as `Results`."""
        return (self[at] for at in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.orig_shape
        return f"Results({self.verbose() or 'nothing'}, image {width} x {height} px, path {self.path!r})"

    def new(self) -> Results:
        """Return results for the same image and names, without objects."""
        empty = Results(self.orig_img, self.path, self.names, speed=None, dropped=self.dropped)
        empty.speed = dict(self.speed)
        empty.save_dir, empty.frame, empty.frame_rate = self.save_dir, self.frame, self.frame_rate
        return empty

    def update(
        self,
        boxes: Array | Boxes | None = None,
        masks: BoolArray | Prediction | RleMasks | Masks | None = None,
        probs: None = None,
        obb: None = None,
        keypoints: None = None,
        *,
        prompt_index: Sequence[int] | NDArray[np.integer] | None = None,
    ) -> None:
        """Replace boxes ``[N, 6]``, masks bool ``[N, H, W]``, or both.

        Those omitted are kept, and so is `prompt_index` if the number of objects is unchanged.

        Raises:
            UsageError: Their numbers differ, or `probs`, `obb` or `keypoints`, which samedge does not have, are given.
        """
        for name, given in (("probs", probs), ("obb", obb), ("keypoints", keypoints)):
            if given is not None:
                raise UsageError(f"results have no {name}", where=name, cure="Give boxes or masks")
        if boxes is not None and not isinstance(boxes, Boxes):
            boxes = Boxes(boxes, self.orig_shape)
        if masks is not None and not isinstance(masks, Masks):
            masks = Masks(masks, self.orig_shape)
        boxes = self.boxes if boxes is None else boxes
        masks = self.masks if masks is None else masks
        if prompt_index is None and len(self) in [len(objects) for objects in (boxes, masks) if objects is not None]:
            prompt_index = self.prompt_index
        self._set(boxes, masks, prompt_index)

    def name_of(self, index: int) -> str:
        """Return the name of a class, or its number."""
        return self.names.get(index, str(index))

    def verbose(self) -> str:
        """Return the number of objects of each class, such as "1 0, 2 1", or an empty string."""
        if self.boxes is None or not len(self):
            return ""
        classes, counts = np.unique(self.boxes.cls.astype(int), return_counts=True)
        return ", ".join(f"{count} {self.name_of(int(index))}" for index, count in zip(classes, counts, strict=True))

    @overload
    def plot(
        self, conf: bool = True, line_width: float | None = None, font_size: float | None = None,
        font: str | None = None, pil: Literal[False] = False, img: ImageArray | None = None, *,
        labels: bool = True, boxes: bool = True, masks: bool = True, show: bool = False, save: bool = False,
        filename: str | os.PathLike[str] | None = None, color_mode: Literal["class", "instance"] = "class",
        txt_color: tuple[int, int, int] | None = None, kpt_radius: int = 5, kpt_line: bool = True, probs: bool = True,
    ) -> ImageArray: ...  # fmt: skip

    @overload
    def plot(
        self, conf: bool = True, line_width: float | None = None, font_size: float | None = None,
        font: str | None = None, *, pil: Literal[True], img: ImageArray | None = None,
        labels: bool = True, boxes: bool = True, masks: bool = True, show: bool = False, save: bool = False,
        filename: str | os.PathLike[str] | None = None, color_mode: Literal["class", "instance"] = "class",
        txt_color: tuple[int, int, int] | None = None, kpt_radius: int = 5, kpt_line: bool = True, probs: bool = True,
    ) -> PILImage: ...  # fmt: skip

    def plot(
        self,
        conf: bool = True,
        line_width: float | None = None,
        font_size: float | None = None,
        font: str | None = None,
        pil: bool = False,
        img: ImageArray | None = None,
        *,
        labels: bool = True,
        boxes: bool = True,
        masks: bool = True,
        show: bool = False,
        save: bool = False,
        filename: str | os.PathLike[str] | None = None,
        color_mode: Literal["class", "instance"] = "class",
        txt_color: tuple[int, int, int] | None = None,
        kpt_radius: int = 5,
        kpt_line: bool = True,
        probs: bool = True,
    ) -> ImageArray | PILImage:
        """Return a copy of the image with masks, boxes and labels on it: BGR uint8 ``(H, W, 3)``.

        Args:
            conf: Write scores into labels.
            line_width: Width of boxes and contours, px; None adapts to the image.
            font_size: Size of labels, px; None adapts to the image.
            font: File of a TrueType font.
            pil: Return a PIL image (RGB) instead.
            img: Draw on a copy of this image of the same size instead.
            labels: Write labels.
            boxes: Draw boxes.
            masks: Draw masks.
            show: Open the image in a window.
            save: Write the image to `filename`.
            filename: As in `save`.
            color_mode: Colours by "class" (prompt), or by "instance".
            txt_color: Colour of the letters of labels, BGR; None for black or white, whichever can be read.
            kpt_radius: Ignored, as are `kpt_line` and `probs`: there are no keypoints and no probabilities.
            kpt_line: Ignored.
            probs: Ignored.

        Raises:
            UsageError: `img` has another size, or `color_mode` is neither of the two.
            StorageError: The font cannot be read, or the image cannot be written.
        """
        from samedge.runtime.results.overlay import Look, draw_results

        look = Look(conf, line_width, font_size, font, labels, boxes, masks, color_mode, txt_color)
        drawn = draw_results(self, img, look)
        if save:
            self._write(drawn, filename)
        if show or pil:
            from PIL import Image

            image = Image.fromarray(np.ascontiguousarray(drawn[..., ::-1]))
            if show:
                image.show(title=self.path)
            return image if pil else drawn
        return drawn

    def show(self, *arguments: Any, **keywords: Any) -> None:
        """Open the image of `plot`, which the arguments are for, in the system's image viewer."""
        self.plot(*arguments, **{**keywords, "show": True})

    def save(self, filename: str | os.PathLike[str] | None = None, *arguments: Any, **keywords: Any) -> str:
        """Write the image of `plot` in the format of the suffix, and return its path.

        By default the name is "results_" and that of the image, in `save_dir`. The other arguments are those of `plot`.

        Raises:
            UsageError: The format is unknown.
            StorageError: The file cannot be written.
        """
        drawn = self.plot(*arguments, **{**keywords, "pil": False})
        return self._write(drawn, filename or None)

    def _write(self, drawn: ImageArray, filename: str | os.PathLike[str] | None) -> str:
        from samedge.runtime.results.overlay import write_image

        if filename is None:
            name = f"results_{Path(self.path or 'image.jpg').name}"
            path = Path(self.save_dir or ".") / (name if Path(name).suffix else f"{name}.jpg")
        else:
            path = Path(filename)
        write_image(path, drawn)
        return str(path)

    def save_txt(self, txt_file: str | os.PathLike[str], save_conf: bool = False, *, parts: Parts = "merge") -> str:
        """Append one line per object to a text file in YOLO's format, and return the path of the file.

        A line is "class x1 y1 x2 y2 ..." (followed by a score if requested), as shares of the image's width and height.
        Objects of fewer than 3 points get no line. Results without masks get "class x y width height" (centre). The
        class is the index of the prompt, even if masks were dropped. Without lines no file is written.

        Args:
            txt_file: The file; folders are created.
            save_conf: Write scores too.
            parts: Treatment of masks of several parts; with "all", each part is a line.

        Raises:
            StorageError: The file cannot be written.
        """
        return records.save_txt(self, Path(txt_file), save_conf=save_conf, parts=parts)

    def save_crop(
        self, save_dir: str | os.PathLike[str], file_name: str | os.PathLike[str] = "im.jpg", *, margin: int = 10
    ) -> list[str]:
        """Write the part of the image around each box to ``save_dir/<class name>/``, and return the paths.

        Args:
            save_dir: Folder; created if missing.
            file_name: Name of the files, by default with ".jpg". Numbers are added: nothing is overwritten.
            margin: Margin around each box, px.

        Raises:
            StorageError: A file cannot be written.
        """
        return records.save_crops(self, Path(save_dir), Path(file_name), margin=margin)

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """Return one record per object: "name", "class", "confidence", "box" {x1, y1, x2, y2}, "segments" {x, y}.

        Coordinates are in px or, with `normalize`, shares of the image's width and height.
        """
        return records.summary(self, normalize=normalize, decimals=decimals)

    def to_json(self, normalize: bool = False, decimals: int = 5) -> str:
        """Return `summary` as JSON."""
        return json.dumps(self.summary(normalize, decimals), indent=2)

    def to_csv(self, normalize: bool = False, decimals: int = 5) -> str:
        """Return `summary` as CSV with a header; "box" and "segments" are JSON inside their cells."""
        return records.to_csv(self, normalize=normalize, decimals=decimals)

    def to_df(self, normalize: bool = False, decimals: int = 5) -> Any:
        """Return `summary` as a pandas DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return records.to_df(self.summary(normalize, decimals))

    def to_rle(self) -> list[Rle]:
        """Return the masks in COCO's compressed form, holes and parts included."""
        return [] if self.masks is None else self.masks.to_rle()

    def to_coco(self, image_id: int = 0, category_id: int | None = None) -> list[dict[str, Any]]:
        """Return the objects as COCO annotations with RLE, as pycocotools loads and evaluates them.

        The category of every object is by default its class.
        """
        return records.to_coco(self, image_id=image_id, category_id=category_id)
