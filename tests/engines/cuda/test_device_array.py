"""Arrays on the device: from one engine to the next, to other libraries, and back."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_tensorrt import FakeTensorRt, write_graph
from support.in_threads import in_threads

from samedge.engines.cuda import dlpack
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.cuda.dlpack import CPU, capsule
from samedge.engines.cuda.memory import Gpu
from samedge.engines.cuda.pool import DevicePool
from samedge.engines.protocol import Engine, EngineOptions, Value
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.engine import TensorRtEngine
from samedge.errors import EngineError, TensorMismatchError
from samedge.options import AxisRange
from samedge.testing.cuda import FakeCuda
from samedge.testing.engine import fake_engine
from samedge.types import Array, TensorSpec

F32 = np.dtype(np.float32)


def double(feeds: dict[str, Array]) -> Mapping[str, Array]:
    return {"y": feeds["x"] * 2}


class Part:
    """One engine on a GPU of its own provider, as two engines of one process are."""

    def __init__(
        self, folder: Path, shared: FakeCuda | None = None, gpu: Gpu | None = None, *, generation: str = "10.3"
    ) -> None:
        self.cuda = shared or FakeCuda(gpu=gpu)
        self.trt = trt = FakeTensorRt(generation, cuda=self.cuda, program=double)
        graph = write_graph(folder / "g.onnx", {"x": ("float32", ["batch", 4])}, {"y": ("float32", ["batch", 4])})
        plan, _ = build_plan(trt.flavour, graph, BuildOptions(profiles={"batch": AxisRange(1, 2, 4)}))
        path = folder / "g.engine"
        path.write_bytes(plan)
        raw = TensorRtEngine(path, EngineOptions(), flavour=trt.flavour, memory=self.cuda)
        self.engine = Engine(raw, backend="tensorrt", name=path.name)

    def double(self, feeds: Value) -> DeviceArray:
        result = self.engine.run_on_device({"x": feeds}, ["y"])["y"]
        assert isinstance(result, DeviceArray)
        return result


class Unclosed(FakeCuda):
    """Two engines share the memory of one GPU; a real provider's `close` does not end the GPU."""

    def close(self) -> None:
        pass


def closed(part: Part) -> bool:
    return part.cuda.closed


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_what_one_engine_computes_the_next_one_reads_without_the_host(tmp_path: Path) -> None:
    cuda = Unclosed()
    first, second = Part(tmp_path, cuda), Part(tmp_path, cuda)
    for turn in range(4):
        on_device = first.double(X + turn)
        assert on_device.spec == TensorSpec((2, 4), F32)
        copies = cuda.calls.count("copy_in"), cuda.calls.count("copy_out")
        waits = cuda.calls.count("synchronise")
        result = second.double(on_device)
        assert (cuda.calls.count("copy_in"), cuda.calls.count("copy_out")) == copies
        assert turn == 0 or cuda.calls.count("synchronise") == waits  # the host does not wait either
        np.testing.assert_array_equal(result.numpy(), (X + turn) * 4)
        np.testing.assert_array_equal(on_device.numpy(), (X + turn) * 2)
        np.testing.assert_array_equal(second.double(on_device).numpy(), (X + turn) * 4)
        np.testing.assert_array_equal(second.engine.run({"x": on_device})["y"], (X + turn) * 4)
    del on_device, result
    first.engine.close()
    second.engine.close()
    assert cuda.leaks() == []


def test_an_input_that_is_there_already_is_not_copied_again(tmp_path: Path) -> None:
    cuda = Unclosed()
    first, second = Part(tmp_path, cuda), Part(tmp_path, cuda)
    array = first.double(X)
    other = first.double(X + 1)
    turns: list[tuple[Value, Array, int]] = [
        (array, X, 1),
        (array, X, 0),
        (other, X + 1, 1),
        (X + 5, X / 2 + 2.5, 0),
        (other, X + 1, 1),
    ]
    for value, want, copies in turns:
        before = cuda.calls.count("copy_across")
        np.testing.assert_array_equal(second.engine.run({"x": value})["y"], want * 4)
        assert cuda.calls.count("copy_across") - before == copies
    second.engine.run({"x": np.zeros((4, 4), np.float32)})  # the buffer moves
    np.testing.assert_array_equal(second.engine.run({"x": other})["y"], (X + 1) * 4)
    first.engine.close()
    second.engine.close()
    del array, other, value, turns
    assert cuda.leaks() == []


