"""The graph of a YOLO or FastSAM, with the names and shapes of Ultralytics' exports.

``images`` float32 ``[N, 3, H, W]`` RGB 0..1 to ``output0`` ``[N, 4 + C + M, A]`` and, in a segmenter, ``output1`` ``[N,
M, H / 4, W / 4]``. Suppression is left to the host, so that every backend runs the graph, unless
`samedge.export.yolo.suppression` appends it.
"""

from __future__ import annotations

from typing import Final

import torch

from samedge.export.graphs.plans import DynamicAxes, GraphPlan
from samedge.models.yolo.yolo import Yolo, YoloConfig
from samedge.runtime.yolo.graph import INPUT, OUTPUT, PROTOTYPES

_TRACED_SIDES: Final = (3, 5)
"""Height and width for tracing free sizes, in strides: unequal, so that they are not confused."""


def plan_yolo(model: Yolo, image_size: tuple[int, int], *, dynamic: bool, batch: int | None = None) -> GraphPlan:
    """Return the plan of a YOLO's graph.

    Args:
        model: In evaluation mode.
        image_size: (height, width) of the input, px, multiples of the coarsest stride.
        dynamic: Leave height and width free.
        batch: Fixed number of images per call; None for any.
    """
    outputs = (OUTPUT, PROTOTYPES) if model.config.segments else (OUTPUT,)
    axes: DynamicAxes = {name: {} if batch else {0: "batch"} for name in (INPUT, *outputs)}
    if dynamic:
        axes[INPUT] |= {2: "height", 3: "width"}
        axes[OUTPUT] |= {2: "anchors"}
        if model.config.segments:
            axes[PROTOTYPES] |= {2: "mask_height", 3: "mask_width"}
    free = tuple(side * max(model.config.strides) for side in _TRACED_SIDES)
    height, width = free if dynamic else image_size
    return GraphPlan(
        role="yolo",
        module=model,
        # Two images for a free batch: a size of 1 could become a constant.
        example=(torch.zeros(batch or 2, 3, height, width),),
        inputs=(INPUT,),
        outputs=outputs,
        dynamic_axes=axes,
        output_shapes=_output_shapes(model, image_size, batch or "batch", dynamic=dynamic),
    )


def anchors_of(config: YoloConfig, image_size: tuple[int, int]) -> int:
    """Return the number of anchors for an input of (height, width) px."""
    return sum((image_size[0] // stride) * (image_size[1] // stride) for stride in config.strides)


def _output_shapes(
    model: Yolo, image_size: tuple[int, int], batch: int | str, *, dynamic: bool
) -> dict[str, tuple[int | str, ...]]:
    config, (height, width) = model.config, image_size
    anchors = anchors_of(config, image_size)
    rows = 4 + config.classes + config.prototypes
    shapes: dict[str, tuple[int | str, ...]] = {OUTPUT: (batch, rows, "anchors" if dynamic else anchors)}
    if config.segments:
        sides = (
            ("mask_height", "mask_width")
            if dynamic
            else tuple(2 * side // config.strides[0] for side in (height, width))
        )
        shapes[PROTOTYPES] = (batch, config.prototypes, *sides)
    return shapes
