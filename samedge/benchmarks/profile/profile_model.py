"""From the name of a model to the profile of one of its graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from samedge.api.sam import is_bundle
from samedge.api.yolo import GRAPH_SUFFIXES
from samedge.benchmarks.measure.facts import is_busy, measured_where
from samedge.benchmarks.profile.graph_work import GraphWork
from samedge.benchmarks.profile.onnx_work import read_graph_work
from samedge.benchmarks.profile.peaks import Peaks, measure_peaks
from samedge.benchmarks.profile.profile import SCHEMA, Profile, kind_rows, layer_rows
from samedge.bundle.archive import open_bundle
from samedge.bundle.manifest import GraphRole, Manifest
from samedge.engines.layer_times import LayerProfile, profile_layers
from samedge.engines.registry import AUTO, BACKENDS, find_backend
from samedge.errors import BackendUnavailableError, SamedgeError, UsageError
from samedge.types import Progress

_HOST_CLOCK: Final = (
    "onnxruntime times its nodes on the host: on an accelerator, that is what starting them takes, not what they take"
)
ROLES: Final[tuple[str, ...]] = get_args(GraphRole)


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How a graph is profiled.

    Attributes:
        graph: Role of the graph in its bundle.
        backend: What runs it; "auto" for the first that works here.
        device: Where.
        threads: CPU threads; None for all physical cores.
        runs: Runs that count.
        sizes: Sizes of free axes by name.
        source: The ONNX graph that a plan was built from.
        peaks: Measure the roof.
        force: Open a bundle that failed its parity check as well.
    """

    graph: str = "encoder"
    backend: str = AUTO
    device: str | None = None
    threads: int | None = None
    runs: int = 5
    sizes: Mapping[str, int] | None = None
    source: Path | None = None
    peaks: bool = True
    force: bool = False


def profile_model(
    model: str,
    options: ProfileOptions,
    *,
    command: str = "",
    progress: Progress = lambda _step, _share: None,
    resolve: Callable[[str], str] = str,
) -> Profile:
    """Profile a graph.

    Args:
        model: A bundle, a checkpoint or known name, or a graph file.
        options: How.
        command: How the program was called, for the record.
        progress: Told what is done, and the share 0..1.
        resolve: Makes a bundle of a checkpoint.

    Raises:
        UsageError: There is no such graph, or an option means nothing.
        SamedgeError: It cannot be opened or run.
    """
    path, manifest, sizes = _graph_of(model, options, resolve)
    backend = _backend_for(path) if options.backend == AUTO else _named_backend(options.backend, path)
    progress(f"Profiling {path.name} on {backend}", 0.1)
    measured = profile_layers(
        path, backend=backend, device=options.device, threads=options.threads, sizes=sizes, runs=options.runs
    )
    notes: list[str] = []
    if backend == "onnxruntime" and measured.device != "cpu":
        notes.append(_HOST_CLOCK)
    work = _work_of(path, options, measured, notes)
    if options.peaks:
        progress("Measuring what the machine can do", 0.7)
    peaks = _peaks(work, measured, options, notes) if options.peaks else None
    layers = layer_rows(measured, work, peaks)
    if is_busy():
        notes.append("this machine was busy: times say little, shares something, operations and bytes all they should")
    gflop = None if work is None else work.flops / 1e9
    found = sum(layer.gflop for layer in layers)
    return Profile(
        schema=SCHEMA,
        model=model,
        graph=path.name if manifest is None else options.graph,
        backend=measured.backend,
        device=measured.device,
        details=dict(measured.details),
        shapes=dict(measured.shapes),
        runs=measured.runs,
        run_ms=measured.run_ms,
        layers_ms=measured.layers_ms,
        gflop=gflop,
        expected_gflop=_expected(manifest, options.graph, sizes),
        attributed=found / gflop if gflop else None,
        peaks=peaks,
        layers=layers,
        kinds=kind_rows(layers),
        facts=measured_where(command),
        notes=tuple(notes),
    )


def _graph_of(
    model: str, options: ProfileOptions, resolve: Callable[[str], str]
) -> tuple[Path, Manifest | None, dict[str, int]]:
    sizes = dict(options.sizes or {})
    if Path(model).suffix.lower() in GRAPH_SUFFIXES:
        return Path(model), None, sizes
    if options.graph not in ROLES:
        raise UsageError(f"there is no graph {options.graph!r}", cure=f"Choose one of: {', '.join(ROLES)}")
    bundle = open_bundle(model if is_bundle(model) else resolve(model), force=options.force)
    side = bundle.manifest.input.image_size
    role: GraphRole = next(role for role in get_args(GraphRole) if role == options.graph)
    return bundle.graph_path(role), bundle.manifest, {"height": side, "width": side, **sizes}


def _backend_for(path: Path) -> str:
    """Return the first backend that works here and opens such files."""
    candidates = [backend for backend in BACKENDS if path.suffix in backend.suffixes]
    for backend in candidates:
        if backend.factory().probe().ok:
            return backend.name
    names = ", ".join(backend.name for backend in candidates) or "none"
    raise BackendUnavailableError(
        f"no backend here opens {path.suffix or 'such'} files (those that could: {names})",
        where=path,
        cure="See samedge info --backends",
    )


def _named_backend(name: str, path: Path) -> str:
    backend = find_backend(name)
    if path.suffix not in backend.suffixes:
        raise UsageError(
            f"{backend.name} opens {' and '.join(backend.suffixes)} files, and this is none",
            where=path,
            cure="Name such a file, with the graph that it was made from as --source",
        )
    return backend.name


def _work_of(path: Path, options: ProfileOptions, measured: LayerProfile, notes: list[str]) -> GraphWork | None:
    source = options.source or path
    if source.suffix != ".onnx":
        notes.append("operations are not counted: give the ONNX graph that this file was made from (--source)")
        return None
    return read_graph_work(source, measured.shapes)


def _peaks(work: GraphWork | None, measured: LayerProfile, options: ProfileOptions, notes: list[str]) -> Peaks | None:
    nodes = [] if work is None else [node for node in work.nodes.values() if node.flops]
    try:
        return measure_peaks(
            {node.precision for node in nodes},
            backend=measured.backend,
            device=measured.device,
            threads=options.threads,
            dynamic=any(node.operator == "DynamicQuantizeMatMul" for node in nodes),
        )
    except SamedgeError as error:
        notes.append(f"what the machine can do was not measured: {error.what}")
        return None


def _expected(manifest: Manifest | None, graph: str, sizes: Mapping[str, int]) -> float | None:
    """What the torch model needs for the same; the parts of a split decoder, and other prompts, are other work."""
    if manifest is None:
        return None
    if graph == "encoder":
        return manifest.model.encoder_gflops * sizes.get("batch", 1)
    if graph == "decoder" and (sizes.get("prompts", 1), sizes.get("points", 1)) == (1, 2):
        return manifest.model.decoder_gflops
    return None
