"""Arrays on the device: from one engine to the next, to other libraries, and back."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import FakeTensorRt, write_graph

from samedge.engines import dlpack
from samedge.engines.build_options import AxisRange, BuildOptions
from samedge.engines.cuda_memory import Gpu
from samedge.engines.device_array import DevicePool
from samedge.engines.dlpack import CPU, capsule
from samedge.engines.fake_cuda import FakeCuda
from samedge.engines.protocol import EngineOptions
from samedge.engines.tensorrt import TensorRtEngine
from samedge.engines.tensorrt_build import build_plan
from samedge.errors import EngineError, TensorMismatchError
from samedge.types import Array, TensorSpec

F32 = np.dtype(np.float32)


def double(feeds: dict[str, Array]) -> Mapping[str, Array]:
    return {"y": feeds["x"] * 2}


class Part:
    """One engine on a GPU of its own provider, as two engines of one process are."""

    def __init__(self, folder: Path, shared: FakeCuda | None = None, gpu: Gpu | None = None) -> None:
        self.cuda = shared or FakeCuda(gpu=gpu)
        trt = FakeTensorRt("10.3", cuda=self.cuda, program=double)
        graph = write_graph(folder / "g.onnx", {"x": ("float32", ["batch", 4])}, {"y": ("float32", ["batch", 4])})
        plan, _ = build_plan(trt.flavour, graph, BuildOptions(profiles={"batch": AxisRange(1, 2, 4)}))
        path = folder / "g.engine"
        path.write_bytes(plan)
        self.engine = TensorRtEngine(path, EngineOptions(), flavour=trt.flavour, memory=self.cuda)


class Unclosed(FakeCuda):
    """Two engines share the memory of one GPU; a real provider's `close` does not end the GPU."""

    def close(self) -> None:
        pass


def closed(part: Part) -> bool:
    return part.cuda.closed


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_what_one_engine_computes_the_next_one_reads_without_the_host(tmp_path: Path) -> None:
    cuda = Unclosed()
    first, second = Part(tmp_path, cuda).engine, Part(tmp_path, cuda).engine
    for turn in range(4):
        on_device = first.run_on_device({"x": X + turn}, ["y"])["y"]
        assert on_device.spec == TensorSpec((2, 4), F32)
        copies = cuda.calls.count("copy_in"), cuda.calls.count("copy_out")
        result = second.run_on_device({"x": on_device}, ["y"])["y"]
        assert (cuda.calls.count("copy_in"), cuda.calls.count("copy_out")) == copies
        np.testing.assert_array_equal(result.numpy(), (X + turn) * 4)
        np.testing.assert_array_equal(on_device.numpy(), (X + turn) * 2)
        np.testing.assert_array_equal(second.run_on_device({"x": on_device}, ["y"])["y"].numpy(), (X + turn) * 4)
    del on_device, result
    first.close()
    second.close()
    assert cuda.leaks() == []


def test_the_place_of_a_forgotten_array_is_used_again(tmp_path: Path) -> None:
    part = Part(tmp_path)
    for _ in range(2):
        part.engine.run_on_device({"x": X}, ["y"])["y"].close()
    before = part.cuda.allocations
    kept = part.engine.run_on_device({"x": X}, ["y"])["y"]
    assert part.cuda.allocations == before
    other = part.engine.run_on_device({"x": X + 1}, ["y"])["y"]
    assert part.cuda.allocations == before + 1
    np.testing.assert_array_equal(kept.numpy(), X * 2)
    np.testing.assert_array_equal(other.numpy(), X * 2 + 2)
    del kept, other
    gc.collect()
    part.engine.close()
    assert closed(part)


def test_an_array_outlives_its_engine(tmp_path: Path) -> None:
    part = Part(tmp_path)
    kept = part.engine.run_on_device({"x": X}, ["y"])["y"]
    part.engine.close()
    assert not closed(part)
    np.testing.assert_array_equal(kept.numpy(), X * 2)
    kept.close()
    assert closed(part)
    kept.close()
    with pytest.raises(EngineError, match="was closed"):
        kept.numpy()


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    part = Part(tmp_path)
    pool = DevicePool(part.cuda)
    elsewhere = DevicePool(FakeCuda(gpu=Gpu(1, "Other", "8.6", 1, 1 << 20)))
    with part.cuda.current(), elsewhere.memory.current():
        half = pool.take((2, 4), np.dtype(np.float16))
        narrow = pool.take((2, 3), F32)
        large = pool.take((5, 4), F32)
        foreign = elsewhere.take((2, 4), F32)
    for array, message in (
        (half, r"input 'x' is float16\[2, 4\]"),
        (narrow, r"input 'x' is float32\[2, 3\]"),
        (large, "is 5 in input 'x', and this engine was built for 1 to 4"),
        (foreign, "lies on cuda:1, and this engine runs on cuda:0"),
    ):
        with pytest.raises(TensorMismatchError, match=message):
            part.engine.run_on_device({"x": array}, ["y"])
    assert repr(foreign) == "DeviceArray(float32[2, 4] on cuda:1)"


def test_an_array_without_elements_is_one_too() -> None:
    pool = DevicePool(FakeCuda())
    with pool.memory.current():
        array = pool.take((0, 4), F32)
    assert array.numpy().shape == (0, 4)


# DLPack. Host memory stands for the device's: the structures are the same.


class Exported:
    """Memory of the host as another library sees it."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(self, **_: Any) -> Any:
        array = self.array
        return capsule(array.ctypes.data, array.shape, array.dtype, device=(CPU, 0), owner=self)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(2, 3), (), (1, 256, 8, 8)])
def test_other_libraries_see_the_same_memory(dtype: type, shape: tuple[int, ...]) -> None:
    array: Array = np.ones(shape, dtype)
    taken = np.from_dlpack(Exported(array))
    assert taken.dtype == array.dtype
    assert taken.shape == shape
    array[...] = 7
    assert (taken == 7).all()


def test_memory_is_kept_until_the_other_library_lets_go() -> None:
    before = len(dlpack._kept)
    taken = np.from_dlpack(Exported(np.ones(3, np.float32)))
    gc.collect()
    assert len(dlpack._kept) == before + 1
    assert taken.sum() == 3
    del taken
    gc.collect()
    assert len(dlpack._kept) == before
    unused = Exported(np.ones(3, np.float32)).__dlpack__()
    assert len(dlpack._kept) == before + 1
    del unused  # nobody took it
    gc.collect()
    assert len(dlpack._kept) == before


def test_torch_takes_it_as_well() -> None:
    torch = pytest.importorskip("torch")
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    tensor = torch.from_dlpack(Exported(array))
    assert tensor.shape == (2, 3)
    assert tensor.dtype == torch.float16
    array[1, 2] = 99
    assert tensor[1, 2] == 99


def test_a_device_array_says_where_it_lies_and_lives_while_it_is_lent(tmp_path: Path) -> None:
    part = Part(tmp_path)
    array = part.engine.run_on_device({"x": X}, ["y"])["y"]
    assert array.__dlpack_device__() == (dlpack.CUDA, 0)
    lent = array.__dlpack__(stream=None)
    del array
    gc.collect()
    part.engine.close()
    assert not closed(part)
    del lent
    gc.collect()
    assert closed(part)


def test_dtypes_that_dlpack_lacks_are_refused() -> None:
    with pytest.raises(TensorMismatchError, match="cannot be handed over"):
        capsule(0, (1,), np.dtype("U3"), device=(CPU, 0), owner=None)
