"""Verification of a bundle against its checkpoint, on any backend and without torch.

    record = verify_bundle("sam_b-samedge", backend="openvino")
    record.verdict, record.mask_iou_min

The family of the model knows what is compared with what. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Protocol, cast

from samedge.bundle.archive import Bundle, open_bundle
from samedge.bundle.engines import ENGINE_BACKENDS, EngineSet, require_engines
from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import AUTO, find_backend, open_engine
from samedge.families import Family


class FamilyParity(Protocol):
    """The comparisons that a family makes."""

    def why_not(self, bundle: Bundle, backend: str, found: EngineSet | None = None) -> str | None:
        """Return why nothing of a bundle can be judged here; None if it can.

        Args:
            bundle: The bundle.
            backend: Who is to be judged.
            found: The engines that are to be judged; None for graphs, or before there are any.
        """
        ...

    def verify_graphs(
        self, bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Callable[[str, float], None] | None = None
    ) -> ParityRecord:
        """Return the verdict of the graphs of a bundle, all of them opened by a backend.

        Raises:
            BundleError: The bundle keeps no answers to compare with.
            BackendUnavailableError: There is no backend to compare with.
            EngineError: A graph failed.
        """
        ...

    def verify_engines(
        self,
        bundle: Bundle,
        found: EngineSet,
        engines: Mapping[GraphRole, Engine],
        progress: Callable[[str, float], None] | None = None,
    ) -> ParityRecord:
        """Return the verdict of opened engines of a GPU.

        Those of float32 are judged like those of float16: a GPU may round the factors of a float32 product.

        Args:
            bundle: Whose answers count.
            found: What is known of the engines.
            engines: By role. They stay open.
            progress: Called with a sentence and the share that is done.

        Raises:
            BundleError: The bundle keeps no answers.
            BackendUnavailableError: There is no backend to compare with.
            EngineError: An engine failed.
        """
        ...


def parity_of(family: Family) -> FamilyParity:
    """Import what judges the models of a family."""
    return cast("FamilyParity", family.make(family.parity))


def verify_bundle(
    bundle: str | os.PathLike[str] | Bundle,
    *,
    backend: str = AUTO,
    device: str | None = None,
    threads: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> ParityRecord:
    """Run the graphs of a bundle on the probe set and compares them with what its checkpoint said.

    The bundle of a YOLO keeps no answers: there a backend or an engine is compared with the bundle's own graph on
    another backend, on a processor.

    Args:
        bundle: Its folder or file, or one that is open. A verdict of "failed" in it is no obstacle here.
        backend: As for `samedge.load`, but "auto" takes the first that works. "tensorrt" and "tensorrt-rtx" verify the
            bundle's engines on this machine, and write the verdict into their sidecars.
        device: As for `samedge.load`.
        threads: CPU threads; None for all physical cores.
        progress: Called with a sentence and the share that is done.

    Returns:
        The verdict, by the thresholds of the graphs' precision.

    Raises:
        BundleError: It is not a bundle, or keeps no answers to compare with.
        BackendUnavailableError: There is no backend to compare a YOLO with.
        SamedgeError: As `samedge.load`.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, force=True)
    flavour = None if backend == AUTO else ENGINE_BACKENDS.get(find_backend(backend).name)
    parity = parity_of(opened.manifest.model_family)
    engines: dict[GraphRole, Engine] = {}
    with ExitStack() as stack:
        if flavour is not None:
            found = require_engines(opened, flavour, device, force=True)
            for role, entry in found.engines.items():
                engines[role] = stack.enter_context(open_engine(entry.plan, backend=flavour, device=device))
            return found.judged(parity.verify_engines(opened, found, engines, progress)).parity
        for graph in opened.manifest.graphs:
            path = opened.graph_path(graph.role)
            engines[graph.role] = stack.enter_context(
                open_engine(path, backend=backend, device=device, threads=threads)
            )
            backend, device = engines[graph.role].backend, engines[graph.role].device
        return parity.verify_graphs(opened, engines, progress)
