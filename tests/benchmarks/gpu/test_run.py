"""The benchmark on a GPU: rehearsed on the CPU with real graphs and torch, and on a fake GPU with fake engines."""

from __future__ import annotations

import csv
import gc
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.boards import Board as BuildingBoard
from support.boards import overflown, shifted
from support.bundles import write_small_bundle
from support.exported import exported_bundle
from support.fake_boards import Board, SharedGpu
from support.shared import environment

from samedge.benchmarks.gpu import contenders as gpu_contenders
from samedge.benchmarks.gpu import run as gpu
from samedge.benchmarks.gpu.behaviours import predictor_problems, try_contender
from samedge.benchmarks.gpu.contenders import BASELINE, GpuContender, Ready, Step, first_calls, step_names
from samedge.benchmarks.gpu.cuda_checks import CHECKS
from samedge.benchmarks.gpu.results import GpuReport, cells, columns, latency_of, markdown, read_gpu_report
from samedge.benchmarks.gpu.run import GpuSettings, MemoryWatch, run_checks, run_gpu
from samedge.benchmarks.gpu.torch_engine import TorchArray, TorchEngine, require_torch_device
from samedge.benchmarks.measure.artefacts import IMAGES, Artefacts
from samedge.benchmarks.measure.child import call_in_child
from samedge.engines.protocol import Engine
from samedge.engines.registry import find_backend
from samedge.errors import BackendUnavailableError, BenchmarkError, DeviceUnavailableError, EngineError, UsageError
from samedge.export.engines.rungs import rung_graph
from samedge.runtime.predictor import Predictor
from samedge.testing.cuda import FakeCuda
from samedge.types import TensorSpec

