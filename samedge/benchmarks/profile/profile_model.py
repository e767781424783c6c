"""Profiling of a model's graph, given the name of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samedge.api.sam import is_bundle
from samedge.benchmarks.measure.facts import is_busy, measured_where
from samedge.benchmarks.profile.graph_work import GraphWork
from samedge.benchmarks.profile.onnx_work import read_graph_work
from samedge.benchmarks.profile.peaks import Peaks, measure_peaks
from samedge.benchmarks.profile.profile import SCHEMA, Profile, kind_rows, layer_rows
from samedge.bundle.archive import GRAPH_SUFFIXES, open_bundle
from samedge.bundle.manifest import Manifest
from samedge.engines.layer_times import LayerProfile, profile_layers
from samedge.engines.registry import AUTO, find_backend, known_backends
from samedge.errors import BackendUnavailableError, SamedgeError, UsageError
from samedge.families import families
from samedge.types import Progress

_HOST_CLOCK: Final = (
    "onnxruntime times its nodes on the host: on an accelerator, this is the time to launch them, not to run them"
)


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """Options of a profile.

    Attributes:
        graph: Role of the graph in its bundle; the one that takes most of the time if empty.
        backend: The backend; "auto" for the first available one.
        threads: CPU threads; None for all physical cores.
        runs: Measured runs.
        sizes: Sizes of free axes by name.
        source: The ONNX graph that a plan was built from.
        peaks: Measure the roof.
        force: Also open a bundle that failed its parity check.
    """

    graph: str = ""
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
        options: Options of the profile.
        command: The command line, for the record.
        progress: Called with a sentence and the completed fraction, 0..1.
        resolve: Returns the bundle of a checkpoint.

    Raises:
        UsageError: There is no such graph, or an option is invalid.
        SamedgeError: The model cannot be opened or run.
    """
    path, role, manifest, sizes = _graph_of(model, options, resolve)
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
        progress("Measuring the peak performance of the machine", 0.7)
    peaks = _peaks(work, measured, options, notes) if options.peaks else None
    layers = layer_rows(measured, work, peaks)
    if is_busy():
        notes.append("the machine was busy: times are unreliable, shares less so; operations and bytes are unaffected")
    gflop = None if work is None else work.flops / 1e9
    attributed = sum(layer.gflop for layer in layers)
    return Profile(
        schema=SCHEMA,
        model=model,
        graph=path.name if manifest is None else role,
        backend=measured.backend,
        device=measured.device,
        details=dict(measured.details),
        shapes=dict(measured.shapes),
        runs=measured.runs,
        run_ms=measured.run_ms,
        layers_ms=measured.layers_ms,
        gflop=gflop,
        expected_gflop=_expected(manifest, role, sizes),
        attributed=attributed / gflop if gflop else None,
        peaks=peaks,
        layers=layers,
        kinds=kind_rows(layers),
        facts=measured_where(command),
        notes=tuple(notes),
    )


def _graph_of(
    model: str, options: ProfileOptions, resolve: Callable[[str], str]
) -> tuple[Path, str, Manifest | None, dict[str, int]]:
    sizes = dict(options.sizes or {})
    if Path(model).suffix.lower() in GRAPH_SUFFIXES:
        return Path(model), "", None, sizes
    known = dict.fromkeys(role for family in families() for role in family.roles)
    if options.graph and options.graph not in known:
        raise UsageError(f"unknown graph {options.graph!r}", cure=f"Choose one of: {', '.join(known)}")
    bundle = open_bundle(model if is_bundle(model) else resolve(model), force=options.force)
    side = bundle.manifest.input.image_size
    role = options.graph or bundle.manifest.model_family.main
    return bundle.graph_path(role), role, bundle.manifest, {"height": side, "width": side, **sizes}


def _backend_for(path: Path) -> str:
    """Return the first available backend that opens such files."""
    candidates = [backend for backend in known_backends() if path.suffix in backend.suffixes]
    for backend in candidates:
        if backend.factory().probe().ok:
            return backend.name
    names = ", ".join(backend.name for backend in candidates) or "none"
    raise BackendUnavailableError(
        f"no available backend opens {path.suffix or 'such'} files (candidates: {names})",
        where=path,
        cure="See samedge info --backends",
    )


def _named_backend(name: str, path: Path) -> str:
    backend = find_backend(name)
    if path.suffix not in backend.suffixes:
        raise UsageError(
            f"{backend.name} opens only {' and '.join(backend.suffixes)} files",
            where=path,
            cure="Give such a file, with the graph that it was made from as --source",
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
        notes.append(f"the peak performance was not measured: {error.what}")
        return None


def _expected(manifest: Manifest | None, graph: str, sizes: Mapping[str, int]) -> float | None:
    """Return the torch model's operations for the same work; None for parts of a split decoder and other prompts."""
    if manifest is None:
        return None
    if graph == manifest.model_family.main:
        return manifest.model.encoder_gflops * sizes.get("batch", 1)
    if graph == "decoder" and (sizes.get("prompts", 1), sizes.get("points", 1)) == (1, 2):
        return manifest.model.decoder_gflops
    return None