def test_a_feed_that_is_given_up_while_it_is_copied_keeps_its_memory(tmp_path: Path) -> None:
    cuda = Unclosed()
    first, second = Part(tmp_path, cuda), Part(tmp_path, cuda)
    array = first.double(X)
    result = second.double(array)
    array.close()  # nothing was done yet: the fake GPU works when somebody waits
    later = [first.double(X + turn) for turn in (1, 2)]  # would take its place
    np.testing.assert_array_equal(result.numpy(), X * 4)
    for turn, kept in enumerate(later, 1):
        np.testing.assert_array_equal(kept.numpy(), (X + turn) * 2)
    with pytest.raises(EngineError, match="is closed"):
        second.double(array)
    first.engine.close()
    second.engine.close()
    del later, kept, result
    assert cuda.leaks() == []


def test_results_that_nobody_waited_for_may_be_given_up(tmp_path: Path) -> None:
    part = Part(tmp_path)
    for turn in range(5):
        part.double(X + turn)
    assert part.engine.to_device(X) is not None
    np.testing.assert_array_equal(part.double(X).numpy(), X * 2)
    part.engine.close()
    assert closed(part)


def test_rows_are_picked_on_the_device(tmp_path: Path) -> None:
    part = Part(tmp_path)
    given = np.arange(16, dtype=np.float32).reshape(4, 4)
    array = part.double(given)
    array.wait()
    part.double(given[:2]).close()  # leaves a place that is still to be written
    before = part.cuda.allocations
    picked = array.pick([2, 3, 0])
    assert picked is not None
    assert part.cuda.allocations == before + 1  # that place is too small
    np.testing.assert_array_equal(picked.numpy(), given[[2, 3, 0]] * 2)
    two = array.pick([3, 3])
    assert two is not None
    np.testing.assert_array_equal(two.numpy(), given[[3, 3]] * 2)
    np.testing.assert_array_equal(array.rows([1]), given[[1]] * 2)
    assert array.pick([0, 1, 2, 3]) is array
    assert array.rows([]).shape == (0, 4)
    del array, picked, two
    part.engine.close()
    assert closed(part)


@pytest.mark.parametrize("generation", ["10.3", "8.6"])  # of several contexts, and of one
def test_other_shapes_and_other_work_wait_for_what_is_under_way(tmp_path: Path, generation: str) -> None:
    part = Part(tmp_path, generation=generation)
    arrays = [part.double(np.full((rows, 4), rows, np.float32)) for rows in (1, 1, 1, 4, 4, 4, 1, 2, 3, 2, 2, 4, 1)]
    for array in arrays:
        np.testing.assert_array_equal(array.numpy(), np.full(array.shape, 2 * array.shape[0]))
    del arrays, array
    part.engine.close()
    assert closed(part)


def test_memory_that_is_kept_for_other_sizes_is_given_up_where_it_is_short() -> None:
    cuda = FakeCuda(memory_bytes=1000)
    pool = DevicePool(cuda)
    small, large = np.arange(100, dtype=np.float32), np.arange(200, dtype=np.float32)
    for _ in range(2):
        pool.upload(small).close()
    array = pool.upload(large)  # 800 bytes beside 400
    np.testing.assert_array_equal(array.numpy(), large)
    with pytest.raises(EngineError, match="not enough GPU memory"):
        pool.upload(large)
    array.close()
    np.testing.assert_array_equal(pool.upload(small).numpy(), small)
    pool.close()
    assert cuda.closed