torch = pytest.importorskip("torch")
TINY = "seeded:sam_vit_tiny"
QUICK: Any = {"rounds": 1, "warm_ups": 1, "prompts": (1, 3), "batches": (2,)}
F32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one rehearsal leaves."""
    folder = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [sys.executable, "-m", "samedge.benchmarks", "gpu", "--device", "cpu", "--model", TINY, "--rounds", "2",
         "--warm-ups", "0", "--prompts", "1,3", "--batches", "2", "--no-trial", "--contenders",
         "torch eager,torch eager fp16,onnxruntime,onnxruntime fp16,tensorrt,tensorrt-rtx", "--output", str(folder)],
        capture_output=True, text=True, check=False, env={**environment(), "SAMEDGE_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Checking copies" in done.stderr
    assert "p50 / p90 / p99" in done.stdout
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> GpuReport:
    return read_gpu_report(folder / "gpu.json")


def test_the_checks_passed_on_the_fake_gpu(report: GpuReport) -> None:
    assert [check.name for check in report.checks] == [check.name for check in CHECKS]
    assert not any(check.problem for check in report.checks)
    assert "fake" in report.machine["gpu"]


def test_contenders_agree_with_the_cpu_and_do_every_step(report: GpuReport) -> None:
    rows = {row.name: row for row in report.contenders}
    able = ["torch eager", "torch eager fp16", "samedge, onnxruntime", "samedge, onnxruntime fp16"]
    assert list(rows) == [*able, "samedge, tensorrt", "samedge, tensorrt-rtx"]
    for name in able:
        row = rows[name]
        assert (row.skipped, row.problem, row.notes) == ("", "", ())
        assert row.embedding_error is not None
        assert row.embedding_error < (2e-2 if "fp16" in name else 1e-3)
        # Another precision was computed in, and not the same under another name.
        assert (row.embedding_error > 1e-4) == ("fp16" in name)
        assert row.mask_iou_worst is not None
        assert row.mask_iou_worst > 0.98
        steps = [step for step in report.steps if step != "context" or not name.startswith("torch")]
        assert list(row.steps) == steps
        for latency in row.steps.values():
            assert latency.count == 2
            assert 0 < latency.p50 <= latency.p90 <= latency.p99
    ours = rows["samedge, onnxruntime"].steps
    assert all(latency.ratio is not None for step, latency in ours.items() if step != "context")
    assert rows[BASELINE].steps["encode"].ratio is not None
    assert rows[BASELINE].steps["encode"].ratio.median == 1
    assert "not installed" in rows["samedge, tensorrt"].skipped
    assert rows["samedge, tensorrt-rtx"].skipped


def test_the_files_say_the_same(report: GpuReport, folder: Path) -> None:
    text = (folder / "gpu.md").read_text()
    assert text == markdown(report)
    assert all(f"- {check.name}: passed\n" in text for check in report.checks)
    assert all(len(cells(report, row)) == len(columns(report)) for row in report.contenders)
    with (folder / "gpu.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["contender"] for line in lines} == {row.name for row in report.contenders}
    assert len(lines) == sum(max(1, len(row.steps)) for row in report.contenders)
    assert {"processor", "torch", "onnxruntime", "command", "gpu"} <= report.machine.keys()
    assert report.settings["prompts"] == "1, 3"
    with pytest.raises(BenchmarkError, match="not a benchmark report"):
        read_gpu_report(folder / "gpu.md")


def test_without_a_gpu_it_is_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, "-m", "samedge.benchmarks", "gpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "driver" in line


def test_the_checks_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "samedge.benchmarks", "gpu", "--device", "cpu", "--checks-only"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{check.name}: passed" for check in CHECKS]


@pytest.mark.parametrize(
    ("settings", "message"),
    [(GpuSettings(contenders=("speed",)), "unknown contender 'speed'"), (GpuSettings(device="dla"), "no device 'dla'")],
)
def test_wrong_settings_are_named(settings: GpuSettings, message: str) -> None:
    with pytest.raises((UsageError, DeviceUnavailableError), match=message):
        run_gpu(settings, {})


# A fake GPU


class Made(Artefacts):
    """What was made before, in place of exports."""

    def bundle(
        self,
        source: str,
        *,
        precision: str = "fp32",
        calibrated: bool = False,
        form: str = "chunked",
        checked: bool = False,
    ) -> Path:
        return self.folder / "small"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    bundle = write_small_bundle(tmp_path / "small")
    board = Board(bundle, tmp_path, cuda=SharedGpu())

    def ready(name: str, source: str, bundle_of: Any, device: str, *_: Any) -> Ready:
        assert device == "cuda:0"
        if name != "tensorrt":
            raise BackendUnavailableError(f"no {name} here", cure="None")
        return Ready(name, source, bundle_of("fp32"), device)

    def opened(ready: Ready) -> GpuContender:
        predictor = board.predictor()
        return GpuContender(ready.name, predictor, board.engines["encoder"], predictor.graphs.decoder, 1)

    def given(device: str) -> FakeCuda:
        return board.cuda

    def passes(memory: Any) -> None:
        return None

    monkeypatch.setattr(gpu, "open_cuda", given)
    monkeypatch.setattr(gpu, "ready_contender", ready)
    monkeypatch.setattr(gpu, "open_contender", opened)
    monkeypatch.setattr(gpu, "check_torch", passes)
    monkeypatch.setattr(gpu, "predictor_problems", lambda *_: [])  # which have a test of their own
    yield board
    board.close()


def test_engines_on_a_gpu_are_measured_and_give_everything_back(board: Board, tmp_path: Path) -> None:
    shown: list[GpuReport] = []
    settings = GpuSettings(contenders=("onnxruntime", "tensorrt"), trial=False, **QUICK)
    report = run_gpu(settings, {}, artefacts=Made(tmp_path), show=shown.append)
    skipped, row = report.contenders
    assert skipped.skipped == "no onnxruntime here. None"
    assert row.peak_bytes is not None
    assert row.peak_bytes > 0
    assert row.embedding_error is not None
    assert row.embedding_error < 1e-5
    assert row.mask_iou_worst == 1
    assert list(row.steps) == [step for step in step_names((1, 3), (2,)) if step != "encode x2"]
    assert row.notes == ("encode x2 exceeds the engine's maximum batch",)
    assert row.steps["encode"].ratio is None  # torch is not among them
    assert len(shown) == 1 + 2 + len(row.steps)
    gc.collect()
    assert board.cuda.leaks() == []


def test_a_contender_that_fails_costs_its_own_row(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    able: Callable[[Ready], GpuContender] = vars(gpu)["open_contender"]  # the board's

    def opened(ready: Ready) -> GpuContender:
        if ready.name == "torch compile":
            raise OSError("gcc: not found\nmore")  # as Inductor does, and nobody has a list of it
        return able(ready)

    monkeypatch.setattr(gpu, "open_contender", opened)

    def ready(name: str, source: str, bundle_of: Any, device: str, *_: Any) -> Ready:
        return Ready(name, source, bundle_of("fp32"), device)

    monkeypatch.setattr(gpu, "ready_contender", ready)
    settings = GpuSettings(contenders=("torch compile", "tensorrt"), trial=False, **QUICK)
    skipped, row = run_gpu(settings, {}, artefacts=Made(tmp_path)).contenders
    assert skipped.skipped == "torch compile: OSError: gcc: not found. Leave this contender out, or report this"
    assert len(row.steps) == 7
    gc.collect()
    assert board.cuda.leaks() == []


def test_a_step_that_fails_while_it_is_timed_costs_itself(board: Board, tmp_path: Path, monkeypatch: Any) -> None:
    calls = 0

    def fails() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RuntimeError("CUDA error: misaligned address")

    def broken(*given: Any) -> Any:
        found, steps = first_calls(*given)
        return found, [Step(step.name, step.items, fails) if step.name == "decode 1" else step for step in steps]

    monkeypatch.setattr(gpu, "first_calls", broken)
    settings = GpuSettings(contenders=("tensorrt",), trial=False, rounds=3, warm_ups=1, prompts=(1,), batches=())
    (row,) = run_gpu(settings, {}, artefacts=Made(tmp_path)).contenders
    assert calls == 3  # and not again
    assert row.problem == "decode 1 failed: RuntimeError: CUDA error: misaligned address"
    assert "decode 1" not in row.steps
    assert row.steps["image and prompt"].count == 3


def test_what_takes_its_process_down_is_a_row(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(target: str, arguments: Any) -> Any:
        assert target == "samedge.benchmarks.gpu.behaviours:try_contender"
        assert set(arguments) == set(inspect.signature(try_contender).parameters)
        return call_in_child("os:kill", {})  # no such arguments: it ends with a traceback

    monkeypatch.setattr(gpu, "call_in_child", dies)
    settings = GpuSettings(contenders=("tensorrt",), **QUICK)
    (row,) = run_gpu(settings, {}, artefacts=Made(tmp_path)).contenders
    assert "ended with status 1" in row.skipped
    assert not board.engines


def test_a_contender_is_tried_in_a_process_of_its_own(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "small")
    size = 128
    image = tmp_path / "image.npy"
    np.save(image, np.zeros((1, 3, size, size), np.float32))
    arguments: dict[str, Any] = {
        "name": "onnxruntime", "source": str(bundle), "bundle": str(bundle), "device": "cpu", "many": None,
        "prepared": str(image), "prompts": [1], "batches": [2],
    }  # fmt: skip
    assert call_in_child("samedge.benchmarks.gpu.behaviours:try_contender", arguments) is None
    with pytest.raises(BenchmarkError, match=r"nowhere\.npy"):
        call_in_child("samedge.benchmarks.gpu.behaviours:try_contender", {**arguments, "prepared": "nowhere.npy"})


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[BuildingBoard, Path]:
    """A board that builds engines, and a bundle with the checkpoint's answers on it."""
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    bundle = exported_bundle(tmp_path / "tiny-samedge")
    board = BuildingBoard(monkeypatch)
    board.serve(bundle)
    monkeypatch.setattr(gpu, "open_cuda", lambda _device: FakeCuda())
    monkeypatch.setattr(gpu, "check_torch", lambda _memory: None)
    monkeypatch.setattr(gpu, "predictor_problems", lambda *_: ["a stream failed"])
    monkeypatch.setattr(gpu_contenders, "require_backend", find_backend)
    monkeypatch.setattr(gpu_contenders, "rung_graph", rung_graph)
    monkeypatch.setattr(gpu_contenders, "open_engine", board.open_plan)
    return board, bundle


