"""Segment everything: prompts on the grids of the image and of its crops, in turn, and their masks, in order.

In exact mode the masks equal those of Meta's ``SamAutomaticMaskGenerator``, which draws each at image size first; here
only masks that may be kept are drawn, and only inside their boxes. Memory is bounded by the points of one decoder call:
results are kept as runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from samedge.errors import UsageError
from samedge.runtime.decoder.decoders import ImageContext
from samedge.runtime.decoder.schemes import SamGraphs
from samedge.runtime.everything.candidates import Candidate, distinct_across_crops, distinct_in_crop
from samedge.runtime.everything.coarse_to_fine import ask_coarse_to_fine
from samedge.runtime.everything.crops import Crop, crops_of
from samedge.runtime.everything.found import FoundMasks, Statistics
from samedge.runtime.everything.parameters import EverythingRun
from samedge.runtime.everything.small_regions import clean_up
from samedge.runtime.everything.sweep import Sweep, Tally
from samedge.runtime.everything.watch import Watch
from samedge.runtime.image.geometry import ImageGeometry
from samedge.types import ImageArray


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The image to segment.

    Attributes:
        graphs: Graphs of the bundle.
        mask_threshold: A pixel belongs to a mask if its logit is greater.
        geometry: Geometry of the image.
        context: Returns the decoder context of the whole image.
        pixels: BGR uint8 ``(H, W, 3)``, to cut crops from; None if only the embedding is available.
        prompts_per_call: Most points per call of the decoder.
    """

    graphs: SamGraphs
    mask_threshold: float
    geometry: ImageGeometry
    context: Callable[[], ImageContext]
    pixels: ImageArray | None
    prompts_per_call: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.geometry.height, self.geometry.width

    def known_pixels(self) -> ImageArray:
        """Return the pixels.

        Raises:
            UsageError: Only the embedding is available.
        """
        if self.pixels is None:
            raise UsageError(
                "crops need the image, but only its embedding is available",
                where="crop_n_layers",
                cure="Set the image with set_image (in a stream, give keep_images=True), or omit the crops",
            )
        return self.pixels

    def crop(self, crop: Crop) -> tuple[ImageContext, ImageGeometry]:
        """Return the decoder context and geometry of a crop."""
        if crop.layer == 0:
            return self.context(), self.geometry
        geometry = ImageGeometry.of(crop.height, crop.width, self.geometry.image_size)
        part = np.ascontiguousarray(self.known_pixels()[crop.top : crop.bottom, crop.left : crop.right])
        return self.graphs.decoder.context(self.graphs.run_encoder(self.graphs.prepare(part, geometry))), geometry


def find_everything(scene: Scene, run: EverythingRun, watch: Watch, speed: Mapping[str, float]) -> FoundMasks:
    """Return the masks found by the points of all grids.

    Args:
        scene: The image.
        run: Options of the run.
        watch: Progress, cancellation and time limit.
        speed: Milliseconds already spent on the image: "preprocess" and "inference".

    Raises:
        UsageError: Crops are requested, but only the embedding is available.
        CancelledError: The caller cancelled.
        EngineError: A graph failed.
    """
    parameters, tally, begin_ms = run.parameters, Tally(), watch.elapsed_ms
    crops = crops_of(*scene.shape, parameters.crop_n_layers, parameters.crop_overlap_ratio)
    if len(crops) > 1:
        scene.known_pixels()
    grids = parameters.grids()
    total = sum(len(grids[crop.layer]) for crop in crops)
    found: list[Candidate] = []
    passed = 0
    for crop in crops:
        if not watch.begin_step():
            tally.complete = False
            break
        with tally.timed():
            context, geometry = scene.crop(crop)
        tally.crops_encoded += crop.layer > 0
        watch.end_step()
        points = grids[crop.layer] * np.array([crop.width, crop.height])
        sweep = Sweep(
            graphs=scene.graphs,
            context=context,
            geometry=geometry,
            crop=crop,
            image_shape=scene.shape,
            parameters=parameters,
            mask_threshold=scene.mask_threshold,
            points=points,
            points_per_call=min(parameters.points_per_batch, scene.prompts_per_call),
            share=(passed / total, (passed + len(points)) / total),
            watch=watch,
            tally=tally,
        )
        candidates = sweep.ask_in_turn(np.arange(len(points))) if run.mode == "exact" else ask_coarse_to_fine(sweep)
        found.extend(distinct_in_crop(candidates, parameters.box_nms_thresh))
        passed += len(points)
    if len(crops) > 1:
        found = distinct_across_crops(found, parameters.crop_nms_thresh)
    if parameters.min_mask_region_area > 0:
        watch.report("Removing small regions", 1.0)
        nms_threshold = max(parameters.box_nms_thresh, parameters.crop_nms_thresh)
        found = clean_up(found, parameters.min_mask_region_area, nms_threshold)
    watch.report("Done", 1.0)
    graphs_ms = tally.graphs_seconds * 1e3
    spent = {
        "preprocess": speed.get("preprocess", 0.0),
        "inference": speed.get("inference", 0.0) + graphs_ms,
        "postprocess": watch.elapsed_ms - begin_ms - graphs_ms,
    }
    statistics = Statistics(
        points=total,
        decoder_prompts=tally.decoder_prompts,
        decoder_calls=tally.decoder_calls,
        crops_encoded=tally.crops_encoded,
        masks_scored=tally.masks_scored,
        masks_drawn=tally.masks_drawn,
        masks_rescored=tally.masks_rescored,
        masks_upscaled=tally.masks_upscaled,
        milliseconds=watch.elapsed_ms,
        complete=tally.complete,
    )
    return FoundMasks.of(found, scene.shape, statistics, MappingProxyType(spent))
