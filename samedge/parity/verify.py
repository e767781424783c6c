"""Verification of a bundle against its checkpoint, on any backend.

    record = verify_bundle("sam_b-samedge", backend="openvino")
    record.verdict, record.mask_iou_min

Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol, cast

from samedge.bundle.archive import Bundle, open_bundle
from samedge.bundle.engines import ENGINE_BACKENDS, EngineSet, require_engines
from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import AUTO, find_backend, open_engine
from samedge.families import Family
from samedge.parity.compare import no_progress
from samedge.types import Progress


class FamilyParity(Protocol):
    """The comparisons of a family."""

    def why_not(self, bundle: Bundle, backend: str, found: EngineSet | None = None) -> str | None:
        """Return why a bundle cannot be compared here; None if it can.

        Args:
            bundle: The bundle.
            backend: The backend under test.
            found: The engines under test; None for graphs, or before engines are built.
        """
        ...

    def verify_graphs(
        self, bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress
    ) -> ParityRecord:
        """Return the verdict of a bundle's graphs, opened by one backend.

        Raises:
            BundleError: The bundle has no stored output to compare with.
            BackendUnavailableError: There is no backend to compare with.
            EngineError: A graph failed.
        """
        ...

    def verify_engines(
        self, bundle: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress
    ) -> ParityRecord:
        """Return the verdict of opened engines of a GPU.

        float32 engines are judged like float16 ones, because a GPU may round the factors of a float32 product.

        Args:
            bundle: The bundle.
            found: The engines' records.
            engines: The engines by role. They stay open.
            progress: Called as the work proceeds.

        Raises:
            BundleError: The bundle has no stored output to compare with.
            BackendUnavailableError: There is no backend to compare with.
            EngineError: An engine failed.
        """
        ...


def parity_of(family: Family) -> FamilyParity:
    """Import and instantiate a family's `FamilyParity`."""
    return cast("FamilyParity", family.make(family.parity))


def verify_bundle(
    bundle: str | os.PathLike[str] | Bundle,
    *,
    backend: str = AUTO,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ParityRecord:
    """Run the graphs of a bundle on the probe set and compare them with the stored output of its checkpoint.

    A YOLO's bundle has no stored output: there a backend or an engine is compared with the bundle's own graph, run by
    another backend on the CPU.

    Args:
        bundle: The bundle, or its folder or file. It is verified even if its verdict is "failed".
        backend: As for `samedge.load`, but "auto" takes the first that works. "tensorrt" and "tensorrt-rtx" verify the
            bundle's engines on this machine, and write the verdict into their sidecars.
        device: As for `samedge.load`.
        threads: CPU threads; None for all physical cores.
        progress: Called as the work proceeds.

    Returns:
        The verdict, by the thresholds of the graphs' precision.

    Raises:
        BundleError: It is not a bundle, or has no stored output to compare with.
        BackendUnavailableError: There is no backend to compare a YOLO with.
        SamedgeError: As `samedge.load`.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, force=True)
    flavour = None if backend == AUTO else ENGINE_BACKENDS.get(find_backend(backend).name)
    parity, report = parity_of(opened.manifest.model_family), progress or no_progress
    engines: dict[GraphRole, Engine] = {}
    with ExitStack() as stack:
        if flavour is not None:
            found = require_engines(opened, flavour, device, force=True)
            for role, entry in found.engines.items():
                engines[role] = stack.enter_context(open_engine(entry.plan, backend=flavour, device=device))
            return found.judged(parity.verify_engines(opened, found, engines, report)).parity
        for graph in opened.manifest.graphs:
            path = opened.graph_path(graph.role)
            engines[graph.role] = stack.enter_context(
                open_engine(path, backend=backend, device=device, threads=threads)
            )
            backend, device = engines[graph.role].backend, engines[graph.role].device
        return parity.verify_graphs(opened, engines, report)
