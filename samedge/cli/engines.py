"""``samedge engines``: list the engine store, explain an engine's fit, and clean the store up."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from samedge.errors import EngineError, UsageError

if TYPE_CHECKING:
    from samedge.engines.tensorrt.store.explain import Explanation
    from samedge.engines.tensorrt.store.store import StoredEngine
    from samedge.tables import PlainTable

engines = typer.Typer(help="List the engine store, explain an engine, free space.")

_FORM: Final = "table, markdown, csv or json."
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@engines.callback(invoke_without_command=True)
def options(context: typer.Context) -> None:
    """List the engine store, explain an engine, free space."""
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit(2)


@engines.command("ls")
def list_engines(format_: Annotated[str, typer.Option("--format", help=_FORM)] = "table") -> None:
    """List the engines of the store, the most recently used first."""
    from samedge.engines.tensorrt.store.store import EngineStore
    from samedge.tables import print_tables

    store = EngineStore()
    print_tables([engines_table(store.entries(), store.folder)], format_)


@engines.command("why")
def why(
    engine: Annotated[str, typer.Argument(help="Path of an engine, or a prefix of its name in the store.")],
    format_: Annotated[str, typer.Option("--format", help=_FORM)] = "table",
) -> None:
    """Compare an engine with this machine, field by field; the status is 1 if the engine must not be opened here."""
    from samedge.engines.tensorrt.store.explain import explain_plan, find_plan
    from samedge.tables import print_tables

    path = find_plan(engine)
    explanation = explain_plan(path)
    print_tables([findings_table(explanation, path.name)], format_)
    sys.stdout.flush()
    if explanation.obstacles:
        raise EngineError(
            f"this engine cannot be opened safely here: {'; '.join(explanation.obstacles)}",
            where=path.name,
            cure=explanation.cure,
        )


@engines.command("gc")
def collect(
    max_size: Annotated[str | None, typer.Option(help="Maximum total size of the store, such as 4GB or 500MB.")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Remove engines unused for this long, such as 30d or 12h.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help=_FORM)] = "table",
) -> None:
    """Remove the least recently used engines, and the remains of killed builds.

    Copies beside bundles stay.
    """
    from samedge.engines.tensorrt.store.store import EngineStore
    from samedge.tables import PlainTable, print_tables

    limit = None if max_size is None else parse_size(max_size)
    unused = None if older_than is None else parse_age(older_than)
    store = EngineStore()
    removed = store.collect(limit, unused_seconds=unused)
    left = sum(entry.sidecar.size for entry in store.entries())
    title = f"removed {len(removed)}, {left / 1e6:.1f} MB left"
    rows = [(path.name,) for path in removed]
    print_tables([PlainTable(title, ("engine",), rows, [{"engine": path.name} for path in removed])], format_)


def engines_table(entries: list[StoredEngine], folder: Path) -> PlainTable:
    """Return one row per engine."""
    from samedge.bundle.engine_notes import engine_notes
    from samedge.tables import PlainTable

    columns = ("engine", "MB", "graph", "precision", "rung", "verdict", "TensorRT", "GPU", "last used")
    records: list[dict[str, Any]] = []
    rows = []
    for entry in entries:
        key, notes = entry.key, engine_notes(entry.sidecar)
        where = ", ".join(key.targets) or (f"{key.gpu} ({key.compute_capability})" if key.gpu else "any")
        used = datetime.fromtimestamp(entry.used, timezone.utc)
        graph = f"{notes.model} {notes.role}" if notes is not None else key.graph_sha256[:12]
        rung, verdict = ("", "") if notes is None else (notes.rung, notes.verdict)
        name, size = entry.plan.name.split(".")[0][:12], f"{entry.sidecar.size / 1e6:.1f}"
        version, day = f"{key.flavour} {key.version}", used.strftime("%Y-%m-%d %H:%M")
        rows.append((name, size, graph, key.precision, rung, verdict, version, where, day))
        records.append({
            "engine": entry.plan.name, "bytes": entry.sidecar.size, "graph": graph, "graph_sha256": key.graph_sha256,
            "precision": key.precision, "rung": rung, "verdict": verdict, "flavour": key.flavour,
            "version": key.version, "gpu": where, "profiles": dict(key.profiles),
            "last_used": used.isoformat(timespec="seconds"),
        })  # fmt: skip
    total = sum(entry.sidecar.size for entry in entries) / 1e6
    return PlainTable(f"{len(entries)} engines, {total:.1f} MB, in {folder}", columns, rows, records)


def findings_table(explanation: Explanation, name: str) -> PlainTable:
    """Return one row per part of an engine's key."""
    from samedge.tables import PlainTable

    words = {True: "yes", False: "NO", None: ""}
    rows = [(item.part, item.engine, item.here, words[item.fits], item.why) for item in explanation.findings]
    columns = ("part", "engine", "here", "fits", "why")
    records = [{column: getattr(item, column) for column in columns} for item in explanation.findings]
    return PlainTable(name, columns, rows, records)


def parse_size(text: str) -> int:
    """Return a size such as "4GB" in bytes; UsageError for other texts."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text.lower())
    if match is None:
        raise UsageError(f"invalid size {text!r}", where="--max-size", cure="Give one such as 500MB or 4GB")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_age(text: str) -> float:
    """Return a time such as "30d" in seconds; UsageError for other texts."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text.lower())
    if match is None:
        raise UsageError(f"invalid time {text!r}", where="--older-than", cure="Give one such as 12h, 30d or 4w")
    return float(match[1]) * _SECONDS[match[2]]
