"""Real bundles of a tiny SAM with seeded weights, exported once in each process: what boards are given."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from samedge.types import IOScheme

TINY = "seeded:sam_vit_tiny"


def exported_bundle(folder: Path, io: IOScheme = "native") -> Path:
    """Puts a checked bundle whose encoder is in the form for GPUs into a folder that is not there yet."""
    shutil.copytree(_exported(io), folder)
    return folder


@cache
def _exported(io: IOScheme) -> Path:
    from samedge.export.exporter import export_model

    folder = Path(tempfile.mkdtemp(prefix="samedge-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return export_model(TINY, io=io, form="mask", output=folder / "bundle")
