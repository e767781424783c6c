"""How an engine is to be built, and what a build tells of itself. Knows nothing of TensorRT's API."""

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
    """Everything that decides how a graph becomes an engine.

    Attributes:
        precision: The precision that the graph is written in. It changes the build on TensorRT 8 only, where there is
            no strong typing, and is checked where a precision is known to fail.
        profiles: Name of a free axis to its sizes; the defaults hold for the axes that are not named.
        targets: Compute capabilities to build for, such as "8.6" or "sm120": TensorRT for RTX only. Empty for the GPU
            at hand or, where there is none, for all that the builder knows.
        typing: "strong" keeps the dtypes of the graph; "weak" lets TensorRT 8 and 10 choose among those allowed.
            "auto" is strong where there is strong typing.
        workspace_share: Share of the GPU's free memory that kernels may use as scratch space, above 0 up to 1.
        workspace_bytes: The same as a number of bytes; wins over the share.
        optimisation_level: 0 (fast build) to 5 (fast engine); None for TensorRT's default, 3.
        version_compatible: The plan can be loaded by later versions of TensorRT. Slower, and larger.
        hardware_compatibility: Other GPUs on which the plan shall run.
        check_memory: Refuse a build for which the memory would not be enough, instead of being killed by the system.

    Raises:
        UsageError: A value is out of its range.
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
                raise UsageError(f"{name} is {value!r}", cure=f"Choose one of: {', '.join(known)}")
        if not 0 < self.workspace_share <= 1:
            raise UsageError(f"workspace_share is {self.workspace_share}", cure="Give a share above 0 up to 1")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise UsageError(f"workspace_bytes is {self.workspace_bytes}", cure="Give a number of bytes, or None")
        if self.optimisation_level is not None and not 0 <= self.optimisation_level <= 5:
            raise UsageError(f"optimisation_level is {self.optimisation_level}", cure="Give 0 to 5, or None")

    def settings(self) -> dict[str, Any]:
        """Return what changes the engine, as plain values: a part of its key in the store.

        The workspace and the check of the memory are not in it: they decide whether a build succeeds, and an engine
        that was built with less of it serves as well.
        """
        values = asdict(self)
        for name in ("workspace_share", "workspace_bytes", "check_memory", "profiles", "precision", "targets"):
            del values[name]
        return values

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` takes."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> BuildOptions:
        """Return the options that `to_json` wrote."""
        profiles = {name: AxisRange(**sizes) for name, sizes in values["profiles"].items()}
        return BuildOptions(**{**values, "profiles": profiles, "targets": tuple(values["targets"])})


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build told of itself. A plan cannot be asked without a GPU, so that it is written down when it is made.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Version of the TensorRT that built it.
        inputs: Input name to shape and dtype, free axes by name.
        outputs: Output name to shape and dtype.
        profiles: Input name to its smallest, best and largest shape; inputs without a free axis are not in it.
        layers: The layers of the finished engine in order.
        fused_attentions: How many of them are one fused attention each.
        activation_bytes: Device memory for activations at the largest shapes; None if TensorRT did not say.
        weight_bytes: Device memory for weights; None if TensorRT did not say.
        plan_bytes: Size of the plan.
        strongly_typed: The dtypes are those of the graph.
        targets: Compute capabilities that it was built for; empty for the GPU at hand.
        seconds: Time that the build took.
        warnings: What TensorRT warned of, each text once.
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
        """Return plain values that `from_json` takes."""
        values = asdict(self)
        for kind in ("inputs", "outputs"):
            ports: Mapping[str, TensorSpec] = getattr(self, kind)
            values[kind] = {name: [list(spec.shape), spec.dtype.name] for name, spec in ports.items()}
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> BuildReport:
        """Return the report that `to_json` wrote.

        Raises:
            EngineError: It is not such a report.
        """
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
                f"the report of an engine's build is damaged ({error})", cure="Build the engine again"
            ) from error


def _capability(name: str) -> str:
    """Return "sm86" for "86", "8.6", "sm86" and "sm_86"."""
    digits = name.lower().removeprefix("sm").removeprefix("_").replace(".", "")
    if not digits.isdecimal() or len(digits) < 2:
        raise UsageError(
            f"{name!r} is no compute capability",
            cure="Give numbers such as 8.6 or sm120 (RTX 30: 8.6, 40: 8.9, 50: 12.0)",
        )
    return f"sm{digits}"


def _order(capability: str) -> int:
    return int(capability.removeprefix("sm"))
