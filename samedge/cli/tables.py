"""Tables of the commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from samedge.bundle.engine_notes import engine_notes
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import Manifest, ParityRecord
from samedge.engines.registry import BackendReport
from samedge.engines.selection import Decision
from samedge.engines.trials import Trial
from samedge.runtime.results.results import Results
from samedge.tables import PlainTable, rich_table


def parity_table(parity: ParityRecord) -> Table:
    """Return the verdict, with one row per kind of prompt over all images."""
    if "box_error_max" in parity.thresholds or parity.objects is not None:
        return _boxes_parity_table(parity)
    rows = []
    for kind in dict.fromkeys(row.prompt for row in parity.rows):
        same = [row for row in parity.rows if row.prompt == kind]
        ious = [row.mask_iou for row in same]
        error = max(row.iou_error for row in same)
        rows.append((kind, f"{min(ious):.6f}", f"{sum(ious) / len(ious):.6f}", f"{error:.1e}"))
    table = rich_table(
        None, ("prompt", "mask IoU, worst", "mask IoU, mean", "predicted IoU error"), rows, right=(1, 2, 3)
    )
    table.title = _parity_title(parity)
    table.add_section()
    table.add_row("all", f"{parity.mask_iou_min:.6f}", f"{parity.mask_iou_mean:.6f}", f"{parity.iou_error_max:.1e}")
    table.caption = f"embedding error {parity.embedding_error_max:.1e} over {_images(parity)} images"
    table.caption_justify = "left"
    return table


def _boxes_parity_table(parity: ParityRecord) -> Table:
    """Return a verdict about boxes: one row for each probe image, or the agreement of objects."""
    title = _parity_title(parity)
    width = len(Text.from_markup(title))  # the columns are narrow: min_width keeps the title on one line
    if parity.objects is not None:
        rows = [(parity.objects.sentence,)]
        table = rich_table(None, ("float32 and int8 on your images",), rows, min_width=width)
    else:
        lines = [(row.image, f"{row.mask_iou:.6f}", f"{row.iou_error:.1e}") for row in parity.rows]
        table = rich_table(None, ("image", "mask IoU, worst", "score error"), lines, right=(1, 2), min_width=width)
        table.caption = f"box error {parity.box_error_max:.1e} px over {_images(parity)} images"
        table.caption_justify = "left"
    table.title = title
    return table


def _parity_title(parity: ParityRecord) -> str:
    colour = {"passed": "green", "failed": "red"}.get(parity.verdict, "yellow")
    return f"parity: [{colour}]{parity.verdict}[/] ({escape(parity.backend)})"


def _images(parity: ParityRecord) -> int:
    return len({row.image for row in parity.rows})


def graphs_table(manifest: Manifest) -> Table:
    """Return the graphs of a bundle."""
    rows = []
    for graph in manifest.graphs:
        size = sum(file.size for file in graph.files) / 1e6
        rows.append((graph.graph.file, f"{size:.1f}", graph.precision, str(graph.opset), str(graph.nodes)))
    return rich_table("graphs", ("file", "MB", "precision", "opset", "nodes"), rows, right=(1, 2, 3, 4))


def engines_table(pairs: Sequence[EngineSet]) -> Table:
    """Return the engines of a bundle; those beside it come first."""
    roles = list(pairs[0].engines)
    rows = []
    for pair in pairs:
        key, sidecars = pair.main.key, [engine.sidecar for engine in pair.engines.values()]
        rungs = [notes.rung if (notes := engine_notes(sidecar)) is not None else "" for sidecar in sidecars]
        size = sum(sidecar.size for sidecar in sidecars) / 1e6
        where = ", ".join(key.targets) or key.gpu or "any"
        version = f"{key.flavour} {key.version}"
        rows.append((version, where, *rungs, f"{size:.1f}", pair.verdict, str(pair.main.plan.parent)))
    return rich_table("engines", ("TensorRT", "GPU", *roles, "MB", "masks", "in"), rows, right=(2 + len(roles),))


def ports_table(manifest: Manifest) -> Table:
    """Return the inputs and outputs of a bundle's graphs."""
    table = rich_table("inputs and outputs", ("graph", "", "name", "dtype", "shape"))
    for graph in manifest.graphs:
        for side, ports in (("in", graph.inputs), ("out", graph.outputs)):
            for name, port in ports.items():
                table.add_row(graph.role, side, escape(name), port.dtype, escape(" × ".join(map(str, port.shape))))
        table.add_section()
    return table


def print_results(results: Results) -> None:
    """Print the image's name and size, on one unwrapped line, and a table of its masks."""
    rows = []
    if results.boxes is not None and results.masks is not None:
        for index, box, score, mask in zip(
            results.prompt_index, results.boxes.xyxy, results.boxes.conf, results.masks.iter_masks(), strict=True
        ):
            rows.append((str(index), f"{score:.3f}", *(f"{side:.0f}" for side in box), str(int(mask.sum()))))
    rows += [(str(index), "below --conf: dropped") for index in results.dropped]
    columns = ("prompt", "predicted IoU", "x1", "y1", "x2", "y2", "area, px")
    print_with_title(results, rich_table(None, columns, rows, right=range(7)))


def print_with_title(results: Results, table: Table) -> None:
    """Print the name and size of the image, on one unwrapped line, and then a table."""
    console = Console()
    frame = "" if results.frame is None else f" frame {results.frame}"
    title = f"{results.path or 'image'}{frame} {results.orig_shape[1]}×{results.orig_shape[0]}"
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def backends_table(backends: Sequence[BackendReport]) -> PlainTable:
    """Return one row per backend: its availability, and the reason and cure if it is unavailable."""
    return PlainTable(
        title="backends",
        columns=("backend", "works", "version", "devices", "opens", "why"),
        rows=[
            (
                backend.name,
                "yes" if backend.available else "no",
                backend.version or "",
                ", ".join(backend.devices),
                ", ".join(backend.suffixes),
                backend.reason if backend.cure is None else f"{backend.reason}. {backend.cure}",
            )
            for backend in backends
        ],
        records=[asdict(backend) for backend in backends],
    )


def decisions_table(decisions: Sequence[Decision]) -> PlainTable:
    """Return one row per decision: the graph, the chosen backend, the measured candidates and the date."""
    return PlainTable(
        title="decisions",
        columns=("graph", "asked for", "chosen", "why", "candidates", "measured"),
        rows=[
            (
                f"{decision.graph} ({decision.question.graph_sha256[:12]})",
                f"{decision.question.device or 'any device'}, {decision.question.threads} threads",
                f"{decision.backend} on {decision.device}",
                decision.reason,
                "; ".join(map(_trial, decision.trials)),
                decision.created,
            )
            for decision in decisions
        ],
        records=[msgspec.to_builtins(decision) for decision in decisions],
    )


def _trial(trial: Trial) -> str:
    if trial.milliseconds is not None:
        return f"{trial.label} {trial.milliseconds:.4g} ms"
    if trial.first_milliseconds is not None:
        return f"{trial.label} {trial.first_milliseconds:.4g} ms ({trial.note or 'first run'})"
    return f"{trial.label}: {trial.note}"
