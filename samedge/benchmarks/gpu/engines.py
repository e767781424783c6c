"""Measured engines: those of ``samedge build``, and one of the encoder for several images.

They are the engines a user gets: the ladder chose their precision on this GPU, by the checkpoint's masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from samedge.benchmarks.measure.child import foreign_failures
from samedge.bundle.archive import open_bundle
from samedge.engines.registry import require_backend
from samedge.engines.tensorrt.api import FlavourName
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.store.builds import stored_engine
from samedge.errors import SamedgeError
from samedge.export.engines.build import BuiltEngines, build_engines
from samedge.export.engines.rungs import rung_graph, written_in
from samedge.options import AxisRange


@dataclass(frozen=True, slots=True)
class MeasuredEngines:
    """Engines of a bundle.

    Attributes:
        many: The plan of the encoder for several images; None if there is none.
        details: Rungs, verdict, and the attempts of the ladder.
        notes: Sentences, such as the reason for a missing encoder for several images.
        problem: Description of a failure; empty if there is none.
    """

    many: Path | None
    details: dict[str, str]
    notes: tuple[str, ...]
    problem: str


def make_engines(
    backend: str, bundle: Path, device: str, batches: Sequence[int], say: Callable[[str], None]
) -> MeasuredEngines:
    """Build the engines of a bundle, or find them in the store, and verify them.

    Args:
        backend: "tensorrt" or "tensorrt-rtx".
        bundle: A bundle with the checkpoint's outputs.
        device: The GPU.
        batches: Batch sizes of the encoder.
        say: Called with progress.

    Raises:
        SamedgeError: The engines are unavailable here.
    """
    require_backend(backend)
    last = ""

    def progress(step: str, _share: float) -> None:
        nonlocal last
        if step != last:
            last = step
            say(f"{backend}: {step}")

    built = build_engines(bundle, flavour=backend, device=device, progress=progress)
    details = {
        "rungs": ", ".join(f"{role} {rung}" for role, rung in zip(built.plans, built.rungs, strict=True)),
        "masks": f"{built.verdict}, mean IoU {built.parity.mask_iou_mean:.4f} on the probe set",
    }
    tried = [str(attempt) for attempt in built.attempts if not attempt.passed]
    if tried:
        details["tried"] = " / ".join(tried)
    outcome = {"passed": "", "failed": "its engines failed the bundle's probes"}
    problem = outcome.get(built.verdict, "its engines were not checked on the bundle's probes")
    many: Path | None = None
    notes = built.notes
    if max(batches, default=1) > 1:
        try:
            with foreign_failures(backend):
                many = _encoder_of_many(backend, bundle, device, max(batches), built, say)
        except SamedgeError as error:
            notes += (f"no encoder for batches of {max(batches)}: {error}",)
    return MeasuredEngines(many, details, notes, problem)


def _encoder_of_many(
    backend: str, bundle: Path, device: str, most: int, built: BuiltEngines, say: Callable[[str], None]
) -> Path:
    """Build the encoder for several images, on the rung chosen for one."""
    opened = open_bundle(bundle)
    rung, ports = built.rungs[0], opened.manifest.graph("encoder")
    say(f"{backend}: Building the encoder ({rung}) for up to {most} images")
    options = BuildOptions(precision=written_in(opened, "encoder", rung), profiles={"batch": AxisRange(1, most, most)})
    with rung_graph(opened, "encoder", rung) as (graph, weights):
        entry = stored_engine(
            graph,
            options,
            flavour=cast("FlavourName", backend),
            device=device,
            weights=weights,
            axes={name: port.shape for name, port in {**ports.inputs, **ports.outputs}.items()},
        )
    return entry.plan
