"""What is found out about an installed TensorRT, and whether the Protocols are those of a real one."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.fake_tensorrt import VERSIONS, FakeTensorRt

from samedge.engines.tensorrt import api as tensorrt_api
from samedge.engines.tensorrt import protocols as tensorrt_protocols
from samedge.engines.tensorrt.api import describe, find_flavour, install_cure, numpy_dtype
from samedge.errors import BackendUnavailableError, EngineError

REAL = {
    "HostMemory": "IHostMemory",
    "NetworkTensor": "ITensor",
    "NamedAxes": "ITensor",
    "Network": "INetworkDefinition",
    "ParserError": "ParserError",
    "Parser": "OnnxParser",
    "Profile": "IOptimizationProfile",
    "TimingCache": "ITimingCache",
    "BuilderConfig": "IBuilderConfig",
    "CapabilityConfig": "IBuilderConfig",
    "MonitoredConfig": "IBuilderConfig",
    "CompatibleConfig": "IBuilderConfig",
    "Builder": "Builder",
    "ExecutionContext": "IExecutionContext",
    "ProfiledContext": "IExecutionContext",
    "EngineInspector": "EngineInspector",
    "InspectedEngine": "ICudaEngine",
    "RuntimeCache": "IRuntimeCache",
    "RuntimeConfig": "IRuntimeConfig",
    "ConfiguredEngine": "ICudaEngine",
    "SizedEngine": "ICudaEngine",
    "ManagedContext": "IExecutionContext",
    "CudaEngine": "ICudaEngine",
    "Runtime": "Runtime",
}


def protocols() -> dict[str, type]:
    return {
        name: kind
        for name, kind in vars(tensorrt_protocols).items()
        if inspect.isclass(kind) and kind.__module__ == tensorrt_protocols.__name__
    }


def members(protocol: type) -> set[str]:
    declared = {name for name in vars(protocol) if not name.startswith("_") or name == "__version__"}
    return declared | set(protocol.__annotations__)


def test_every_protocol_is_compared_with_something_real() -> None:
    assert protocols().keys() == {*REAL, "Dims", "TensorRtModule"}


@pytest.mark.parametrize(("protocol", "real"), REAL.items())
def test_every_call_that_is_used_is_there_in_the_real_one(protocol: str, real: str) -> None:
    module = pytest.importorskip("tensorrt_rtx")
    kind = getattr(module, real)
    for name in members(protocols()[protocol]):
        assert hasattr(kind, name), f"{real}.{name}"
        ours = inspect.getattr_static(protocols()[protocol], name, None)
        if not inspect.isfunction(ours):
            continue
        signatures = real_parameters(getattr(kind, name), name)
        assert signatures, f"{real}.{name} tells no signature"
        wanted = [parameter for parameter in inspect.signature(ours).parameters if parameter != "self"]
        assert any(wanted == have[: len(wanted)] for have in signatures), f"{real}.{name}{wanted}: {signatures}"


def real_parameters(method: Any, name: str) -> list[list[str]]:
    """Names of the parameters without self of each overload, from the text that pybind11 generates."""
    found = []
    for line in (method.__doc__ or "").splitlines():
        match = re.match(rf"^\s*(?:\d+\. )?{name}\((?P<parameters>.*)\) ->", line)
        if match:
            names = re.findall(r"(\w+): ", match["parameters"])
            found.append([parameter for parameter in names if parameter not in ("self", "arg0")])
    return found


def test_the_real_module_has_what_is_looked_up() -> None:
    module = pytest.importorskip("tensorrt_rtx")
    for name in members(protocols()["TensorRtModule"]):
        assert hasattr(module, name), name
    assert {"INTERNAL_ERROR", "ERROR", "WARNING"} <= set(module.ILogger.Severity.__members__)
    assert hasattr(module.MemoryPoolType, "WORKSPACE")
    assert hasattr(module.ProfilingVerbosity, "DETAILED")
    assert hasattr(module.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert hasattr(module.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert hasattr(module.TensorLocation, "DEVICE")


def test_the_real_one_is_described() -> None:
    pytest.importorskip("tensorrt_rtx")
    flavour = find_flavour("tensorrt-rtx")
    assert flavour.is_rtx
    assert str(flavour).startswith("TensorRT-RTX 1.")
    features = flavour.features
    assert (features.strong_typing, features.always_strong, features.explicit_batch) == (True, True, False)
    assert features.progress_monitor
    assert features.own_cuda_graphs
    assert {"sm75", "sm86", "sm89", "sm120"} <= set(features.compute_capabilities)


FEATURES = {
    # explicit_batch, strong, always, fp16, int64, monitor, capabilities, runtime_config, own_cuda_graphs
    "8.6": (True, False, False, True, False, False, False, False, False),
    "10.3": (True, True, False, True, True, True, False, False, False),
    "10.13": (True, True, False, True, True, True, False, True, False),
    "11": (False, True, True, False, True, True, False, True, False),
    "rtx": (False, True, True, False, True, True, True, True, True),
}


@pytest.mark.parametrize("generation", VERSIONS)
def test_each_generation_is_told_by_what_it_has(generation: str) -> None:
    features = FakeTensorRt(generation).flavour.features
    found = (
        features.explicit_batch, features.strong_typing, features.always_strong, features.fp16_flag, features.int64,
        features.progress_monitor, bool(features.compute_capabilities), features.runtime_config,
        features.own_cuda_graphs,
    )  # fmt: skip
    assert found == FEATURES[generation]
    assert ("same_compute_capability" in features.hardware_compatibility) == (generation not in ("8.6", "10.3"))


def test_a_package_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(tensorrt_api, "MODULES", {"tensorrt": "no_such_tensorrt"})
    with pytest.raises(
        BackendUnavailableError, match=r"no_such_tensorrt is not installed.*pip install 'samedge\[trt\]'"
    ):
        find_flavour("tensorrt")


def test_an_empty_namespace_package_is_not_taken_for_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hollow_tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tensorrt_api, "MODULES", {"tensorrt": "hollow_tensorrt"})
    with pytest.raises(BackendUnavailableError, match=r"installed package 'hollow_tensorrt' is empty.*pip install"):
        find_flavour("tensorrt")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise OSError('libnvinfer.so.10: cannot open shared object file')", r"libnvinfer\.so\.10.*Reinstall"),
        ("raise RuntimeError('bad platform')", "bad platform"),
        ("import no_such_module_at_all", "needs the package 'no_such_module_at_all'"),
    ],
)
def test_a_broken_package_says_what_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    (tmp_path / "broken_tensorrt.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tensorrt_api, "MODULES", {"tensorrt": "broken_tensorrt"})
    with pytest.raises(BackendUnavailableError, match=message):
        find_flavour("tensorrt")


def test_a_tensorrt_that_is_too_old_is_refused() -> None:
    module: Any = ModuleType("tensorrt")
    module.__version__ = "8.4.1.5"
    module.Builder = type("Builder", (), {"build_serialized_network": None})
    module.OnnxParser = type("OnnxParser", (), {"parse_from_file": None})
    module.IExecutionContext = type("IExecutionContext", (), {"execute_async_v2": None})
    with pytest.raises(BackendUnavailableError, match=r"8\.4\.1\.5 is too old.*execute_async_v3.*JetPack"):
        describe("tensorrt", module)


def test_on_a_jetson_the_systems_tensorrt_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/etc/nv_tegra_release")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "python3-libnvinfer" in install_cure("tensorrt")
    assert "does not run on a Jetson" in install_cure("tensorrt-rtx")


def test_dtypes_are_mapped_by_name() -> None:
    dtypes = FakeTensorRt("10.3").module.DataType
    assert numpy_dtype(dtypes.HALF, "x") == np.float16
    assert numpy_dtype(dtypes.INT32, "x") == np.int32
    with pytest.raises(EngineError, match=r"x: .*BF16.*numpy lacks"):
        numpy_dtype(dtypes.BF16, "x")
