"""What can be asked of the export of a YOLOv8 or FastSAM, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass

from samedge.bundle.yolo_record import SuppressionRecord
from samedge.errors import UsageError
from samedge.runtime.image.letterbox import MAX_STRIDE
from samedge.runtime.yolo.detections import Thresholds


@dataclass(frozen=True, slots=True)
class YoloOptions:
    """How a YOLO becomes a graph.

    Attributes:
        image_size: Side of the input, or (height, width), px, multiples of 32; what the model was trained at if None.
        dynamic: Leave height and width free.
        batch: The one number of images that the graph takes; None leaves it free.
        nms: Suppress boxes that overlap in the graph, in this way; None leaves it to the host.

    Raises:
        UsageError: `batch` is less than 1.
    """

    image_size: int | tuple[int, int] | None = None
    dynamic: bool = True
    batch: int | None = None
    nms: SuppressionRecord | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch is {self.batch}", cure="Give 1 or more, or None for any number of images")

    def size(self, trained: int) -> tuple[int, int]:
        """Return (height, width) of the input, px.

        Args:
            trained: What the model was trained at, px.

        Raises:
            UsageError: They are no multiples of 32.
        """
        asked = trained if self.image_size is None else self.image_size
        height, width = (asked, asked) if isinstance(asked, int) else asked
        if min(height, width) < MAX_STRIDE or height % MAX_STRIDE or width % MAX_STRIDE:
            raise UsageError(
                f"an image size of {height} x {width} px is not possible for this model",
                cure=f"Choose multiples of {MAX_STRIDE}",
            )
        return height, width


def suppression(
    *, nms: bool, conf: float = 0.25, iou: float = 0.7, max_det: int = 300, agnostic: bool = False
) -> SuppressionRecord | None:
    """Return how the graph suppresses, or None where it does not.

    Raises:
        UsageError: A number is out of its range.
    """
    Thresholds(conf, iou, max_det)
    return SuppressionRecord(conf, iou, max_det, agnostic) if nms else None
