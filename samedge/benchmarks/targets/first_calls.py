"""What a new process does first, with its times. Called in child processes; imports nothing that it wants to time."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter
from typing import Any, Final

CALLS: Final = 5
"""Two cold ones and three warm ones."""

_IMPORT: Final = "from time import perf_counter as t; a = t(); import samedge; print(t() - a)"


def import_time() -> float:
    """Return the seconds that ``import samedge`` takes in a process that did nothing before."""
    done = subprocess.run(  # noqa: S603 - no input but this
        [sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def begin(bundle: str, image: str, backend: str, threads: int | None) -> dict[str, Any]:
    """Load a bundle, encode a picture and asks a point, several times; return seconds.

    Args:
        bundle: Path of the bundle.
        image: Path of a picture.
        backend: Which runs it, on the CPU.
        threads: CPU threads; None for all physical cores.

    Returns:
        ``load``; ``first_mask``, from before the import of what runs bundles to the first mask; and lists of the times
        of each call: ``encode``, ``decode``.
    """
    start = perf_counter()
    from samedge.api.load import load
    from samedge.runtime.image.read import as_bgr

    predictor = load(bundle, backend, "cpu", threads=threads, force=True)
    loaded = perf_counter()
    bgr = as_bgr(image)  # not in a call of its own: it is the import of OpenCV that takes long
    encode, decode, first_mask = [], [], 0.0
    for _ in range(CALLS):
        before = perf_counter()
        predictor.set_image(bgr)
        encode.append(perf_counter() - before)
        before = perf_counter()
        size = predictor.geometry
        masks = predictor.predict(points=[size.width / 2, size.height / 2]).masks
        decode.append(perf_counter() - before)
        first_mask = first_mask or perf_counter() - start
        del masks
    return {"load": loaded - start, "first_mask": first_mask, "encode": encode, "decode": decode}
