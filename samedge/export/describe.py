"""Facts for the manifest: layers, parameters and floating-point operations of a model, and versions."""

from __future__ import annotations

import platform
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from samedge.bundle.manifest import SCHEMA_VERSION, ModelRecord
from samedge.export.family import exporter_of
from samedge.families import find_family
from samedge.models.load import Loaded, load_any
from samedge.models.sam.sam import Sam
from samedge.version import __version__

_VERSIONED: Final = ("torch", "onnx", "onnxslim", "onnxruntime", "onnxruntime-gpu", "numpy")


def provenance() -> dict[str, Any]:
    """Return the manifest's fields for schema, time and versions."""
    versions = {"samedge": __version__, "python": platform.python_version()}
    for name in _VERSIONED:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "schema": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
    }


def describe_checkpoint(source: str | Path, *, image_size: int | None = None) -> ModelRecord:
    """Return the record of a checkpoint's model that `samedge info` shows.

    Args:
        source: Path or known name of a checkpoint.
        image_size: Side of the square input, px, for architectures whose weights do not determine it.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        DownloadError: The download failed.
    """
    loaded = load_any(source, image_size=image_size)
    return exporter_of(find_family(loaded.family)).describe(loaded, image_size)


def model_record(loaded: Loaded, encoder: float, decoder: float) -> ModelRecord:
    """Return the manifest's record of a model; `encoder` are GFLOPs per image, `decoder` per prompt (0: none)."""
    model = loaded.model
    return ModelRecord(
        name=loaded.name,
        licence=loaded.licence,
        checkpoint=loaded.checkpoint,
        checkpoint_sha256=loaded.sha256,
        seeded=loaded.seeded,
        layers=sum(1 for module in model.modules() if next(module.children(), None) is None),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        encoder_gflops=encoder,
        decoder_gflops=decoder,
        notes=getattr(loaded, "notes", ()),  # absent in plug-ins' records
    )


def count_gflops(sam: Sam) -> tuple[float, float]:
    """Count the GFLOPs of matrix products and convolutions, a multiply-add being two operations.

    Nothing is computed: only shapes pass through the model.

    Returns:
        Those of the encoder for one image, and of the decoder for one prompt of a point and its padding point.
    """
    size, grid = sam.image_size, sam.embedding_size
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        with FlopCounterMode(display=False) as encoder:
            embedding = sam.encode(torch.zeros(1, 3, size, size))
        prompt: tuple[Tensor, ...] = (
            torch.zeros(1, 2, 2),
            torch.zeros(1, 2, dtype=torch.int32),
            torch.zeros(1, 1, 4 * grid, 4 * grid),
            torch.zeros(1),
        )
        with FlopCounterMode(display=False) as decoder:
            sam.decode(embedding, *prompt)
    return encoder.get_total_flops() / 1e9, decoder.get_total_flops() / 1e9


def count_image_gflops(model: nn.Module, image_size: tuple[int, int]) -> float:
    """Count the GFLOPs of a model for one image of (height, width) px, as `count_gflops`."""
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counted:
        model(torch.zeros(1, 3, *image_size))
    return float(counted.get_total_flops()) / 1e9