def test_arrays_of_the_host_can_be_brought_to_the_device(tmp_path: Path) -> None:
    part = Part(tmp_path)
    array = part.engine.to_device(X[:, ::-1])
    assert isinstance(array, DeviceArray)
    assert part.engine.to_device(array) is array
    np.testing.assert_array_equal(array.numpy(), X[:, ::-1])
    np.testing.assert_array_equal(part.double(array).numpy(), X[:, ::-1] * 2)
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(part.double(part.engine.to_device(torch.from_numpy(X))).numpy(), X * 2)
    del array
    part.engine.close()
    assert closed(part)


def test_a_failure_in_the_middle_gives_everything_back(tmp_path: Path) -> None:
    cuda = Unclosed()
    first, second = Part(tmp_path, cuda), Part(tmp_path, cuda)
    array = first.double(X)
    for _ in range(3):
        second.double(array)
    second.trt.execute_fails = True
    with pytest.raises(EngineError, match="failed while running"):
        second.double(first.double(X[:1]))
    second.trt.execute_fails = False
    np.testing.assert_array_equal(second.double(array).numpy(), X * 4)
    first.engine.close()
    second.engine.close()
    del array
    assert cuda.leaks() == []


def test_several_threads_and_engines_share_one_gpu(tmp_path: Path) -> None:
    cuda = Unclosed()
    first, second = Part(tmp_path, cuda), Part(tmp_path, cuda)

    def work(seed: int) -> None:
        for turn in range(8):
            given = X + seed * 100 + turn
            np.testing.assert_array_equal(second.double(first.double(given)).numpy(), given * 4)

    in_threads([partial(work, seed) for seed in range(4)])
    gc.collect()
    first.engine.close()
    second.engine.close()
    assert cuda.leaks() == []


def test_the_place_of_a_forgotten_array_is_used_again(tmp_path: Path) -> None:
    part = Part(tmp_path)
    for _ in range(2):
        part.double(X).close()
    before = part.cuda.allocations
    kept = part.double(X)
    assert part.cuda.allocations == before
    other = part.double(X + 1)
    assert part.cuda.allocations == before + 1
    np.testing.assert_array_equal(kept.numpy(), X * 2)
    np.testing.assert_array_equal(other.numpy(), X * 2 + 2)
    del kept, other
    gc.collect()
    part.engine.close()
    assert closed(part)


def test_an_array_outlives_its_engine(tmp_path: Path) -> None:
    part = Part(tmp_path)
    kept = part.double(X)
    part.engine.close()
    assert not closed(part)
    np.testing.assert_array_equal(kept.numpy(), X * 2)
    kept.close()
    assert closed(part)
    kept.close()
    with pytest.raises(EngineError, match="is closed"):
        kept.numpy()


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    part = Part(tmp_path)
    pool = DevicePool(part.cuda)
    elsewhere = DevicePool(FakeCuda(gpu=Gpu(1, "Other", "8.6", 1, 1 << 20)))
    with part.cuda.current(), elsewhere.memory.current():
        half = pool.allocate((2, 4), np.dtype(np.float16))
        narrow = pool.allocate((2, 3), F32)
        large = pool.allocate((5, 4), F32)
        foreign = elsewhere.allocate((2, 4), F32)
    for array, message in (
        (half, r"input 'x' is float16\[2, 4\]"),
        (narrow, r"input 'x' is float32\[2, 3\]"),
        (large, "is 5 in input 'x', but this engine was built for 1 to 4"),
        (foreign, "is on cuda:1, but this engine runs on cuda:0"),
    ):
        with pytest.raises(TensorMismatchError, match=message):
            part.double(array)
    assert repr(foreign) == "DeviceArray(float32[2, 4] on cuda:1)"


def test_an_array_without_elements_is_one_too() -> None:
    pool = DevicePool(FakeCuda())
    with pool.memory.current():
        array = pool.allocate((0, 4), F32)
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
    array = part.double(X)
    assert array.__dlpack_device__() == (dlpack.CUDA, 0)
    lent = array.__dlpack__(stream=None)
    del array
    gc.collect()
    part.engine.close()
    assert not closed(part)
    del lent
    gc.collect()
    assert closed(part)


