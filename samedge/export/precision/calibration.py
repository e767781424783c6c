"""Ranges of activations, measured on the user's images for static int8 and fp8.

The range is not the largest magnitude, since a few outliers in a hundred million numbers would cost all others their
resolution, but a high quantile, from a histogram over all images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from samedge.engines.registry import open_engine
from samedge.types import Array, FloatArray, Progress

QUANTILE: Final = 0.9999
BINS: Final = 4096
GROUP: Final = 16
"""Activations per run: 16 of ViT-B's largest are 0.8 GB."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Data for measuring ranges.

    Attributes:
        feeds: Yields a graph's feeds, one per image; called several times.
        images: Number of images.
    """

    feeds: Callable[[], Iterable[dict[str, Array]]]
    images: int


@dataclass(slots=True)
class MagnitudeHistogram:
    """Histogram of magnitudes, in equal bins from 0 to a limit that doubles as needed."""

    limit: float = 1e-3
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: FloatArray) -> None:
        """Count the magnitudes of more values."""
        magnitudes = np.abs(values).ravel()
        highest = float(magnitudes.max(initial=0.0))
        while highest >= self.limit:
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(1)
            self.counts[BINS // 2 :] = 0
            self.limit *= 2
        self.counts += np.histogram(magnitudes, BINS, (0.0, self.limit))[0]

    def quantile(self, share: float) -> float:
        """Return the magnitude that this share of the values does not exceed."""
        total = self.counts.cumsum()
        if total[-1] == 0:
            return 0.0
        bin_ = int(np.searchsorted(total, share * total[-1]))
        return (min(bin_, BINS - 1) + 1) * self.limit / BINS


def activation_ranges(
    model: onnx.ModelProto,
    names: Sequence[str],
    calibration: Calibration,
    folder: Path,
    report: Progress = lambda _step, _share: None,
    *,
    threads: int | None = None,
) -> dict[str, float]:
    """Run a graph on images and return the range of each activation.

    Args:
        model: The graph, with its weights; not changed.
        names: Activations.
        calibration: The images; they are run once per `GROUP` of activations.
        folder: Folder for a temporary copy of the graph.
        report: Called as the work proceeds.
        threads: As for `samedge.load`.
    """
    histograms = {name: MagnitudeHistogram() for name in dict.fromkeys(names)}
    wanted = list(histograms)
    groups = [wanted[at : at + GROUP] for at in range(0, len(wanted), GROUP)]
    path = folder / "calibration.onnx"
    step = f"Measuring ranges on {calibration.images} images"
    report(step, 0.0)
    for done, group in enumerate(groups, 1):
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in group)
        onnx.save(watched, str(path), save_as_external_data=True, location=f"{path.name}.data")
        del watched
        try:
            with open_engine(path, backend="onnxruntime", device="cpu", threads=threads) as engine:
                for feeds in calibration.feeds():
                    for name, values in engine.run(feeds, group).items():
                        histograms[name].add(values)
        finally:
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        report(step, done / len(groups))
    return {name: histogram.quantile(QUANTILE) for name, histogram in histograms.items()}
