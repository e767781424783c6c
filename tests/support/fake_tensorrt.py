"""TensorRT of several generations, made of Python: each has exactly the members that its generation has.

A graph file for it is JSON that names inputs and outputs; a plan is the real header and that JSON; executing a plan
calls a Python function on the memory of a `FakeCuda`. Every call is recorded. What a generation lacks raises
`AttributeError` here as there, for setting as well as for reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import numpy as np

from samedge.engines.tensorrt.api import Flavour, FlavourName, describe
from samedge.testing.cuda import FakeCuda
from samedge.types import Array

Calls = list[tuple[Any, ...]]
Program = Callable[[dict[str, Array]], Mapping[str, Array]]

VERSIONS: Final = {"8.6": "8.6.1.6", "10.3": "10.3.0.26", "10.13": "10.13.0.35", "11": "11.4.0.106", "rtx": "1.7.1.116"}
_DTYPES: Final = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32", "int64": "INT64", "uint8": "UINT8"}
NUMPY: Final = {kind: np.dtype(name) for name, kind in _DTYPES.items()}


def write_graph(
    path: Path, inputs: Mapping[str, tuple[str, list[int | str]]], outputs: Mapping[str, tuple[str, list[int | str]]]
) -> Path:
    """Writes a graph that the fakes can parse."""
    path.write_text(json.dumps({"inputs": inputs, "outputs": outputs}), encoding="utf-8")
    return path


class FakeTensorRt:
    """One generation.

    Args:
        generation: A key of `VERSIONS`.
        cuda: Where plans are executed.
        program: What executing a plan does.

    Attributes:
        module: What ``import tensorrt`` would give.
        calls: What was called, oldest first.
        layers: Name and milliseconds of each layer, as a profiler is told.
        described: What an inspector says of the layers: names, or dictionaries as detailed plans have them.
        log: Lines that the builder or runtime logs the next time that it is asked to work: (severity, text).
        build_fails: The next build gives no plan.
        execute_fails: Executing says False.
        scratch_bytes: What a context needs that has no memory of its own.
    """

    def __init__(self, generation: str, *, cuda: FakeCuda | None = None, program: Program | None = None) -> None:
        self.generation = generation
        self.version = VERSIONS[generation]
        self.cuda = cuda
        self.program = program
        self.calls: Calls = []
        self.layers: list[tuple[str, float]] = []
        self.described: list[Any] = []
        self.log: list[tuple[str, str]] = []
        self.build_fails = False
        self.execute_fails = False
        self.scratch_bytes = 96
        self.module = _module(self)

    @property
    def name(self) -> FlavourName:
        return "tensorrt-rtx" if self.generation == "rtx" else "tensorrt"

    @property
    def flavour(self) -> Flavour:
        return describe(self.name, self.module)

    def called(self, name: str) -> Calls:
        """Returns the calls of this name, without it."""
        return [call[1:] for call in self.calls if call[0] == name]

    def plan(self, graph: Mapping[str, Any]) -> bytes:
        """Returns a plan as this generation would write it."""
        magic = b"vtrt" if self.generation == "rtx" else b"ftrt"
        return magic + bytes(20) + bytes(map(int, self.version.split("."))) + json.dumps(graph).encode()

    def say(self, logger: Any) -> None:
        for severity, text in self.log:
            logger.log(logger.Severity[severity], text)


class Strict:
    """An object of native code: what it does not have cannot be set."""

    _settable: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        if name not in self._settable or not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self._fake.calls.append((name, getattr(value, "name", value)))
        object.__setattr__(self, f"_{name}", value)

    _fake: FakeTensorRt


class Tensor(Strict):
    def __init__(self, name: str, dtype: Any, axes: list[int | str]) -> None:
        self._name, self._dtype, self._axes = name, dtype, axes

    name = property(lambda self: self._name)
    dtype = property(lambda self: self._dtype)
    shape = property(lambda self: tuple(axis if isinstance(axis, int) else -1 for axis in self._axes))
    is_shape_tensor = False

    def get_dimension_name(self, index: int) -> str | None:
        axis = self._axes[index]
        return axis if isinstance(axis, str) else None


class Host(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


def _enum(name: str, members: list[str]) -> Any:
    make: Any = IntEnum
    return make(name, members, start=0)


def _module(fake: FakeTensorRt) -> ModuleType:
    """Builds the module of a generation by leaving out what it lacks."""
    old, rtx, eleven = fake.generation == "8.6", fake.generation == "rtx", fake.generation in ("11", "rtx")
    severities = _enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
    kinds = [kind for kind in _DTYPES.values() if not (old and kind == "INT64")]
    dtypes = _enum("DataType", [*kinds, "BOOL", "INT8", *([] if old else ["BF16"])])
    creation = [] if eleven else ["EXPLICIT_BATCH"]
    flags = [*([] if eleven else ["FP16", "INT8"]), "VERSION_COMPATIBLE", "REFIT"]
    modes = _enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    locations = _enum("TensorLocation", ["DEVICE", "HOST"])
    strategies = _enum("ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"])

    class ILogger:
        Severity = severities

        def __init__(self) -> None:
            self.initialised = True

    class IProgressMonitor:
        def __init__(self) -> None:
            self.initialised = True

    class Network(Strict):
        def __init__(self, flags: int) -> None:
            self._flags = flags
            self._graph: dict[str, Any] = {"inputs": {}, "outputs": {}}

        num_inputs = property(lambda self: len(self._graph["inputs"]))
        num_outputs = property(lambda self: len(self._graph["outputs"]))
        num_layers = 1

        def _tensor(self, kind: str, index: int) -> Tensor:
            name, (dtype, axes) = list(self._graph[kind].items())[index]
            return Tensor(name, dtypes[_DTYPES[dtype]], axes)

        def get_input(self, index: int) -> Tensor:
            return self._tensor("inputs", index)

        def get_output(self, index: int) -> Tensor:
            return self._tensor("outputs", index)

    class ParserError:
        def __init__(self, text: str) -> None:
            self._text = text

        def desc(self) -> str:
            return self._text

    class OnnxParser(Strict):
        def __init__(self, network: Network, logger: ILogger) -> None:
            self._network, self._errors = network, list[str]()

        num_errors = property(lambda self: len(self._errors))

        def parse_from_file(self, model: str) -> bool:
            fake.calls.append(("parse_from_file", Path(model).name))
            try:
                self._network._graph = json.loads(Path(model).read_text(encoding="utf-8"))
            except ValueError:
                self._errors.append("Failed to parse the ONNX model.")
            return not self._errors

        def get_error(self, index: int) -> ParserError:
            return ParserError(self._errors[index])

    class IOptimizationProfile:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            fake.calls.append(("set_shape", input, tuple(min), tuple(opt), tuple(max)))
            self.shapes[input] = [list(min), list(opt), list(max)]

    class IProfiler:
        def __init__(self) -> None:
            self.initialised = True

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            raise NotImplementedError

    class EngineInspector:
        def get_engine_information(self, format: Any) -> str:
            fake.calls.append(("get_engine_information", format.name))
            return json.dumps({"Layers": fake.described})

    class TimingCache:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def serialize(self) -> Host:
            return Host(self._data + b"+times")

    class IBuilderConfig(Strict):
        _fake = fake
        _settable = frozenset(
            {
                "profiling_verbosity",
                "builder_optimization_level",
                "hardware_compatibility_level",
                "progress_monitor",
                "num_compute_capabilities",
            }
        )
        profiling_verbosity = property(lambda self: None)
        builder_optimization_level = property(lambda self: 3)
        hardware_compatibility_level = property(lambda self: None)
        progress_monitor = property(lambda self: None)
        num_compute_capabilities = property(lambda self: 0)

        def __init__(self, logger: Any) -> None:
            self._logger = logger
            self._profiles: list[IOptimizationProfile] = []
            self._cache: TimingCache | None = None

        def set_flag(self, flag: Any) -> None:
            fake.calls.append(("set_flag", flag.name))

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            fake.calls.append(("set_memory_pool_limit", pool.name, pool_size))

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
            fake.calls.append(("create_timing_cache", bytes(serialized_timing_cache)))
            if serialized_timing_cache == b"damaged":
                self._logger.log(self._logger.Severity.ERROR, "[timingCache.cpp] Serialization assertion failed.")
                return None
            return TimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            self._cache = cache
            return True

        def get_timing_cache(self) -> TimingCache | None:
            return self._cache

        def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
            fake.calls.append(("set_compute_capability", compute_capability.name, index))
            return True

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def create_network(self, flags: int = 0) -> Network:
            names = [flag.name for flag in module.NetworkDefinitionCreationFlag if flags >> flag.value & 1]
            fake.calls.append(("create_network", *names))
            return Network(flags)

        def create_builder_config(self) -> IBuilderConfig:
            fake.say(self._logger)
            return IBuilderConfig(self._logger)

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Network, config: IBuilderConfig) -> Host | None:
            fake.calls.append(("build_serialized_network",))
            fake.say(self._logger)
            monitor = getattr(config, "_progress_monitor", None)
            if monitor is not None:
                monitor.phase_start("Building", None, 2)
                if not monitor.step_complete("Building", 0):
                    return None
                monitor.phase_finish("Building")
            if fake.build_fails:
                return None
            shapes = config._profiles[0].shapes if config._profiles else {}
            return Host(fake.plan({**network._graph, "profile": shapes}))

    class IExecutionContext(Strict):
        _fake = fake
        _settable = frozenset({"device_memory", "profiler"})
        profiler: Any = property(lambda self: getattr(self, "_profiler", None))
        device_memory = property(lambda self: None)

        def __init__(self, engine: ICudaEngine, managed: bool) -> None:
            self._engine = engine
            self._managed = managed
            self._scratch = (0, 0)
            self._profile = 0
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}

        def set_device_memory(self, memory: int, size: int) -> None:
            fake.calls.append(("set_device_memory", size))
            self._scratch = (int(memory), int(size))

        def set_input_shape(self, name: str, shape: Any) -> bool:
            fake.calls.append(("set_input_shape", name, tuple(shape)))
            low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
            if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                return False
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            fake.calls.append(("set_tensor_address", name))
            self._addresses[name] = memory
            return memory % 256 == 0

        def infer_shapes(self) -> list[str]:
            return [name for name in self._engine._graph["inputs"] if name not in self._shapes]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            sizes: dict[str, int] = {}
            for kind, (_, axes) in self._engine._graph["inputs"].items():
                sizes.update(
                    {axis: size for axis, size in zip(axes, self._shapes[kind], strict=True) if isinstance(axis, str)}
                )
            axes = self._engine._graph["outputs"][name][1]
            return tuple(axis if isinstance(axis, int) else sizes.get(axis, -1) for axis in axes)

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            fake.calls.append(("set_optimization_profile_async", profile_index))
            self._profile = profile_index
            self._shapes.clear()
            return bool(profile_index < self._engine.num_optimization_profiles)

        def execute_async_v3(self, stream_handle: int) -> bool:
            fake.calls.append(("execute_async_v3",))
            if fake.execute_fails or fake.cuda is None or fake.program is None:
                return False
            cuda, program, graph = fake.cuda, fake.program, self._engine._graph
            scratch: list[tuple[int, int]] = []
            if self._managed:
                # Contexts that share it must not run at the same time: whoever does is caught by the fake GPU.
                memory, nbytes = (
                    self._scratch if any(self._scratch) else (cast("Any", self)._device_memory, fake.scratch_bytes)
                )
                if nbytes < fake.scratch_bytes or memory % 256:
                    return False
                scratch = [(memory, fake.scratch_bytes)]
            places: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]] = {}
            for kind in ("inputs", "outputs"):
                for name, (dtype, _axes) in graph[kind].items():
                    shape = self._shapes[name] if kind == "inputs" else self.get_tensor_shape(name)
                    places[name] = (self._addresses[name], shape, np.dtype(dtype))

            def size(name: str) -> tuple[int, int]:
                address, shape, dtype = places[name]
                return address, int(np.prod(shape)) * dtype.itemsize

            def kernel() -> None:
                feeds = {
                    name: cuda.device_bytes(*size(name)).view(places[name][2]).reshape(places[name][1]).copy()
                    for name in graph["inputs"]
                }
                for name, result in program(feeds).items():
                    cuda.device_bytes(*size(name))[:] = np.ascontiguousarray(result).reshape(-1).view(np.uint8)

            cuda.run_kernel(
                "execute",
                stream_handle,
                kernel,
                reads=[size(name) for name in graph["inputs"]],
                writes=[*(size(name) for name in graph["outputs"]), *scratch],
            )
            if self.profiler is not None:
                assert self.profiler.initialised, "the base class was not initialised"
                for name, milliseconds in fake.layers:
                    self.profiler.report_layer_time(name, milliseconds)
            return True

    class IRuntimeCache:
        def deserialize(self, blob: bytes) -> bool:
            fake.calls.append(("deserialize_cache", bytes(blob)))
            return blob != b"damaged"

        def serialize(self) -> Host:
            return Host(b"compiled")

    class IRuntimeConfig(Strict):
        _fake = fake
        _settable = frozenset({"cuda_graph_strategy"})
        cuda_graph_strategy = property(lambda self: None)

        def create_runtime_cache(self) -> IRuntimeCache:
            return IRuntimeCache()

        def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
            fake.calls.append(("set_runtime_cache",))
            return True

    class ICudaEngine:
        num_optimization_profiles = property(lambda self: len(self._graph.get("profiles", [None])))
        device_memory_size = property(lambda self: fake.scratch_bytes)
        device_memory_size_v2 = property(lambda self: fake.scratch_bytes)

        def __init__(self, graph: dict[str, Any]) -> None:
            self._graph = graph
            self._tensors = {**graph["inputs"], **graph["outputs"]}

        num_io_tensors = property(lambda self: len(self._tensors))

        def get_tensor_name(self, index: int) -> str:
            return str(list(self._tensors)[index])

        def get_tensor_mode(self, name: str) -> Any:
            return modes.INPUT if name in self._graph["inputs"] else modes.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return dtypes[_DTYPES[self._tensors[name][0]]]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(axis if isinstance(axis, int) else -1 for axis in self._tensors[name][1])

        def get_tensor_location(self, name: str) -> Any:
            return locations.HOST if name in self._graph.get("shape_tensors", []) else locations.DEVICE

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
            profiles = self._graph.get("profiles") or [self._graph["profile"]]
            fixed = self.get_tensor_shape(name)
            return profiles[profile_index].get(name, [fixed, fixed, fixed])

        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig()

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector()

        def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
            configured = isinstance(strategy, IRuntimeConfig)
            kind = "configured" if configured else "STATIC" if strategy is None else strategy.name
            fake.calls.append(("create_execution_context", kind))
            return IExecutionContext(self, kind == "USER_MANAGED")

    class Runtime(Strict):
        _fake = fake
        _settable = frozenset({"engine_host_code_allowed"})
        engine_host_code_allowed = property(lambda self: False)

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            fake.calls.append(("deserialize_cuda_engine",))
            fake.say(self._logger)
            if fake.log:
                return None
            return ICudaEngine(json.loads(bytes(serialized_engine)[28:]))

    module: Any = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    module.__version__ = fake.version
    module.DataType = dtypes
    module.TensorIOMode = modes
    module.TensorLocation = locations
    module.BuilderFlag = _enum("BuilderFlag", flags)
    module.NetworkDefinitionCreationFlag = _enum(
        "NetworkDefinitionCreationFlag", [*creation, *([] if old else ["STRONGLY_TYPED"])]
    )
    module.MemoryPoolType = _enum("MemoryPoolType", ["WORKSPACE"])
    module.ProfilingVerbosity = _enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED"])
    levels = ["NONE", "AMPERE_PLUS", *([] if fake.generation in ("8.6", "10.3") else ["SAME_COMPUTE_CAPABILITY"])]
    module.HardwareCompatibilityLevel = _enum("HardwareCompatibilityLevel", levels)
    for kind in (ILogger, OnnxParser, Builder, Runtime, IBuilderConfig, IExecutionContext, ICudaEngine):
        setattr(module, kind.__name__, kind)
    module.ITensor = Tensor
    module.IProfiler = IProfiler
    module.EngineInspector = EngineInspector
    module.LayerInformationFormat = _enum("LayerInformationFormat", ["ONELINE", "JSON"])
    if old:
        del IBuilderConfig.progress_monitor
        del IExecutionContext.set_device_memory
        del ICudaEngine.device_memory_size_v2
    else:
        module.IProgressMonitor = IProgressMonitor
        module.ExecutionContextAllocationStrategy = strategies
    if eleven:
        del IExecutionContext.device_memory
        del ICudaEngine.device_memory_size
    if fake.generation in ("8.6", "10.3"):
        del ICudaEngine.create_runtime_config
    else:
        module.IRuntimeConfig = IRuntimeConfig
    if rtx:
        module.ComputeCapability = _enum("ComputeCapability", ["NONE", "CURRENT", "SM75", "SM86", "SM89", "SM120"])
        module.CudaGraphStrategy = _enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
    else:
        del IBuilderConfig.set_compute_capability
        del IBuilderConfig.num_compute_capabilities
        del IRuntimeConfig.cuda_graph_strategy
    return cast("ModuleType", module)
