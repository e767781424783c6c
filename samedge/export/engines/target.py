"""The target of engine builds: the installed TensorRT and the local GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from samedge.engines.cuda.memory import Gpu
from samedge.engines.tensorrt.api import Flavour, FlavourName, find_flavour, install_cure
from samedge.engines.tensorrt.build.failures import refuse_unsupported
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.store.builds import find_gpu
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError, MissingExtraError, UsageError
from samedge.options import EngineBuildOptions

FLAVOURS: Final[dict[str, FlavourName | None]] = {
    "auto": None,
    "engine": None,
    "trt": "tensorrt",
    "tensorrt": "tensorrt",
    "rtx": "tensorrt-rtx",
    "tensorrt-rtx": "tensorrt-rtx",
    "tensorrt_rtx": "tensorrt-rtx",
}
"""Flavours by the names that users give."""


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """Target of engine builds.

    Attributes:
        flavour: The installed TensorRT.
        gpu: The local GPU; None without one.
        targets: Requested compute capabilities; empty for the local GPU.
    """

    flavour: Flavour
    gpu: Gpu | None
    targets: tuple[str, ...]

    @property
    def runs_here(self) -> bool:
        """True if the engines can be opened on this machine."""
        if self.gpu is None:
            return False
        known = self.targets or self.flavour.features.compute_capabilities
        return not known or self.gpu.target in known

    def __str__(self) -> str:
        if self.targets:
            return f"{self.flavour} for {', '.join(self.targets)}"
        return f"{self.flavour} on {self.gpu}" if self.gpu is not None else f"{self.flavour} without a GPU"

    @property
    def name(self) -> str:
        """Part of the engines' file names."""
        if self.targets:
            return " ".join(self.targets)
        return "any gpu" if self.gpu is None else f"{self.gpu.name} {self.gpu.target}"


def build_options(options: EngineBuildOptions) -> BuildOptions:
    """Return the options of a SAM's engines; other families replace the profiles.

    Raises:
        UsageError: A value is out of range.
    """
    return BuildOptions(
        profiles={"prompts": options.prompts, "points": options.points},
        targets=options.targets,
        workspace_share=options.workspace,
        optimisation_level=options.optimisation_level,
        version_compatible=options.version_compatible,
        hardware_compatibility=options.hardware_compatibility,
    )


def find_target(flavour: str, options: BuildOptions, device: str | None = None) -> EngineTarget:
    """Return the target of engine builds.

    Args:
        flavour: One of `FLAVOURS`. "auto" is TensorRT if it is installed with a GPU, otherwise TensorRT for RTX.
        options: Options, checked against what this TensorRT supports.
        device: The GPU, such as "cuda:0"; None for the first.

    Raises:
        UsageError: The flavour is unknown or does not support the options.
        BackendUnavailableError: TensorRT is not installed; the cure says what to install on this machine.
        DeviceUnavailableError: TensorRT needs a GPU, and there is none.
    """
    name = flavour.lower()
    if name not in FLAVOURS:
        raise UsageError(f"unknown flavour {flavour!r}", where="--flavour", cure="Choose one of: auto, trt, rtx")
    wanted = FLAVOURS[name] or _installed(named=bool(options.targets), device=device)
    found = find_flavour(wanted)
    refuse_unsupported(found, options)
    gpu, why = _gpu(device)
    if gpu is None and (device is not None or not found.is_rtx):
        what = why.what if why is not None else "there is no GPU"
        raise DeviceUnavailableError(
            f"{found} builds on the GPU that will run the engine: {what}",
            cure=f"{(why.cure or '').rstrip('.') if why is not None else ''}; without a GPU, build with format 'rtx'",
        ) from why
    target = EngineTarget(found, gpu, options.targets)
    if gpu is not None and not options.targets and not target.runs_here:
        raise UsageError(
            f"{found} does not run on {gpu}, only on {', '.join(found.features.compute_capabilities)}",
            cure="Build with format 'trt' for this GPU, or name the GPUs that will run the engine with --targets",
        )
    return target


def _installed(*, named: bool, device: str | None) -> FlavourName:
    """Return the flavour that "auto" selects."""
    missing: list[str] = []
    installed: list[FlavourName] = []
    for name in ("tensorrt", "tensorrt-rtx"):
        try:
            find_flavour(name)
        except BackendUnavailableError as error:
            missing.append(error.what)
        else:
            installed.append(name)
    if not installed:
        raise BackendUnavailableError(
            f"TensorRT is not installed: {'; '.join(missing)}",
            cure=f"{install_cure('tensorrt')}. For GeForce and RTX cards: {install_cure('tensorrt-rtx')}",
        )
    if installed == ["tensorrt", "tensorrt-rtx"] and not named and _gpu(device)[0] is not None:
        return "tensorrt"
    return installed[-1]


def _gpu(device: str | None) -> tuple[Gpu | None, EngineError | MissingExtraError | None]:
    try:
        return find_gpu(device), None
    except (DeviceUnavailableError, MissingExtraError) as error:
        return None, error
