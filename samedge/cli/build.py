"""``samedge build``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from samedge.export.engines.build import BuiltEngines

_YOLO: Final[Any] = {"rich_help_panel": "YOLO and FastSAM"}


def build(
    bundle: Annotated[str, typer.Argument(help="Bundle: the folder or .samedge file that samedge export wrote.")],
    flavour: Annotated[str, typer.Option(help="TensorRT: trt, rtx, or auto for the installed one.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp16 (as far as the masks allow), fp32, or int8 for an int8 bundle.")
    ] = None,
    prompts: Annotated[str, typer.Option(help="Prompts per call: min/opt/max.")] = "1/16/64",
    points: Annotated[str, typer.Option(help="Points per prompt: min/opt/max.")] = "2/3/16",
    batch: Annotated[str | None, typer.Option(help="Images per call: min/opt/max; 1/1/4 by default.", **_YOLO)] = None,
    height: Annotated[
        str | None, typer.Option(help="Input height in px: min/opt/max; 32/the model's/1280 by default.", **_YOLO)
    ] = None,
    width: Annotated[str | None, typer.Option(help="Input width, likewise.", **_YOLO)] = None,
    targets: Annotated[
        str | None, typer.Option(help="Compute capabilities such as 8.6,8.9, instead of the local GPU (rtx only).")
    ] = None,
    workspace: Annotated[float, typer.Option(help="Fraction of the free GPU memory for scratch space, 0 to 1.")] = 0.5,
    optimisation_level: Annotated[
        int | None, typer.Option("--optimisation-level", "--optimization-level", help="0 (fast build) to 5.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Build engines that later versions of TensorRT also load.")
    ] = False,
    hardware_compatibility: Annotated[
        str, typer.Option(help="GPUs that may load the engines: none, ampere_plus or same_compute_capability.")
    ] = "none",
    device: Annotated[str | None, typer.Option(help="GPU, such as cuda:1.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the engines; NAME-engines by default.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the engines' masks with the checkpoint's.")] = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start at the top of the precision ladder, whatever earlier builds chose.")
    ] = False,
) -> None:
    """Build a bundle's TensorRT engines on this device, and prove that they reproduce the checkpoint's masks.

    Needs no torch. Progress, verdict and attempts go to stderr, the paths of the engines to stdout.
    """
    from samedge.cli.progress import shown_progress
    from samedge.export.engines.build import build_engines

    with shown_progress() as progress:
        built = build_engines(
            bundle, flavour=flavour, precision=cast("Any", precision), prompts=prompts, points=points, batch=batch,
            height=height, width=width, targets=targets.split(",") if targets else (), workspace=workspace,
            optimisation_level=optimisation_level, version_compatible=version_compatible,
            hardware_compatibility=cast("Any", hardware_compatibility), device=device, output=output, check=check,
            restart=restart, progress=progress,
        )  # fmt: skip
    show_built(built)
    sys.stdout.write("".join(f"{plan}\n" for plan in built.plans.values()))
    sys.stdout.flush()
    refuse_failed(built, bundle)


def show_built(built: BuiltEngines) -> None:
    """Write the engines, their verdict and the attempts to stderr."""
    from rich.console import Console

    from samedge.cli.tables import parity_table

    console = Console(stderr=True)
    if built.verdict != "unchecked":
        console.print(parity_table(built.parity))
    rungs = ", ".join(f"{role} {rung}" for role, rung in zip(built.plans, built.rungs, strict=True))
    lines = [
        f"{built.target}: {rungs}; {built.answers} {built.verdict}",
        *(_size_of(role, plan) for role, plan in built.plans.items()),
        *(f"tried {attempt}" for attempt in built.attempts if not attempt.passed),
        *(f"{note[0].upper()}{note[1:]}." for note in built.notes),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _size_of(role: str, plan: Path) -> str:
    """Return the size of an engine, as its build reported it."""
    from samedge.engines.tensorrt.store.sidecar import read_sidecar

    sidecar = read_sidecar(plan)
    if sidecar is None:
        return f"{role}: {plan}"
    report = sidecar.report
    line = (
        f"{role}: {sidecar.size / 1e6:.1f} MB, {len(report.layers)} layers, {report.fused_attentions} fused attentions"
    )
    if report.activation_bytes is not None:
        line += f", {report.activation_bytes / 1e6:.0f} MB of activations at the largest shapes"
    return line


def refuse_failed(built: BuiltEngines, bundle: str | Path) -> None:
    """Raise ParityError if no rung reproduces the checkpoint's masks."""
    from samedge.errors import ParityError

    if built.verdict == "failed":
        raise ParityError(
            "the engines do not reproduce the checkpoint's masks in any precision",
            where=bundle,
            cure="Run the bundle with another backend, and report this with the table above; the engines load only "
            "with --force",
        )