def test_who_borrows_waits_on_his_stream_and_may_read_on_after_he_let_go(tmp_path: Path) -> None:
    part = Part(tmp_path)
    cuda = part.cuda
    array = part.double(X)
    with cuda.current():
        theirs, back = cuda.create_stream(), cuda.pin(array.nbytes)
        lent = array.__dlpack__(stream=theirs, max_version=(1, 0), copy=False)
        cuda.copy_out(back, array.address, array.nbytes, theirs)  # their kernel, without another event
    array.close()
    del lent
    gc.collect()
    before = cuda.allocations
    others = (
        part.double(X + 1),
        part.double(X + 2),
    )  # the first takes the place, and must not write it before it is read
    assert cuda.calls.count("synchronise_all") == 1
    assert cuda.allocations == before + 1
    with cuda.current():
        np.testing.assert_array_equal(back.view()[: X.nbytes].view(np.float32).reshape(2, 4), X * 2)
        cuda.unpin(back)
        cuda.destroy_stream(theirs)
    np.testing.assert_array_equal(others[1].numpy(), (X + 2) * 2)
    with pytest.raises(BufferError):
        others[0].__dlpack__(copy=True)
    with pytest.raises(BufferError):
        others[0].__dlpack__(dl_device=(dlpack.CPU, 0))
    assert others[0].__dlpack__(stream=-1) is not None
    del others
    part.engine.close()
    assert closed(part)


class Foreign:
    """A torch tensor on the fake GPU: its library orders work by a stream of its own."""

    def __init__(self, cuda: FakeCuda, values: Array, number: int = 0) -> None:
        self.cuda, self.number = cuda, number
        self.shape, self.dtype = values.shape, values.dtype
        with cuda.current():
            self.address, self.staging = cuda.allocate(values.nbytes), cuda.pin(values.nbytes)
            self.stream, self.event = cuda.create_stream(), cuda.create_event()
            self.staging.view()[:] = values.reshape(-1).view(np.uint8)
            cuda.copy_in(self.address, self.staging, values.nbytes, self.stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.number

    def __dlpack__(self, *, stream: Any = None) -> Any:
        with self.cuda.current():
            self.cuda.record(self.event, self.stream)
            self.cuda.wait(1 if stream is None else stream, self.event)
        return capsule(self.address, self.shape, self.dtype, device=(dlpack.CUDA, self.number), owner=self)

    def free(self) -> None:
        with self.cuda.current():
            self.cuda.synchronise_all()
            self.cuda.free(self.address)
            self.cuda.unpin(self.staging)
            self.cuda.destroy_event(self.event)
            self.cuda.destroy_stream(self.stream)


def test_another_librarys_array_is_read_where_it_lies(tmp_path: Path) -> None:
    part = Part(tmp_path, Unclosed())
    tensor = Foreign(part.cuda, X)
    before = len(dlpack._kept)
    copies = part.cuda.calls.count("copy_in"), part.cuda.calls.count("copy_out")
    array = part.engine.to_device(tensor)
    assert isinstance(array, DeviceArray)
    assert array.spec == TensorSpec((2, 4), F32)
    result = part.double(array)  # the tensor was not complete when it was handed over
    assert (part.cuda.calls.count("copy_in"), part.cuda.calls.count("copy_out")) == copies
    assert len(dlpack._kept) == before + 1
    array.close()
    gc.collect()
    assert len(dlpack._kept) == before + 1  # it is being copied
    np.testing.assert_array_equal(result.numpy(), X * 2)
    again = part.engine.to_device(tensor)
    np.testing.assert_array_equal(again.numpy(), X)  # type: ignore[union-attr]
    del result, again
    part.engine.close()
    gc.collect()
    assert len(dlpack._kept) == before
    tensor.free()
    assert part.cuda.leaks() == []


def test_another_librarys_array_on_another_device_is_refused(tmp_path: Path) -> None:
    part = Part(tmp_path, Unclosed())
    tensor = Foreign(part.cuda, X, number=1)
    with pytest.raises(TensorMismatchError, match="the array is on cuda:1, but this engine runs on cuda:0"):
        part.engine.to_device(tensor)
    tensor.free()
    part.engine.close()
    engine = fake_engine({"x": TensorSpec((2,), F32)}, {"y": TensorSpec((2,), F32)}, double)
    with pytest.raises(TensorMismatchError, match="the array is on cuda:1, but this engine runs on cpu"):
        engine.to_device(tensor)


def test_an_engine_of_the_host_keeps_results_there_and_fetches_what_lies_elsewhere(tmp_path: Path) -> None:
    part = Part(tmp_path)
    spec = TensorSpec((2, 4), F32)
    engine = fake_engine({"x": spec}, {"y": spec}, double)
    assert not engine.on_device
    result = engine.run_on_device({"x": part.double(X)})["y"]
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, X * 4)
    assert engine.to_device(result) is result
    part.engine.close()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.bool_])
