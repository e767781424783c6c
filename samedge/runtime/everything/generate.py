"""Segment everything: prompts on the grids of the image and of its crops, in turn, and their masks, in order.

In exact mode the masks equal those of Meta's ``SamAutomaticMaskGenerator``, which draws each at image size first; here
only masks that may be kept are drawn, and only inside their boxes. Memory is bounded by the points of one decoder call:
results are kept as runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType

import numpy as np

from samedge.runtime.everything.candidates import Candidate, distinct_across_crops, distinct_in_crop
from samedge.runtime.everything.coarse_to_fine import prompt_coarse_to_fine
from samedge.runtime.everything.crops import crops_of
from samedge.runtime.everything.found import FoundMasks, Statistics
from samedge.runtime.everything.parameters import EverythingRun
from samedge.runtime.everything.small_regions import clean_up
from samedge.runtime.everything.sweep import Scene, Sweep, Tally
from samedge.runtime.everything.watch import Watch


def find_everything(scene: Scene, run: EverythingRun, watch: Watch, speed: Mapping[str, float]) -> FoundMasks:
    """Return the masks found by the points of all grids; errors as in `Predictor.everything`.

    `speed` has the milliseconds already spent on the image: "preprocess" and "inference".
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
        share = (passed / total, (passed + len(points)) / total)
        sweep = Sweep(scene, crop, context, geometry, points, parameters, share, watch, tally)
        candidates = (
            sweep.prompt_in_turn(np.arange(len(points))) if run.mode == "exact" else prompt_coarse_to_fine(sweep)
        )
        found.extend(distinct_in_crop(candidates, parameters.box_nms_thresh))
        passed += len(points)
    if len(crops) > 1:
        found = distinct_across_crops(found, parameters.crop_nms_thresh)
    if parameters.min_mask_region_area > 0:
        watch.report("Removing small regions", 1.0)
        nms_threshold = max(parameters.box_nms_thresh, parameters.crop_nms_thresh)
        found = clean_up(found, parameters.min_mask_region_area, nms_threshold)
    watch.report("Done", 1.0)
    counters = asdict(tally)
    graphs_ms = counters.pop("graphs_seconds") * 1e3
    spent = {
        "preprocess": speed.get("preprocess", 0.0),
        "inference": speed.get("inference", 0.0) + graphs_ms,
        "postprocess": watch.elapsed_ms - begin_ms - graphs_ms,
    }
    statistics = Statistics(points=total, milliseconds=watch.elapsed_ms, **counters)
    return FoundMasks.of(found, scene.shape, statistics, MappingProxyType(spent))