def test_engines_are_built_and_judged_as_samedge_build_does(builder: tuple[BuildingBoard, Path]) -> None:
    board, bundle = builder
    board.wrong["encoder", "fp16"] = overflown
    contenders = (BASELINE, "onnxruntime fp16", "tensorrt")
    settings = GpuSettings(model=str(bundle), contenders=contenders, trial=False, **QUICK)
    torch_row, half_row, row = run_gpu(settings, {}).contenders
    assert "a bundle has no weights for torch" in torch_row.skipped
    assert "a bundle cannot be converted to" in half_row.skipped
    assert (row.skipped, row.problem) == ("", "a stream failed")
    assert row.details["rungs"] == "encoder fp16-norms, decoder fp16"
    assert row.details["masks"].startswith("passed, mean IoU 1.0")
    assert row.details["tried"].startswith("fp16: failed")
    assert board.builds[-1] == ("encoder", "fp16-norms")  # of the same rung, for two images
    assert str(board.options[-1].profiles["batch"]) == "1/2/2"
    assert row.steps["encode x2"].count == 1
    assert row.mask_iou_worst is not None
    assert row.mask_iou_worst > 0.9999


def test_engines_with_other_masks_are_a_problem(builder: tuple[BuildingBoard, Path]) -> None:
    board, bundle = builder
    for rung in ("fp16", "fp16-norms", "fp16-attention", "fp32"):
        board.wrong["decoder", rung] = shifted
        if rung != "fp16":
            board.fails["encoder", rung] = EngineError("no kernel for it", cure="Wait")
    settings = GpuSettings(model=str(bundle), contenders=("tensorrt",), trial=False, **QUICK)
    (row,) = run_gpu(settings, {}).contenders
    assert "its masks differ from the CPU's" in row.problem
    assert "its engines failed the bundle's probes" in row.problem


