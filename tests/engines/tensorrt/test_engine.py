"""The runner, on fakes of every generation over a fake GPU that watches it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from support.fake_tensorrt import VERSIONS, FakeTensorRt, write_graph

from samedge.engines.cuda.memory import Gpu
from samedge.engines.protocol import Engine, EngineOptions
from samedge.engines.registry import availability, find_backend, open_engine
from samedge.engines.tensorrt import engine as tensorrt
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.engine import TensorRtEngine, TensorRtRtxEngine
from samedge.engines.tensorrt.store.key import make_key
from samedge.engines.tensorrt.store.sidecar import Sidecar, write_sidecar
from samedge.errors import (
    BackendUnavailableError,
    DeviceUnavailableError,
    EngineError,
    IntegrityError,
    TensorMismatchError,
)
from samedge.options import AxisRange
from samedge.storage.files import sha256_file
from samedge.testing.cuda import FakeCuda
from samedge.types import Array, TensorSpec

GENERATIONS = tuple(VERSIONS)
PROFILES = {"prompts": AxisRange(1, 4, 8), "points": AxisRange(2, 2, 4)}


def decoder(feeds: dict[str, Array]) -> Mapping[str, Array]:
    coords, labels, image = feeds["coords"], feeds["labels"], feeds["image"]
    score = (coords.sum(2) * labels).sum(1) + image.sum()
    return {"masks": np.stack([score, -score], 1).astype(np.float32), "count": np.full(1, coords.shape[0], np.int32)}


class Board:
    """A GPU, a TensorRT, and an engine file."""

    def __init__(self, folder: Path, generation: str = "10.3", *, sidecar: bool = True, **cuda: Any) -> None:
        self.cuda = FakeCuda(**cuda)
        self.trt = FakeTensorRt(generation, cuda=self.cuda, program=decoder)
        graph = write_graph(
            folder / "decoder.onnx",
            {
                "image": ("float32", [1, 2, 2]),
                "coords": ("float32", ["prompts", "points", 2]),
                "labels": ("int32", ["prompts", "points"]),
            },
            {"masks": ("float32", ["prompts", 2]), "count": ("int32", [1])},
        )
        options = BuildOptions(precision="fp16", profiles=PROFILES)
        plan, self.report = build_plan(self.trt.flavour, graph, options, axes={"masks": ("prompts", 2)})
        self.path = folder / "decoder.engine"
        self.path.write_bytes(plan)
        self.key = make_key(sha256_file(graph), options, self.trt.flavour, self.cuda.gpu)
        if sidecar:
            self.write_sidecar()
        self.trt.calls.clear()

    def write_sidecar(self, **key: Any) -> None:
        size = self.path.stat().st_size
        write_sidecar(self.path, Sidecar(replace(self.key, **key), sha256_file(self.path), size, self.report))

    def open_again(self) -> Engine:
        self.cuda = self.trt.cuda = FakeCuda()
        return self.open()

    def open(self) -> Engine:
        raw = TensorRtEngine(self.path, EngineOptions(), flavour=self.trt.flavour, memory=self.cuda)
        return Engine(raw, backend="tensorrt", name=self.path.name)


def feeds(prompts: int = 2, points: int = 3, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.random((1, 2, 2), np.float32),
        "coords": rng.random((prompts, points, 2), np.float32),
        "labels": rng.integers(0, 2, (prompts, points)).astype(np.int32),
    }


def check(engine: Engine, **shape: int) -> None:
    given = feeds(**shape)
    got = engine.run(given)
    want = decoder(given)
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype


@pytest.fixture(params=GENERATIONS)
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Board:
    return Board(tmp_path, request.param)


def test_inputs_and_outputs_have_the_names_of_the_report(board: Board) -> None:
    with board.open() as engine:
        assert engine.inputs == {
            "image": TensorSpec((1, 2, 2), np.dtype(np.float32)),
            "coords": TensorSpec(("prompts", "points", 2), np.dtype(np.float32)),
            "labels": TensorSpec(("prompts", "points"), np.dtype(np.int32)),
        }
        assert engine.outputs == {
            "masks": TensorSpec(("prompts", 2), np.dtype(np.float32)),
            "count": TensorSpec((1,), np.dtype(np.int32)),
        }
        assert engine.device == "cuda:0"
        assert engine.details[board.trt.name] == board.trt.version
        assert engine.details["precision"] == "fp16"


def test_shapes_change_and_results_are_right_and_everything_is_freed(board: Board) -> None:
    engine = board.open()
    for seed, (prompts, points) in enumerate([(1, 2), (8, 4), (8, 4), (8, 4), (1, 2), (1, 2), (1, 2), (3, 3)]):
        check(engine, prompts=prompts, points=points, seed=seed)
    engine.close()
    assert board.cuda.leaks() == []
    assert board.cuda.closed


def test_the_calls_of_one_run(board: Board) -> None:
    with board.open() as engine:
        board.trt.calls.clear()
        engine.run(feeds())
        assert board.trt.calls == [
            ("set_input_shape", "image", (1, 2, 2)),
            ("set_input_shape", "coords", (2, 3, 2)),
            ("set_input_shape", "labels", (2, 3)),
            ("set_tensor_address", "image"),
            ("set_tensor_address", "coords"),
            ("set_tensor_address", "labels"),
            ("set_tensor_address", "masks"),
            ("set_tensor_address", "count"),
            ("execute_async_v3",),
        ]


def test_nothing_is_allocated_in_the_steady_state(board: Board) -> None:
    with board.open() as engine:
        check(engine, prompts=8, points=4)
        before = board.cuda.allocations
        for seed, prompts in enumerate([8, 1, 5, 8, 2]):
            check(engine, prompts=prompts, points=3, seed=seed)
        assert board.cuda.allocations == before


def test_buffers_grow_to_the_largest_shape_and_no_further(tmp_path: Path) -> None:
    board = Board(tmp_path)
    with board.open() as engine:
        for prompts in range(1, 9):
            check(engine, prompts=prompts, points=4)
        # 5 tensors on both sides; three of them grow by doubling: 1, 2, 4 and 8 prompts. One block for all contexts.
        assert board.cuda.allocations == 2 * (5 + 3 * 3) + 1
        sizes = sorted(memory.data.nbytes for memory in board.cuda._device.values())
        assert sizes == [4, 16, 64, 96, 128, 256]


@pytest.mark.parametrize("generation", ["10.3", "10.13", "11"])
def test_each_set_of_shapes_has_a_context_and_a_graph(generation: str, tmp_path: Path) -> None:
    board = Board(tmp_path, generation)
    board.trt.calls.clear()
    shapes = [(1, 2), (2, 2), (4, 3), (8, 4)]
    with board.open() as engine:
        assert engine.details["cuda graphs"] == "8, one for each set of shapes"
        assert board.trt.called("create_execution_context") == [("USER_MANAGED",)]
        check(engine, prompts=8, points=4)  # buffers that grow make graphs useless
        for seed in range(5):
            for prompts, points in shapes:
                check(engine, prompts=prompts, points=points, seed=seed)
        assert board.cuda.captured == len(shapes)
        # The largest ran once more. Each ran directly, then was captured, and was launched from then on.
        assert board.cuda.launches == 4 * len(shapes) + 1
        assert len(board.trt.called("execute_async_v3")) == 2 * len(shapes)
        assert board.cuda.calls.count("destroy_graph") == 0
        board.trt.calls.clear()
        allocations = board.cuda.allocations
        for prompts, points in shapes:
            check(engine, prompts=prompts, points=points, seed=9)
        assert board.trt.calls == []  # contexts that were captured are not touched
        assert board.cuda.allocations == allocations
    assert board.cuda.leaks() == []


def test_the_shapes_that_were_used_last_keep_their_graphs(tmp_path: Path) -> None:
    board = Board(tmp_path)
    with board.open() as engine:
        check(engine, prompts=8, points=4)
        for points in (2, 3):
            for prompts in range(1, 9):
                check(engine, prompts=prompts, points=points)
                check(engine, prompts=prompts, points=points)
        assert len(board.trt.called("create_execution_context")) == 8
        assert board.cuda.captured == 16
        assert board.cuda.calls.count("destroy_graph") == 8
    assert board.cuda.leaks() == []


def test_buffers_that_move_make_new_graphs(tmp_path: Path) -> None:
    board = Board(tmp_path)
    with board.open() as engine:
        for seed in range(3):
            check(engine, prompts=1, points=2, seed=seed)
        check(engine, prompts=8, points=4)
        for seed in range(3):
            check(engine, prompts=1, points=2, seed=seed)
        assert board.cuda.captured == 2
        assert board.cuda.calls.count("destroy_graph") == 1


@pytest.mark.parametrize(
    ("generation", "calls"),
    [
        ("8.6", [("create_execution_context", "STATIC")]),
        ("10.3", [("create_execution_context", "USER_MANAGED"), ("set_device_memory", 96)]),
        ("10.13", [("create_execution_context", "USER_MANAGED"), ("set_device_memory", 96)]),
        ("11", [("create_execution_context", "USER_MANAGED"), ("set_device_memory", 96)]),
        ("rtx", [("cuda_graph_strategy", "WHOLE_GRAPH_CAPTURE"), ("set_runtime_cache",),
                 ("create_execution_context", "configured")]),
    ],
)  # fmt: skip
def test_the_calls_that_open_a_plan(generation: str, calls: list[Any], tmp_path: Path) -> None:
    board = Board(tmp_path, generation)
    board.open().close()
    shapes = {"set_input_shape"}  # to learn the largest sizes
    assert [call for call in board.trt.calls if call[0] not in shapes] == [("deserialize_cuda_engine",), *calls]


def test_memory_for_contexts_goes_through_the_older_call_where_there_is_no_newer_one(tmp_path: Path) -> None:
    board = Board(tmp_path)  # as 10.0 is
    del board.trt.module.IExecutionContext.set_device_memory
    del board.trt.module.ICudaEngine.device_memory_size_v2
    with board.open() as engine:
        check(engine)
        check(engine, prompts=5)
        assert len(board.trt.called("device_memory")) == 2
    assert board.cuda.leaks() == []


def test_the_profile_that_fits_is_chosen(board: Board) -> None:
    plan = board.path.read_bytes()
    graph = json.loads(plan[28:])
    small = graph["profile"]
    large = {"coords": [[9, 2, 2], [9, 2, 2], [20, 2, 2]], "labels": [[9, 2], [9, 2], [20, 2]]}
    board.path.write_bytes(plan[:28] + json.dumps({**graph, "profiles": [small, large]}).encode())
    board.write_sidecar()
    with board.open() as engine:
        assert engine.axis_limits == {"prompts": (1, 20), "points": (2, 4)}
        for prompts in (2, 15, 15, 15, 3, 9, 8):
            check(engine, prompts=prompts, points=2, seed=prompts)
        used = [index for (index,) in board.trt.called("set_optimization_profile_async")]
        assert set(used) <= {0, 1}
        assert 1 in used
        with pytest.raises(TensorMismatchError, match="prompts is 30"):
            engine.run(feeds(30, 2))
    assert board.cuda.leaks() == []


def test_a_shape_tensor_is_refused(board: Board) -> None:
    plan = board.path.read_bytes()
    board.path.write_bytes(plan[:28] + json.dumps({**json.loads(plan[28:]), "shape_tensors": ["labels"]}).encode())
    board.write_sidecar()
    with pytest.raises(EngineError, match="'labels' of this engine is a shape tensor"):
        board.open()
    assert board.cuda.leaks() == []


@pytest.mark.parametrize("generation", ["8.6"])
def test_repeated_shapes_are_one_graph(generation: str, tmp_path: Path) -> None:
    board = Board(tmp_path, generation)
    with board.open() as engine:
        assert engine.details["cuda graphs"] == "1, one for each set of shapes"
        for seed in range(4):
            check(engine, seed=seed)
        # Direct, then captured and launched, then launched: TensorRT is asked twice only.
        assert len(board.trt.called("execute_async_v3")) == 2
        assert board.cuda.launches == 3
        board.trt.calls.clear()
        check(engine, seed=9)
        assert board.trt.calls == []  # the context that was captured is not touched
        check(engine, prompts=5)
        assert board.cuda.launches == 4
        assert board.cuda.calls.count("destroy_graph") == 1
        assert board.trt.called("execute_async_v3") == [()]


def test_rtx_captures_by_itself_and_keeps_what_it_compiled(tmp_path: Path) -> None:
    board = Board(tmp_path, "rtx")
    with board.open() as engine:
        assert engine.details["cuda graphs"] == "by the runtime"
        for _ in range(3):
            check(engine)
            assert (tmp_path / "decoder.engine.sm86.cache").read_bytes() == b"compiled"  # also if it is never closed
    assert board.cuda.launches == 0
    assert board.trt.called("cuda_graph_strategy") == [("WHOLE_GRAPH_CAPTURE",)]
    assert board.trt.called("create_execution_context") == [("configured",)]
    assert (tmp_path / "decoder.engine.sm86.cache").read_bytes() == b"compiled"
    again = Board(tmp_path, "rtx")
    again.open().close()
    assert again.trt.called("deserialize_cache") == [(b"compiled",)]
    (tmp_path / "decoder.engine.sm86.cache").write_bytes(b"damaged")
    with again.open_again() as engine:
        check(engine)  # it is compiled anew


def test_without_graphs_every_call_is_direct(tmp_path: Path) -> None:
    board = Board(tmp_path, captures=False)
    with board.open() as engine:
        for seed in range(3):
            check(engine, seed=seed)
        assert len(board.trt.called("execute_async_v3")) == 3


def test_only_the_outputs_that_were_asked_for_are_copied(tmp_path: Path) -> None:
    board = Board(tmp_path)
    with board.open() as engine:
        assert list(engine.run(feeds(), ["count"])) == ["count"]
        assert board.cuda.calls.count("copy_out") == 1


@pytest.mark.parametrize(
    ("prompts", "points", "message"),
    [
        (9, 2, r"prompts is 9 in input 'coords', but this engine was built for 1 to 8.*wider profile for prompts"),
        (1, 1, "points is 1 in input 'coords', but this engine was built for 2 to 4"),
    ],
)
def test_shapes_outside_of_the_profile_are_named(board: Board, prompts: int, points: int, message: str) -> None:
    with board.open() as engine:
        with pytest.raises(TensorMismatchError, match=message):
            engine.run(feeds(prompts, points))
        check(engine)


def test_a_failure_while_running_leaves_a_working_engine(board: Board) -> None:
    with board.open() as engine:
        check(engine)
        board.trt.execute_fails = True
        with pytest.raises(EngineError, match=r"decoder.engine: the engine failed while running") as caught:
            engine.run(feeds(prompts=4))
        assert caught.value.cure
        board.trt.execute_fails = False
        check(engine, prompts=4)
    assert board.cuda.leaks() == []


def test_memory_that_runs_out_is_an_error_and_nothing_leaks(tmp_path: Path) -> None:
    board = Board(tmp_path, memory_bytes=200)
    with board.open() as engine:
        check(engine, prompts=1, points=2)
        with pytest.raises(EngineError, match="not enough GPU memory"):
            engine.run(feeds(prompts=8, points=4))
        check(engine, prompts=1, points=2)  # the same shapes as before, and other addresses
    assert board.cuda.leaks() == []


def test_threads_take_turns(tmp_path: Path) -> None:
    board = Board(tmp_path)

    def slow(given: dict[str, Array]) -> Mapping[str, Array]:
        time.sleep(0.001)  # lets another thread in
        return decoder(given)

    board.trt.program = slow
    problems: list[BaseException] = []
    with board.open() as engine:

        def work(seed: int) -> None:
            try:
                for turn in range(5):
                    check(engine, prompts=1 + (seed + turn) % 8, seed=seed)
            except BaseException as problem:  # noqa: BLE001 - carried to the main thread
                problems.append(problem)

        threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []
    assert board.cuda.leaks() == []


# What must not be opened


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "10.2.0.1"}, "built by version 10.2.0.1, but this is 10.3.0.26"),
        ({"flavour": "tensorrt-rtx"}, "built for tensorrt-rtx"),
        ({"gpu": "Orin Nano"}, "built on Orin Nano"),
        ({"compute_capability": "8.7"}, "8.7"),
        ({"targets": ("sm120",), "compute_capability": ""}, "built for sm120, but this GPU is sm86"),
    ],
)
def test_an_engine_of_another_key_is_never_deserialised(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    board = Board(tmp_path)
    board.write_sidecar(**change)
    with pytest.raises(EngineError, match=rf"cannot be opened safely here: .*{message}.*samedge build") as caught:
        board.open()
    assert caught.value.reasons
    assert board.trt.calls == []
    assert board.cuda.closed


def test_a_plan_that_is_not_its_sidecars_is_never_deserialised(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.path.write_bytes(board.path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=r"decoder\.engine"):
        board.open()
    assert board.trt.calls == []


def test_a_plan_of_somebody_elses_opens_if_its_header_fits(tmp_path: Path) -> None:
    board = Board(tmp_path, sidecar=False)
    with board.open() as engine:
        assert engine.outputs["masks"].shape == ("masks.0", 2)
        assert engine.inputs["coords"].shape == ("coords.0", "coords.1", 2)
        assert "precision" not in engine.details
        check(engine)
    header = b'{"task": "segment"}'
    board.path.write_bytes(len(header).to_bytes(4, "little") + header + board.path.read_bytes())
    board.cuda = FakeCuda()
    board.trt.cuda = board.cuda
    with board.open() as engine:
        check(engine)


@pytest.mark.parametrize(("mine", "theirs"), [("10.3", "10.13"), ("11", "rtx"), ("rtx", "10.3")])
def test_a_foreign_plan_of_another_version_is_never_deserialised(tmp_path: Path, mine: str, theirs: str) -> None:
    other = Board(tmp_path, theirs, sidecar=False)
    cuda = FakeCuda()
    trt = FakeTensorRt(mine, cuda=cuda)
    with pytest.raises(EngineError, match=r"cannot be opened safely here"):
        TensorRtEngine(other.path, EngineOptions(), flavour=trt.flavour, memory=cuda)
    assert trt.calls == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([("ERROR", "Serialization assertion failed")], "cannot open this engine: Serialization.*samedge build"),
        ([("ERROR", "OutOfMemory: could not allocate")], "OutOfMemory.*Close other programs"),
    ],
)
def test_what_tensorrt_refuses_is_an_error_with_the_cause(board: Board, said: Any, message: str) -> None:
    board.trt.log = said
    with pytest.raises(EngineError, match=message):
        board.open()
    assert board.cuda.leaks() == []


def test_a_version_compatible_plan_may_bring_its_own_runtime(tmp_path: Path) -> None:
    board = Board(tmp_path, "10.13")
    board.write_sidecar(settings={**board.key.settings, "version_compatible": True})
    board.open().close()
    assert board.trt.called("engine_host_code_allowed") == [(True,)]


# The backend


@pytest.mark.parametrize(("name", "kind"), [("tensorrt", TensorRtEngine), ("tensorrt-rtx", TensorRtRtxEngine)])
def test_both_flavours_are_backends(name: str, kind: type) -> None:
    backend = find_backend(name)
    factory: object = backend.factory()
    assert factory is kind
    assert {".engine", ".plan"} <= set(backend.suffixes)


def fake_probe(monkeypatch: pytest.MonkeyPatch, generation: str, gpu: Gpu) -> None:
    monkeypatch.setattr(tensorrt, "find_flavour", lambda name: FakeTensorRt(generation).flavour)
    monkeypatch.setattr(tensorrt, "open_cuda", lambda device=None: FakeCuda(gpu=gpu))


def test_probe_tells_version_gpu_and_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_probe(monkeypatch, "10.3", Gpu(0, "Orin", "8.7", 16, 1 << 33))
    found = TensorRtEngine.probe()
    assert found.ok
    assert found.reason == "TensorRT 10.3.0.26 on Orin (compute capability 8.7) through fake"
    assert found.devices == ("cuda",)


def test_probe_knows_which_gpus_rtx_does_not_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_probe(monkeypatch, "rtx", Gpu(0, "H100", "9.0", 132, 1 << 36))
    found = TensorRtRtxEngine.probe()
    assert not found.ok
    assert "does not run on H100" in found.reason
    assert found.cure is not None
    assert "backend 'tensorrt'" in found.cure


def test_a_missing_driver_is_said_and_is_not_an_invalid_engine(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    found = availability("tensorrt-rtx")
    if found.ok:
        pytest.skip("there is a GPU here")
    assert "driver" in found.reason
    assert found.cure is not None
    path = tmp_path / "any.engine"
    path.write_bytes(b"vtrt" + bytes(24))
    with pytest.raises(BackendUnavailableError, match="driver"):
        open_engine(path, backend="tensorrt-rtx")
    with pytest.raises(DeviceUnavailableError, match="driver"):
        TensorRtRtxEngine(path, EngineOptions())
