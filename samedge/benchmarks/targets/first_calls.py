"""Timed first calls of a new process. Called in child processes; must not import anything that it times."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter
from typing import Any, Final

CALLS: Final = 5
"""Two cold ones and three warm ones."""

_IMPORT: Final = "from time import perf_counter as t; a = t(); import samedge; print(t() - a)"


def import_time() -> float:
    """Return the seconds that ``import samedge`` takes in a fresh process."""
    done = subprocess.run(  # noqa: S603 - constant arguments
        [sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def begin(bundle: str, image: str, backend: str, threads: int | None) -> dict[str, Any]:
    """Load a bundle, then encode an image and decode a point several times; return times in seconds.

    The times are ``load``; ``first_mask``, from before the imports to the first mask; and lists of each call's,
    ``encode`` and ``decode``.
    """
    start = perf_counter()
    from samedge.api.load import load
    from samedge.runtime.image.read import as_bgr

    predictor = load(bundle, backend, "cpu", threads=threads, force=True)
    loaded = perf_counter()
    bgr = as_bgr(image)  # not timed separately: most of it is the import of OpenCV
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
