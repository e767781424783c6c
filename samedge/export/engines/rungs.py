"""The rungs of the precision ladder for engines: the graph of each, and the memory of those that passed.

float16 is written into the float32 graph on the device that builds, which takes onnx and numpy but no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import GraphRole
from samedge.errors import MissingExtraError, UsageError
from samedge.export.engines.family import engines_of
from samedge.storage.atomic import abandoned, write_whole
from samedge.storage.files import cache_folder, storage_errors
from samedge.types import Precision

FP32_RUNG: Final = "fp32"
_AS_EXPORTED: Final = "as exported"
_PREFIX: Final = "rung-"
_FOLDER: Final = "rungs"


def precision_rungs(bundle: Bundle, precision: Precision | None) -> tuple[Precision, tuple[str, ...]]:
    """Return the precision of a bundle's engines, and its rungs, fastest first.

    Args:
        bundle: The bundle.
        precision: The requested precision; None for fp16, or that of the encoder's graph if it is not fp32.

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
            "the encoder's int8 measures ranges at run time, which TensorRT does not support",
            where=bundle.path,
            cure="Export again with --precision int8 --calib IMAGES, or without --precision int8",
        )
    if wanted == encoder.precision:
        return wanted, (FP32_RUNG if wanted == "fp32" else f"{wanted} {_AS_EXPORTED}",)
    if wanted == "fp16" and encoder.precision == "fp32":
        return wanted, engines_of(family).half_rungs(_half("HALF_RUNGS"))
    cures = {
        "int8": "Export again with --precision int8 --calib IMAGES",
        "fp8": "Omit --precision",
        "fp32": "Export again without --precision",
        "fp16": "Omit --precision",
    }
    raise UsageError(f"the bundle's {name} is {encoder.precision}, not {wanted}", where=bundle.path, cure=cures[wanted])


def written_in(bundle: Bundle, role: GraphRole, rung: str) -> Precision:
    """Return the precision of a graph on a rung: float16 is written only into float32."""
    precision = bundle.manifest.graph(role).precision
    return "fp16" if precision == "fp32" and rung != FP32_RUNG and not rung.endswith(_AS_EXPORTED) else precision


@contextmanager
def rung_graph(bundle: Bundle, role: GraphRole, rung: str) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Yield the ONNX file of a graph on a rung, and its weight files; temporary files are removed.

    Args:
        bundle: The bundle.
        role: The graph.
        rung: One of `precision_rungs`.

    Raises:
        MissingExtraError: onnx is not installed.
        StorageError: A file cannot be written.
    """
    record = bundle.manifest.graph(role)
    path = bundle.graph_path(role)
    if written_in(bundle, role, rung) == record.precision:
        yield path, tuple(bundle.folder / file.file for file in record.external_data)
        return
    folder = cache_folder() / _FOLDER
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
        del model  # free its memory for the builder
        yield target, () if weights is None else (weights,)


def _half(name: str) -> Any:
    """Return a name of the module that writes float16.

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


@dataclass(frozen=True, slots=True)
class RungKey:
    """Key of remembered rungs.

    Attributes:
        checkpoint_sha256: SHA-256 of the model's checkpoint.
        variant: Variant of the encoder's graph.
        precision: The requested precision.
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Version of TensorRT.
        gpu: Name of the GPU.
        compute_capability: Of the GPU.
    """

    checkpoint_sha256: str
    variant: str
    precision: str
    flavour: str
    version: str
    gpu: str
    compute_capability: str

    @property
    def path(self) -> Path:
        """The file."""
        text = json.dumps(asdict(self), sort_keys=True)
        return cache_folder() / _FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def remembered_rungs(key: RungKey) -> tuple[str, ...] | None:
    """Return the rungs that passed, of encoder and decoder or of the only engine; None if unknown."""
    try:
        values = json.loads(key.path.read_bytes())
        if values["key"] != asdict(key):
            return None
        return tuple(str(rung) for rung in values["rungs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing or damaged: descend again


def remember_rungs(key: RungKey, rungs: Sequence[str], attempts: Sequence[str]) -> None:
    """Store the rungs that passed, and the attempts before.

    Raises:
        StorageError: The file cannot be written.
    """
    values = {"key": asdict(key), "rungs": list(rungs), "attempts": list(attempts)}
    write_whole(key.path, json.dumps(values, indent=1).encode())
