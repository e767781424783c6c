"""Real bundles of a tiny SAM with seeded weights, exported once in a run: what boards are given."""

from __future__ import annotations

import shutil
from pathlib import Path

from samedge.types import IOScheme
from support.shared import made_once

TINY = "seeded:sam_vit_tiny"


def exported_bundle(folder: Path, io: IOScheme = "native") -> Path:
    """Puts a checked bundle whose encoder is in the form for GPUs into a folder that is not there yet."""
    shutil.copytree(_exported(io), folder)
    return folder


def _exported(io: IOScheme) -> Path:
    from samedge.export.exporter import export_model

    return made_once(f"tiny-{io}", lambda path: export_model(TINY, io=io, form="mask", output=path))
