"""Build options of an engine, and the report of a build. Independent of TensorRT's API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from samedge.engines.tensorrt.log import LayerRecord
from samedge.errors import EngineError, UsageError
from samedge.options import DEFAULT_POINTS, DEFAULT_PROMPTS, DEFAULT_WORKSPACE, AxisRange, HardwareCompatibility
from samedge.types import Precision, TensorSpec

Typing: TypeAlias = Literal["auto", "strong", "weak"]


DEFAULT_PROFILES: Final[Mapping[str, AxisRange]] = {
    "batch": AxisRange(1, 1, 1),
    "prompts": DEFAULT_PROMPTS,
    "points": DEFAULT_POINTS,
}


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options for building an engine from a graph.

    Attributes:
        precision: Precision of the graph. It changes the build only on TensorRT 8, which lacks strong typing, and is
            checked against known failures.
        profiles: Name of a free axis to its range; axes not named use the defaults.
        targets: Compute capabilities to build for, such as "8.6" or "sm120": TensorRT for RTX only. Empty for the local
            GPU or, without one, for all that the builder supports.
        typing: "strong" keeps the dtypes of the graph; "weak" lets TensorRT 8 and 10 choose among those allowed.
            "auto" is strong if supported.
        workspace_share: Share of the GPU's free memory for scratch space, in (0, 1].
        workspace_bytes: Scratch space in bytes; overrides the share.
        optimisation_level: 0 (fast build) to 5 (fast engine); None for TensorRT's default, 3.
        version_compatible: Make the plan loadable by later versions of TensorRT, at a cost in speed and size.
        hardware_compatibility: Other GPUs that the plan must run on.
        check_memory: Reject a build that would run out of memory, instead of having the system kill it.

    Raises:
        UsageError: A value is out of range.
    """

    precision: Precision = "fp32"
    profiles: Mapping[str, AxisRange] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    typing: Typing = "auto"
    workspace_share: float = DEFAULT_WORKSPACE
    workspace_bytes: int | None = None
    optimisation_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    check_memory: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "profiles", {**DEFAULT_PROFILES, **self.profiles})
        object.__setattr__(self, "targets", tuple(sorted({_capability(name) for name in self.targets}, key=_order)))
        choices = (
            ("precision", self.precision, get_args(Precision)),
            ("typing", self.typing, get_args(Typing)),
            ("hardware_compatibility", self.hardware_compatibility, get_args(HardwareCompatibility)),
        )
        for name, value, known in choices:
            if value not in known:
                raise UsageError(f"invalid {name} {value!r}", cure=f"Choose one of: {', '.join(known)}")
        if not 0 < self.workspace_share <= 1:
            raise UsageError(f"invalid workspace_share {self.workspace_share}", cure="Give a share above 0, up to 1")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise UsageError(f"invalid workspace_bytes {self.workspace_bytes}", cure="Give a number of bytes, or None")
        if self.optimisation_level is not None and not 0 <= self.optimisation_level <= 5:
            raise UsageError(f"invalid optimisation_level {self.optimisation_level}", cure="Give 0 to 5, or None")

    def settings(self) -> dict[str, Any]:
        """Return the settings that change the engine, as plain values: part of its key in the store.

        The workspace and the memory check are left out: they decide whether a build succeeds, and an engine built with
        less workspace is equally valid.
        """
        values = asdict(self)
        for name in ("workspace_share", "workspace_bytes", "check_memory", "profiles", "precision", "targets"):
            del values[name]
        return values

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> BuildOptions:
        """Return the options written by `to_json`."""
        profiles = {name: AxisRange(**sizes) for name, sizes in values["profiles"].items()}
        return BuildOptions(**{**values, "profiles": profiles, "targets": tuple(values["targets"])})


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The report of a build, recorded because a plan cannot be inspected without a GPU.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Version of the TensorRT that built it.
        inputs: Input name to shape and dtype, free axes by name.
        outputs: Output name to shape and dtype.
        profiles: Input name to its smallest, best and largest shape, for inputs with a free axis.
        layers: The layers of the finished engine in order.
        fused_attentions: Number of layers that are a fused attention.
        activation_bytes: Device memory for activations at the largest shapes; None if unknown.
        weight_bytes: Device memory for weights; None if unknown.
        plan_bytes: Size of the plan.
        strongly_typed: True if the dtypes are those of the graph.
        targets: Compute capabilities that it was built for; empty for the local GPU.
        seconds: Duration of the build.
        warnings: TensorRT's warnings, without duplicates.
    """

    flavour: str
    version: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    profiles: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    layers: tuple[LayerRecord, ...]
    fused_attentions: int
    activation_bytes: int | None
    weight_bytes: int | None
    plan_bytes: int
    strongly_typed: bool
    targets: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `from_json`."""
        values = asdict(self)
        for kind in ("inputs", "outputs"):
            ports: Mapping[str, TensorSpec] = getattr(self, kind)
            values[kind] = {name: [list(spec.shape), spec.dtype.name] for name, spec in ports.items()}
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> BuildReport:
        """Return the report written by `to_json`."""
        try:
            ports = {
                kind: {name: TensorSpec(tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in values[kind].items()}
                for kind in ("inputs", "outputs")
            }
            profiles = {
                name: (tuple(low), tuple(best), tuple(high)) for name, (low, best, high) in values["profiles"].items()
            }
            layers = tuple(LayerRecord(**layer) for layer in values["layers"])
            return BuildReport(
                **{
                    **values,
                    **ports,
                    "profiles": profiles,
                    "layers": layers,
                    "targets": tuple(values["targets"]),
                    "warnings": tuple(values["warnings"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"the build report of an engine is damaged ({error})", cure="Build the engine again"
            ) from error


def _capability(name: str) -> str:
    """Return "sm86" for "86", "8.6", "sm86" and "sm_86"."""
    digits = name.lower().removeprefix("sm").removeprefix("_").replace(".", "")
    if not digits.isdecimal() or len(digits) < 2:
        raise UsageError(
            f"invalid compute capability {name!r}",
            cure="Give numbers such as 8.6 or sm120 (RTX 30: 8.6, 40: 8.9, 50: 12.0)",
        )
    return f"sm{digits}"


def _order(capability: str) -> int:
    return int(capability.removeprefix("sm"))
