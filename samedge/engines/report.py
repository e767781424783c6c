"""All backends at a glance: which work here, which do not, why, and what to do about it.

for backend in backends():
    print(backend.name, backend.available, backend.reason)
"""

from __future__ import annotations

from dataclasses import dataclass

from samedge.engines import registry


@dataclass(frozen=True, slots=True)
class BackendReport:
    """One backend, as it is here.

    Attributes:
        name: What `samedge.load` takes.
        aliases: Other names that it takes.
        suffixes: Suffixes of the graph files that it opens.
        available: It works here.
        version: Of its runtime; None where it is not installed or does not say.
        devices: The devices that can be asked for.
        reason: Version and devices if it works, otherwise the cause.
        cure: What to install or change; None if it works.
    """

    name: str
    aliases: tuple[str, ...]
    suffixes: tuple[str, ...]
    available: bool
    version: str | None
    devices: tuple[str, ...]
    reason: str
    cure: str | None


def backends() -> tuple[BackendReport, ...]:
    """Returns every backend in the order that "auto" prefers; opens no graph."""
    reports: list[BackendReport] = []
    for backend in registry.BACKENDS:
        found = backend.factory().probe()
        reports.append(
            BackendReport(
                name=backend.name,
                aliases=backend.aliases,
                suffixes=backend.suffixes,
                available=found.ok,
                version=found.version,
                devices=found.devices,
                reason=found.reason,
                cure=None if found.ok else backend.cure(found),
            )
        )
    return tuple(reports)
