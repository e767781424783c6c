# ruff: noqa: D102 - these calls are documented by NVIDIA
"""The part of TensorRT's Python API in use, as types.

TensorRT ships no usable type stubs, and four generations of it are supported. These Protocols name the calls made by
the builder and the runner; a test compares them with the real ``tensorrt_rtx``. Members that only some generations have
are in a Protocol named accordingly, and used only if `samedge.engines.tensorrt.api.Features` confirms them.
Enumerations are opaque: their members are looked up by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

Severity: TypeAlias = Any
"""A member of ``ILogger.Severity``; only its ``name`` is read."""


class Dims(Protocol):
    """A shape; free axes are -1."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> int: ...


class HostMemory(Protocol):
    """Bytes that TensorRT owns; readable through the buffer protocol."""

    nbytes: int


class NetworkTensor(Protocol):
    """``ITensor``."""

    name: str
    shape: Dims
    dtype: Any
    is_shape_tensor: bool


class NamedAxes(Protocol):
    """``ITensor`` that keeps ONNX axis names."""

    def get_dimension_name(self, index: int) -> str | None: ...


class Network(Protocol):
    """``INetworkDefinition``."""

    num_inputs: int
    num_outputs: int
    num_layers: int

    def get_input(self, index: int) -> NetworkTensor: ...
    def get_output(self, index: int) -> NetworkTensor: ...


class ParserError(Protocol):
    """``ParserError``."""

    def desc(self) -> str: ...


class Parser(Protocol):
    """``OnnxParser``."""

    num_errors: int

    def parse_from_file(self, model: str) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class Profile(Protocol):
    """``IOptimizationProfile``."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...


class TimingCache(Protocol):
    """``ITimingCache``."""

    def serialize(self) -> HostMemory: ...


class BuilderConfig(Protocol):
    """``IBuilderConfig``."""

    profiling_verbosity: Any
    builder_optimization_level: int

    def set_flag(self, flag: Any) -> None: ...
    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...
    def add_optimization_profile(self, profile: Any) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None: ...
    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> TimingCache | None: ...


class CapabilityConfig(Protocol):
    """``IBuilderConfig`` with selectable compute capabilities: TensorRT for RTX."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...


class MonitoredConfig(Protocol):
    """``IBuilderConfig`` that reports progress: from TensorRT 10 on."""

    progress_monitor: Any


class CompatibleConfig(Protocol):
    """``IBuilderConfig`` with hardware compatibility: from TensorRT 8.6 on."""

    hardware_compatibility_level: Any


class Builder(Protocol):
    """``Builder``."""

    def create_network(self, flags: int = 0) -> Network: ...
    def create_builder_config(self) -> BuilderConfig: ...
    def create_optimization_profile(self) -> Profile: ...
    def build_serialized_network(self, network: Any, config: Any) -> HostMemory | None: ...


class ExecutionContext(Protocol):
    """``IExecutionContext``."""

    def set_input_shape(self, name: str, shape: Any) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def infer_shapes(self) -> list[str]: ...
    def get_tensor_shape(self, name: str) -> Dims: ...
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class RuntimeCache(Protocol):
    """``IRuntimeCache``: kernels compiled at load, kept for the next load."""

    def deserialize(self, blob: bytes) -> bool: ...
    def serialize(self) -> HostMemory: ...


class RuntimeConfig(Protocol):
    """``IRuntimeConfig`` of TensorRT for RTX."""

    cuda_graph_strategy: Any

    def create_runtime_cache(self) -> RuntimeCache: ...
    def set_runtime_cache(self, cache: Any) -> bool: ...


class ConfiguredEngine(Protocol):
    """``ICudaEngine`` whose contexts accept a configuration."""

    def create_runtime_config(self) -> RuntimeConfig: ...


class SizedEngine(Protocol):
    """``ICudaEngine`` that reports its contexts' memory: from TensorRT 10.1 on."""

    device_memory_size_v2: int


class ManagedContext(Protocol):
    """``IExecutionContext`` that accepts memory with its size: from TensorRT 10.1 on."""

    def set_device_memory(self, memory: int, size: int) -> None: ...


class CudaEngine(Protocol):
    """``ICudaEngine``."""

    num_io_tensors: int
    num_optimization_profiles: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_location(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_shape(self, name: str) -> Dims: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Dims]: ...

    create_execution_context: Callable[..., ExecutionContext | None]


class ProfiledContext(Protocol):
    """``IExecutionContext`` that reports its layers to a profiler."""

    profiler: Any


class EngineInspector(Protocol):
    """``EngineInspector``."""

    def get_engine_information(self, format: Any) -> str: ...


class InspectedEngine(Protocol):
    """``ICudaEngine`` that describes its layers."""

    def create_engine_inspector(self) -> EngineInspector: ...


class Runtime(Protocol):
    """``Runtime``."""

    def deserialize_cuda_engine(self, serialized_engine: Any) -> CudaEngine | None: ...


class TensorRtModule(Protocol):
    """The imported package. Its enumerations are looked up by name because they differ between generations."""

    __version__: str
    ILogger: Any
    IProfiler: Any
    LayerInformationFormat: Any
    BuilderFlag: Any
    NetworkDefinitionCreationFlag: Any
    MemoryPoolType: Any
    ProfilingVerbosity: Any
    TensorIOMode: Any
    TensorLocation: Any

    @property
    def Builder(self) -> Callable[[Any], Builder]: ...

    @property
    def OnnxParser(self) -> Callable[[Any, Any], Parser]: ...

    @property
    def Runtime(self) -> Callable[[Any], Runtime]: ...
