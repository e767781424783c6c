"""What ``samedge info --backends`` shows: the backends, and what was measured to choose among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from samedge.cli.table_formats import PlainTable
from samedge.engines.decisions import Decision, Trial
from samedge.engines.report import BackendReport


def backends_table(backends: Sequence[BackendReport]) -> PlainTable:
    """Returns one row a backend: whether it works here, and why not and the cure where it does not."""
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
    """Returns one row a decision: which graph, which backend won, by how much, and when."""
    return PlainTable(
        title="decisions",
        columns=("graph", "asked for", "chosen", "why", "candidates", "measured"),
        rows=[
            (
                f"{decision.graph} ({decision.question.graph_sha256[:12]})",
                f"{decision.question.device or 'any device'}, {decision.question.threads} threads",
                f"{decision.backend} on {decision.device}",
                decision.reason,
                "; ".join(_told(trial) for trial in decision.trials),
                decision.created,
            )
            for decision in decisions
        ],
        records=[msgspec.to_builtins(decision) for decision in decisions],
    )


def _told(trial: Trial) -> str:
    if trial.milliseconds is not None:
        return f"{trial.label} {trial.milliseconds:.4g} ms"
    if trial.first_milliseconds is not None:
        return f"{trial.label} {trial.first_milliseconds:.4g} ms ({trial.note or 'first run'})"
    return f"{trial.label}: {trial.note}"
