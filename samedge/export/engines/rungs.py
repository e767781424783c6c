"""The rungs of the precision ladder for engines: a bundle's graph, and what is written into it on each rung.

float16 is written into the float32 graph on the device that builds: that takes onnx and numpy, and no torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import GraphRole
from samedge.errors import MissingExtraError, UsageError
from samedge.export.engines.family import engines_of
from samedge.storage.atomic import abandoned
from samedge.storage.files import cache_folder, storage_errors
from samedge.types import Precision

FP32_RUNG: Final = "fp32"
_AS_EXPORTED: Final = "as exported"
_PREFIX: Final = "rung-"


def precision_rungs(bundle: Bundle, precision: Precision | None) -> tuple[Precision, tuple[str, ...]]:
    """Return the precision that engines of a bundle are built in, and its rungs, the fastest first.

    Args:
        bundle: The bundle.
        precision: What was asked for. None for fp16, or for that of the encoder's graph where it is not fp32.

    Raises:
        UsageError: The bundle's graphs cannot be built in this precision.
        MissingExtraError: float16 has to be written into the graphs, and onnx is not installed.
    """
    family = bundle.manifest.model_family
    name = family.main if len(family.built_roles) > 1 else "graph"
    encoder = bundle.manifest.graph(family.main)
    wanted: Precision = precision or ("fp16" if encoder.precision == "fp32" else encoder.precision)
    if "int8 dynamic" in encoder.variant:
        raise UsageError(
            "the encoder's int8 measures its ranges as it runs, which TensorRT does not take",
            where=bundle.path,
            cure="Export again with --precision int8 --calib IMAGES, or without --precision int8",
        )
    if wanted == encoder.precision:
        return wanted, (FP32_RUNG if wanted == "fp32" else f"{wanted} {_AS_EXPORTED}",)
    if wanted == "fp16" and encoder.precision == "fp32":
        return wanted, engines_of(family).half_rungs(_half("HALF_RUNGS"))
    cures = {
        "int8": "Export again with --precision int8 --calib IMAGES",
        "fp8": "Leave --precision out",
        "fp32": "Export again without --precision",
        "fp16": "Leave --precision out",
    }
    raise UsageError(
        f"the bundle's {name} is {encoder.precision}, and {wanted} was asked for", where=bundle.path, cure=cures[wanted]
    )


def written_in(bundle: Bundle, role: GraphRole, rung: str) -> Precision:
    """Return the precision that a graph has on a rung: float16 is written into float32 only."""
    precision = bundle.manifest.graph(role).precision
    return "fp16" if precision == "fp32" and rung != FP32_RUNG and not rung.endswith(_AS_EXPORTED) else precision


@contextmanager
def rung_graph(bundle: Bundle, role: GraphRole, rung: str) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Give the ONNX file of a graph on a rung, and the files of weights beside it; what was written for it is removed.

    Args:
        bundle: The bundle.
        role: Which graph.
        rung: One that `precision_rungs` returned.

    Raises:
        MissingExtraError: onnx is not installed.
        StorageError: The file system said no.
    """
    record = bundle.manifest.graph(role)
    path = bundle.graph_path(role)
    if written_in(bundle, role, rung) == record.precision:
        yield path, tuple(bundle.folder / file.file for file in record.external_data)
        return
    folder = cache_folder() / "rungs"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in abandoned(folder, f"{_PREFIX}*"):  # of a build that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        place = TemporaryDirectory(prefix=_PREFIX, dir=folder)
    with place as name:
        import onnx

        from samedge.export.graphs.onnx_file import write_model

        model = onnx.load(str(path))
        _half("to_half")(model, rung)
        target = Path(name) / path.name
        weights = write_model(model, target)
        del model  # the builder's memory is counted with what is free now
        yield target, () if weights is None else (weights,)


def _half(name: str) -> Any:
    """Return something of the module that writes float16.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        module = import_module("samedge.export.precision.half")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"writing float16 into the graphs needs the package {error.name!r}, which is not installed",
            cure="Install it with: pip install onnx, which needs no torch; or build with --precision fp32",
        ) from error
    return cast("Callable[..., Any]", getattr(module, name))