def test_memory_is_taken_as_it_is_lent(shape: tuple[int, ...], dtype: type) -> None:
    array: Array = np.ones(shape, dtype)
    for exporter in (array, Exported(array)):
        taken = dlpack.import_array(exporter)
        assert (taken.address, taken.shape, taken.dtype) == (array.ctypes.data, shape, array.dtype)
        taken.release()


def test_memory_that_torch_lends_is_given_back_once() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6, dtype=torch.int64).reshape(2, 3)
    taken = dlpack.import_array(tensor)
    assert taken.address == tensor.data_ptr()
    assert taken.dtype == np.int64
    taken.release()
    with pytest.raises(TensorMismatchError, match="is not contiguous"):
        dlpack.import_array(tensor.T)
    with pytest.raises(TensorMismatchError, match="16 bits has no numpy dtype"):
        dlpack.import_array(tensor.to(torch.bfloat16))


def test_dtypes_that_dlpack_lacks_are_refused() -> None:
    with pytest.raises(TensorMismatchError, match="not supported by DLPack"):
        capsule(0, (1,), np.dtype("U3"), device=(CPU, 0), owner=None)


# Faults


class Failing(FakeCuda):
    """A GPU of which one call fails: the n-th that may fail on a real one."""

    MAY_FAIL = ("allocate", "pin", "create_stream", "create_event", "copy_in", "copy_out", "copy_across", "launch")

    def __init__(self, fail_at: int) -> None:
        super().__init__()
        self.left = fail_at
        self.failed = False

    def _enter(self, name: str, *, recordable: bool = False) -> None:
        super()._enter(name, recordable=recordable)
        if name in self.MAY_FAIL:
            self.left -= 1
            if self.left == 0:
                self.failed = True
                raise EngineError(f"{name} failed", cure="Try again")

    def close(self) -> None:
        pass


def test_whatever_fails_nothing_leaks_and_the_engine_works_afterwards(tmp_path: Path) -> None:
    part = Part(tmp_path)
    part.engine.close()
    path = tmp_path / "g.engine"
    ways = 0
    for fail_at in range(1, 500):
        cuda = Failing(fail_at)
        part.trt.cuda = cuda
        array: Any = None
        picked: Any = None
        try:
            raw = TensorRtEngine(path, EngineOptions(), flavour=part.trt.flavour, memory=cuda)
        except EngineError:
            assert cuda.leaks() == []
            ways += 1
            continue
        engine = Engine(raw, backend="tensorrt", name="g.engine")

        def use(engine: Engine, x: Array) -> None:
            nonlocal array, picked
            array = engine.run_on_device({"x": x})["y"]
            picked = array.pick([1])
            np.testing.assert_array_equal(engine.run({"x": engine.to_device(x)})["y"], x * 2)
            np.testing.assert_array_equal(array.numpy(), x * 2)
            np.testing.assert_array_equal(picked.numpy(), x[1:2] * 2)

        for turn in range(4):
            try:
                use(engine, X + turn if turn < 3 else np.concatenate([X, X]))
            except EngineError:
                assert cuda.failed
                use(engine, X)  # at once
        array = picked = None
        engine.close()
        gc.collect()
        assert cuda.leaks() == []
        if not cuda.failed:
            break
        ways += 1
    assert 60 < ways < 499