def test_no_encoder_for_many_images_is_a_note(builder: tuple[BuildingBoard, Path], monkeypatch: Any) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise EngineError("not enough memory", cure="Buy some")

    monkeypatch.setattr(gpu_contenders, "stored_engine", fails)
    settings = GpuSettings(model=str(builder[1]), contenders=("tensorrt",), trial=False, **QUICK)
    (row,) = run_gpu(settings, {}).contenders
    assert row.problem == "a stream failed"
    assert row.notes == ("no encoder for batches of 2: not enough memory. Buy some",)


def test_a_predictor_that_is_not_left_alone_has_the_same_masks(board: Board) -> None:
    def opened() -> GpuContender:
        predictor = board.predictor()
        return GpuContender("tensorrt", predictor, board.engines["encoder"], predictor.graphs.decoder, 1)

    contender = opened()
    assert list(predictor_problems(contender, opened, IMAGES)) == []

    def fails() -> GpuContender:
        raise EngineError("not enough GPU memory", cure="Buy some")

    class Other(Predictor):
        def set_embedding(self, *given: Any, **named: Any) -> None:
            super().set_embedding(*given, **named)
            super().set_image(np.zeros((self.geometry.height, self.geometry.width, 3), np.uint8))

    contender.predictor.__class__ = Other
    twisted, alone = predictor_problems(contender, fails, IMAGES)
    assert twisted.startswith("an exported and re-imported embedding gives different masks from the predictor alone")
    assert alone == "two predictors in threads failed: not enough GPU memory"
    contender.close()
    gc.collect()
    assert board.cuda.leaks() == []


def test_many_images_go_to_the_encoder_that_takes_them(board: Board) -> None:
    predictor = board.predictor()
    encoder, many = board.engines["encoder"], board.engine("encoder")
    contender = GpuContender("tensorrt", predictor, encoder, predictor.graphs.decoder, 1, many)
    assert (contender.encoder_of(1), contender.encoder_of(2)) == (encoder, many)
    contender.close()
    gc.collect()
    assert board.cuda.leaks() == []


def test_a_check_that_fails_is_said_and_the_others_go_on() -> None:
    class Broken(FakeCuda):
        def synchronise_all(self) -> None:
            raise EngineError("the GPU is gone", cure="Plug it in")

    results = list(run_checks(Broken(), lambda _: None))
    assert len(results) == len(CHECKS)
    assert {result.name for result in results if result.problem} == {"events between streams", "lending by DLPack"}


def test_the_most_memory_is_seen() -> None:
    cuda = FakeCuda(memory_bytes=1 << 20)
    with cuda.current():
        kept = cuda.allocate(1000)
        with MemoryWatch(cuda) as watch:
            address = cuda.allocate(5000)
        cuda.free(address)
        cuda.free(kept)
    assert watch.peak == 5000


def test_latencies_are_percentiles_and_ratios_of_rounds() -> None:
    latency = latency_of([0.001 * at for at in range(1, 101)], 4, [0.002 * at for at in range(1, 101)])
    assert latency.p50 == pytest.approx(50.5)
    assert latency.p99 == pytest.approx(99.01)
    assert latency.per_second == pytest.approx(4 / 0.0505)
    assert latency.ratio is not None
    assert latency.ratio.median == pytest.approx(2)


# torch as a backend


def engine(mode: str = "eager", function: Any = None) -> Engine:
    spec = {"x": TensorSpec(("rows", 2), F32)}
    raw = TorchEngine(function or (lambda x: x * 2), spec, {"y": spec["x"]}, "cpu", mode)
    return Engine(raw, backend="torch", name="double")


def test_tensors_stay_with_torch() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    with engine() as double:
        array = double.run_on_device({"x": double.run_on_device({"x": x})["y"]})["y"]
        assert isinstance(array, TorchArray)
        array.wait()
        np.testing.assert_array_equal(array.numpy(), x * 4)
        np.testing.assert_array_equal(array.rows([2, 0]), x[[2, 0]] * 4)
        np.testing.assert_array_equal(np.from_dlpack(array), x * 4)
        np.testing.assert_array_equal(double.run({"x": double.to_device(x)})["y"], x * 2)
        release = array.hold()
        array.close()
        release()
        with pytest.raises(EngineError, match="was closed"):
            array.numpy()


def test_what_torch_raises_is_an_engine_error() -> None:
    def fails(x: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    with engine(function=fails) as broken, pytest.raises(EngineError, match="torch failed: CUDA error: no kernel"):
        broken.run({"x": np.ones((1, 2), np.float32)})


def test_a_torch_without_a_gpu_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(BenchmarkError, match="finds no GPU"):
        require_torch_device("cuda:0")
