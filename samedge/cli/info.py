"""``samedge info``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samedge.cli.family import command_of
from samedge.errors import UsageError

if TYPE_CHECKING:
    from samedge.bundle.manifest import Manifest, ModelRecord


def info(
    model: Annotated[str | None, typer.Argument(help="Bundle, checkpoint, known name, or engine file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    backends: Annotated[
        bool, typer.Option("--backends", help="Show the backends, and the backend chosen for each graph and why.")
    ] = False,
    format_: Annotated[
        str | None, typer.Option("--format", help="With --backends: table, markdown, csv or json.")
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Open another tool's engine on the GPU to read its inputs and outputs.")
    ] = False,
) -> None:
    """Show the model, licence, layers, parameters, GFLOPs, sizes, I/O scheme and parity; or the backends."""
    if backends:
        _show_backends(model, "json" if json else "table", format_)
    elif model is None:
        raise UsageError("no model given", cure="Give a bundle or a checkpoint, or --backends")
    elif format_ is not None:
        raise UsageError("--format applies to --backends only", cure="Leave it out, or give --json for JSON")
    else:
        _show_model(model, json, open_)


def _show_backends(model: str | None, default: str, form: str | None) -> None:
    from samedge.cli.tables import backends_table, decisions_table
    from samedge.engines.registry import backends
    from samedge.engines.selection import kept_decisions
    from samedge.tables import print_tables

    if model is not None:
        raise UsageError("--backends takes no model", where=model, cure="Give one or the other")
    tables = [backends_table(backends())]
    decisions = kept_decisions()
    form = form or default
    if decisions or form == "json":
        tables.append(decisions_table(decisions))
    print_tables(tables, form)


def _show_model(model: str, json: bool, opened: bool) -> None:
    import msgspec

    from samedge.bundle.archive import ENGINE_SUFFIXES
    from samedge.tables import json_text

    if Path(model).suffix in ENGINE_SUFFIXES:
        from samedge.cli.engine_info import show_engine

        show_engine(Path(model), as_json=json, opened=opened)
        return

    from samedge.api.sam import SAM, is_bundle
    from samedge.bundle.archive import bundle_manifest

    manifest: Manifest | None = None
    size: int | None
    if is_bundle(model):
        manifest = bundle_manifest(model)
        record, size = manifest.model, sum(file.size for file in manifest.files)
    else:
        record, size = SAM(model).record(), _size_of(model)
    if json:
        document: dict[str, Any] = {"model": msgspec.to_builtins(record), "size_bytes": size}
        if manifest is not None:
            document |= msgspec.to_builtins(manifest)
        sys.stdout.write(json_text(document))
    else:
        _show(model, record, size, manifest)


def _size_of(model: str) -> int | None:
    from samedge.models.checkpoints.weights import SEEDED, checkpoint_files, find_checkpoint

    if model.startswith(SEEDED):
        return None
    return sum(file.stat().st_size for file in checkpoint_files(find_checkpoint(model)))


def _show(model: str, record: ModelRecord, size: int | None, manifest: Manifest | None) -> None:
    from rich.console import Console

    from samedge.bundle.archive import Bundle
    from samedge.bundle.engines import bundle_pairs
    from samedge.cli.tables import engines_table, graphs_table, parity_table, ports_table
    from samedge.tables import rich_table

    console = Console()
    rows = {
        "model": record.name + (" (seeded random weights: masks mean nothing)" if record.seeded else ""),
        "licence": record.licence,
        "checkpoint": f"{record.checkpoint}\nSHA-256 {record.checkpoint_sha256}",
        "layers": f"{record.layers:,}",
        "parameters": f"{record.parameters:,}",
        "GFLOPs": _gflops(record, manifest),
        "size": "" if size is None else f"{size / 1e6:.1f} MB",
    }
    if manifest is not None:
        rows |= command_of(manifest.model_family).rows(manifest)
        writers = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        rows |= {"created": f"{manifest.created} by {writers}", "parity": manifest.parity.verdict}
    notes = (*record.notes, *(manifest.notes if manifest is not None else ()))
    if notes:
        rows["notes"] = "\n".join(notes)
    console.print(rich_table(model, ("", ""), rows.items(), show_header=False))
    if manifest is not None:
        console.print(graphs_table(manifest))
        console.print(ports_table(manifest))
        pairs = bundle_pairs(Bundle(Path(model), Path(model), manifest))
        if pairs:
            console.print(engines_table(pairs))
        if manifest.parity.rows:
            console.print(parity_table(manifest.parity))


def _gflops(record: ModelRecord, manifest: Manifest | None) -> str:
    if record.decoder_gflops:
        return f"encoder {record.encoder_gflops:.1f}, decoder {record.decoder_gflops:.2f} per prompt"
    size = "" if manifest is None else command_of(manifest.model_family).measured_at(manifest)
    return f"{record.encoder_gflops:.1f} per image{size}"
