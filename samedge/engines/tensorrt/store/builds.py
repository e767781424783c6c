"""A graph's engine from the store, built if missing: the entry point for commands and runtimes.

entry = stored_engine(Path("encoder.onnx"), BuildOptions(precision="fp16"), flavour="tensorrt")
open_engine(entry.plan, backend="tensorrt")
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samedge.engines.cuda.memory import Gpu
from samedge.engines.cuda.providers import open_cuda
from samedge.engines.tensorrt.api import Flavour, FlavourName, find_flavour
from samedge.engines.tensorrt.build.failures import known_zeros, refuse_unsupported
from samedge.engines.tensorrt.build.guarded import build_in_child
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.store.key import EngineKey, graph_digest, make_key
from samedge.engines.tensorrt.store.sidecar import write_sidecar
from samedge.engines.tensorrt.store.store import EngineStore, StoredEngine
from samedge.errors import DeviceUnavailableError, MissingExtraError
from samedge.storage.atomic import staged_file
from samedge.storage.files import storage_errors
from samedge.types import Progress


def stored_engine(
    graph: Path,
    options: BuildOptions,
    *,
    flavour: FlavourName,
    device: str | None = None,
    weights: Sequence[Path] = (),
    axes: Mapping[str, Sequence[int | str]] | None = None,
    store: EngineStore | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> StoredEngine:
    """Return the engine of a graph for a GPU; build it if the store lacks it.

    Args:
        graph: The ONNX file.
        options: Build options.
        flavour: The TensorRT to build with.
        device: The GPU, such as "cuda:0"; None for the first. Not needed by TensorRT for RTX.
        weights: External weight files of the graph, which are part of its identity.
        axes: Name of an input or output to its axes, sizes or names, as in the manifest.
        store: The engine store; None for the user's.
        notes: Notes to keep with a new engine.
        progress: Called during a build.
        cancelled: Polled during a build; True ends it.

    Raises:
        BackendUnavailableError: TensorRT is not installed.
        DeviceUnavailableError: TensorRT needs a GPU to build, and there is none.
        UsageError: The options are invalid for this TensorRT, or known to give wrong results on this GPU.
        EngineError: It cannot be built.
        StorageError: A file cannot be read or written.
    """
    tensorrt = find_flavour(flavour)
    refuse_unsupported(tensorrt, options)
    gpu = _gpu(tensorrt, options, device)
    key = engine_key(graph, options, tensorrt, gpu, weights=weights, axes=axes)
    if gpu is not None and key.computes_zeros(gpu):
        raise known_zeros(tensorrt, graph, named=False)
    shelf = store or EngineStore()
    found = shelf.find(key)
    if found is not None:
        return found
    where = None if gpu is None or options.targets else f"cuda:{gpu.index}"
    times = None
    if gpu is not None:
        named = f"timing {tensorrt.version} {gpu.name} {gpu.compute_capability} {gpu.multiprocessors}"
        times = shelf.folder / f"{slug(named)}.cache"

    def build(path: Path) -> Any:
        return build_in_child(
            flavour, graph, path, options, axes=axes, device=where, timing_cache=times, progress=progress,
            cancelled=cancelled,
        )  # fmt: skip

    return shelf.add(key, build, notes=notes)


def engine_key(
    graph: Path,
    options: BuildOptions,
    flavour: Flavour,
    gpu: Gpu | None,
    *,
    weights: Sequence[Path] = (),
    axes: Mapping[str, Sequence[int | str]] | None = None,
) -> EngineKey:
    """Return the key of a graph's engine; the arguments are those of `stored_engine`."""
    names = None if axes is None else {axis for shape in axes.values() for axis in shape if isinstance(axis, str)}
    return make_key(graph_digest(graph, *weights), options, flavour, gpu, axes=names)


def copy_engine(entry: StoredEngine, target: Path) -> Path:
    """Copy a stored engine and its sidecar to a path, and return the plan's path.

    On one file system both are hard links: plans are replaced and never changed, and boards have small disks.
    """
    with staged_file(target) as stage, storage_errors(target):
        try:
            stage.hardlink_to(entry.plan)
        except OSError:  # another file system, or one without links
            shutil.copyfile(entry.plan, stage)
    write_sidecar(target, entry.sidecar)
    return target


def _gpu(flavour: Flavour, options: BuildOptions, device: str | None) -> Gpu | None:
    """Return the GPU to build for. TensorRT for RTX needs none."""
    if options.targets:
        return None
    try:
        return find_gpu(device)
    except (DeviceUnavailableError, MissingExtraError) as error:
        if flavour.is_rtx and device is None:
            return None
        raise DeviceUnavailableError(
            f"{flavour} builds on the GPU that the engine is for: {error.what}",
            cure=f"{error.cure}; without a GPU, build with format 'rtx' and name the targets",
        ) from error


def find_gpu(device: str | None = None) -> Gpu:
    """Return the properties of a GPU.

    Args:
        device: Such as "cuda:0"; None for the first.

    Raises:
        DeviceUnavailableError: There is no driver, or no such GPU.
        MissingExtraError: The CUDA bindings are not installed.
    """
    memory = open_cuda(device)
    gpu = memory.gpu
    memory.close()
    return gpu


def slug(text: str) -> str:
    """Return a text as part of a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
