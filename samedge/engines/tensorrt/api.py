"""Installed copies of TensorRT, and their capabilities.

Two flavours share nearly one API: ``tensorrt`` (Jetson and servers; 8.6, 10, 11) and ``tensorrt_rtx`` (GeForce and RTX
cards, whose builder needs no GPU). Capabilities are probed on the package itself, never inferred from its version,
which is only compared and reported. The only module that imports either package.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np

from samedge.engines.tensorrt.protocols import TensorRtModule
from samedge.errors import BackendUnavailableError, EngineError

FlavourName: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]

MODULES: Final[dict[FlavourName, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

_NEEDED: Final = (
    ("Builder", "build_serialized_network"),
    ("OnnxParser", "parse_from_file"),
    ("IExecutionContext", "execute_async_v3"),
    ("IExecutionContext", "set_tensor_address"),
)
"""Members of the oldest supported TensorRT. 8.4 and older lack the last two."""

_DTYPES: Final = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, slots=True)
class Features:
    """Capabilities of one copy of TensorRT.

    Attributes:
        explicit_batch: Networks must be created with EXPLICIT_BATCH; later generations ignore the flag or lack it.
        strong_typing: Networks can keep the dtypes of the graph.
        always_strong: Networks always keep the dtypes of the graph.
        fp16_flag: Precision can be a builder flag; needed without strong typing.
        int64: Tensors can be INT64.
        progress_monitor: The builder reports progress.
        optimisation_level: The builder accepts an optimisation level.
        timing_cache: The builder accepts a timing cache.
        version_compatible: Plans can be built for later versions.
        hardware_compatibility: Levels of hardware compatibility by name, in lower case.
        compute_capabilities: Names of the targets that can be built for, such as "sm86"; empty if plans are always for
            the local GPU.
        axis_names: The parser keeps axis names.
        runtime_config: Contexts accept a configuration.
        own_cuda_graphs: The runtime captures CUDA graphs itself, and caches compiled kernels.
        host_code_switch: Version-compatible plans must be allowed explicitly when they are loaded.
        managed_contexts: Contexts can share memory supplied by the caller.
    """

    explicit_batch: bool
    strong_typing: bool
    always_strong: bool
    fp16_flag: bool
    int64: bool
    progress_monitor: bool
    optimisation_level: bool
    timing_cache: bool
    version_compatible: bool
    hardware_compatibility: tuple[str, ...]
    compute_capabilities: tuple[str, ...]
    axis_names: bool
    runtime_config: bool
    own_cuda_graphs: bool
    host_code_switch: bool
    managed_contexts: bool


@dataclass(frozen=True, slots=True)
class Flavour:
    """One installed copy of TensorRT.

    Attributes:
        name: "tensorrt" or "tensorrt-rtx".
        version: Reported version, such as "10.3.0.26".
        module: The imported package.
        features: Its capabilities.
    """

    name: FlavourName
    version: str
    module: TensorRtModule
    features: Features

    @property
    def is_rtx(self) -> bool:
        """True for TensorRT for RTX."""
        return self.name == "tensorrt-rtx"

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"


def find_flavour(name: FlavourName) -> Flavour:
    """Import one flavour of TensorRT and describe it."""
    module_name = MODULES[name]
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name:
            raise BackendUnavailableError(f"{module_name} is not installed", cure=install_cure(name)) from error
        raise _broken(name, f"it needs the package {error.name!r}", error) from error
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # Its loader raises any kind of error, such as for a missing library or one of another version.
        raise _broken(name, str(error) or type(error).__name__, error) from error
    return describe(name, module)


def describe(name: FlavourName, module: ModuleType | TensorRtModule) -> Flavour:
    """Describe an imported package."""
    if not hasattr(module, "Builder"):
        # A folder without code imports as a namespace package.
        raise BackendUnavailableError(f"the installed package {MODULES[name]!r} is empty", cure=install_cure(name))
    version = str(getattr(module, "__version__", "unknown"))
    for owner, member in _NEEDED:
        if not hasattr(getattr(module, owner, None), member):
            raise BackendUnavailableError(
                f"TensorRT {version} is too old: it lacks {owner}.{member}",
                cure="Update it to 8.6 or newer; on a Jetson that is JetPack 6.0 or newer",
                version=version,
            )
    return Flavour(name, version, cast("TensorRtModule", module), _features(module))


def _features(module: Any) -> Features:
    config = getattr(module, "IBuilderConfig", object)
    flags = getattr(module, "BuilderFlag", object)
    creation = getattr(module, "NetworkDefinitionCreationFlag", object)
    capabilities = _members(getattr(module, "ComputeCapability", None))
    strong = hasattr(creation, "STRONGLY_TYPED")
    return Features(
        explicit_batch=hasattr(creation, "EXPLICIT_BATCH"),
        strong_typing=strong,
        always_strong=strong and not hasattr(flags, "FP16"),
        fp16_flag=hasattr(flags, "FP16"),
        int64=hasattr(getattr(module, "DataType", object), "INT64"),
        progress_monitor=hasattr(module, "IProgressMonitor"),
        optimisation_level=hasattr(config, "builder_optimization_level"),
        timing_cache=hasattr(config, "create_timing_cache"),
        version_compatible=hasattr(flags, "VERSION_COMPATIBLE"),
        hardware_compatibility=tuple(
            name.lower() for name in _members(getattr(module, "HardwareCompatibilityLevel", None)) if name != "NONE"
        ),
        compute_capabilities=tuple(name.lower() for name in capabilities if name.startswith("SM"))
        if hasattr(config, "set_compute_capability")
        else (),
        axis_names=hasattr(getattr(module, "ITensor", object), "get_dimension_name"),
        runtime_config=hasattr(getattr(module, "ICudaEngine", object), "create_runtime_config"),
        own_cuda_graphs=hasattr(getattr(module, "IRuntimeConfig", object), "cuda_graph_strategy"),
        host_code_switch=hasattr(getattr(module, "Runtime", object), "engine_host_code_allowed"),
        # 8.6 has an older equivalent, but its contexts cannot share a profile unless the plan allows it.
        managed_contexts="USER_MANAGED" in _members(getattr(module, "ExecutionContextAllocationStrategy", None)),
    )


def _members(enumeration: Any) -> tuple[str, ...]:
    members = getattr(enumeration, "__members__", {})
    return tuple(members)


def numpy_dtype(dtype: Any, where: str) -> np.dtype[Any]:
    """Return the numpy dtype of a TensorRT dtype.

    TensorRT's own ``nptype`` is unusable: that of 8.6 refers to names removed from numpy.
    """
    name = str(getattr(dtype, "name", dtype))
    if name not in _DTYPES:
        raise EngineError(
            f"a tensor of this engine has dtype {name}, which numpy lacks",
            where=where,
            cure="Export the graph with float32 or float16 inputs and outputs",
        )
    return np.dtype(_DTYPES[name])


def install_cure(name: FlavourName) -> str:
    """Return the installation advice for this flavour on this kind of machine."""
    if name == "tensorrt-rtx":
        if platform.machine() == "aarch64" and Path("/etc/nv_tegra_release").exists():
            return "TensorRT for RTX does not run on a Jetson: use format 'trt' with the system's TensorRT"
        return "Install it with: pip install 'samedge[rtx]'"
    if Path("/etc/nv_tegra_release").exists():
        # pip's TensorRT packages do not run on a Jetson, whose own belongs to the system's Python.
        return (
            "Install JetPack's TensorRT with: sudo apt install python3-libnvinfer, and create the virtual environment "
            "with --system-site-packages so that it is visible"
        )
    return "Install it with: pip install 'samedge[trt]'; without an NVIDIA GPU here, build with format 'rtx' instead"


def _broken(name: FlavourName, cause: str, error: BaseException) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"{MODULES[name]} is installed but cannot be imported: {' '.join(cause.split())[:300]}",
        cure=f"Reinstall it. {install_cure(name)}",
        kind=type(error).__name__,
    )
