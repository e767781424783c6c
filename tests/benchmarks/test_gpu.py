"""The benchmark on a GPU: rehearsed on the CPU with real graphs and torch, and on a fake GPU with fake engines."""

from __future__ import annotations

import csv
import gc
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import write_small_bundle
from fake_boards import Board, SharedGpu

from samedge.benchmarks import gpu
from samedge.benchmarks.artefacts import Artefacts
from samedge.benchmarks.gpu import GpuSettings, MemoryWatch, run_checks, run_gpu
from samedge.benchmarks.gpu_contenders import BASELINE, GpuContender, step_names
from samedge.benchmarks.gpu_results import GpuReport, cells, columns, latency_of, markdown, read_gpu_report
from samedge.benchmarks.torch_engine import TorchArray, TorchEngine, require_torch_device
from samedge.engines.cuda_checks import CHECKS
from samedge.engines.fake_cuda import FakeCuda
from samedge.engines.protocol import Engine
from samedge.errors import BackendUnavailableError, BenchmarkError, DeviceUnavailableError, EngineError, UsageError
from samedge.types import TensorSpec

torch = pytest.importorskip("torch")
TINY = "seeded:sam_vit_tiny"
F32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one rehearsal leaves."""
    folder = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [sys.executable, "-m", "samedge.benchmarks", "gpu", "--device", "cpu", "--model", TINY, "--rounds", "2",
         "--warm-ups", "0", "--prompts", "1,3", "--batches", "2", "--contenders",
         "torch eager,onnxruntime,tensorrt,tensorrt-rtx", "--output", str(folder)],
        capture_output=True, text=True, check=False,
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
    assert list(rows) == ["torch eager", "samedge, onnxruntime", "samedge, tensorrt", "samedge, tensorrt-rtx"]
    for name in ("torch eager", "samedge, onnxruntime"):
        row = rows[name]
        assert row.skipped == ""
        assert row.embedding_error is not None
        assert row.embedding_error < 1e-3
        assert row.mask_iou_worst is not None
        assert row.mask_iou_worst > 0.98
        steps = [step for step in report.steps if step != "context" or name != BASELINE]
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
    with pytest.raises(BenchmarkError, match="no report"):
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
    [
        (GpuSettings(contenders=("speed",)), "there is no contender 'speed'"),
        (GpuSettings(device="dla"), "no device 'dla'"),
    ],
)
def test_wrong_settings_are_named(settings: GpuSettings, message: str) -> None:
    with pytest.raises((UsageError, DeviceUnavailableError), match=message):
        run_gpu(settings, {})


# A fake GPU


class Made(Artefacts):
    """What was made before, in place of exports."""

    def bundle(self, source: str, *, precision: str = "fp32", calibrated: bool = False, form: str = "chunked") -> Path:
        return self.folder / "small"

    def encoder_input(self, image_size: int) -> Path:
        path = self.folder / "image.npy"
        np.save(path, np.random.default_rng(0).random((1, 3, image_size, image_size), np.float32))
        return path


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    bundle = write_small_bundle(tmp_path / "small")
    board = Board(bundle, tmp_path, cuda=SharedGpu())

    def opened(name: str, source: str, path: Path, device: str, batches: Sequence[int]) -> GpuContender:
        assert device == "cuda:0"
        if name != "tensorrt":
            raise BackendUnavailableError(f"no {name} here", cure="None")
        predictor = board.predictor()
        return GpuContender(name, predictor, board.engines["encoder"], predictor._graphs.decoder, 1)

    def given(device: str) -> FakeCuda:
        return board.cuda

    def passes(memory: Any) -> None:
        return None

    monkeypatch.setattr(gpu, "open_cuda", given)
    monkeypatch.setattr(gpu, "open_contender", opened)
    monkeypatch.setattr(gpu, "check_torch", passes)
    yield board
    board.close()


def test_engines_on_a_gpu_are_measured_and_give_everything_back(board: Board, tmp_path: Path) -> None:
    shown: list[GpuReport] = []
    settings = GpuSettings(contenders=("onnxruntime", "tensorrt"), rounds=1, warm_ups=1, prompts=(1, 3), batches=(2,))
    report = run_gpu(settings, {}, artefacts=Made(tmp_path), show=shown.append)
    skipped, row = report.contenders
    assert skipped.skipped == "no onnxruntime here. None"
    assert row.peak_bytes is not None
    assert row.peak_bytes > 0
    assert row.embedding_error is not None
    assert row.embedding_error < 1e-5
    assert row.mask_iou_worst == 1
    assert list(row.steps) == [step for step in step_names((1, 3), (2,)) if step != "encode x2"]
    assert row.notes == ("encode x2 is more than the engine takes",)
    assert row.steps["encode"].ratio is None  # torch is not among them
    assert len(shown) == 1 + 2 + len(row.steps)
    gc.collect()
    assert board.cuda.leaks() == []


def test_a_check_that_fails_is_said_and_the_others_go_on() -> None:
    class Broken(FakeCuda):
        def synchronise_all(self) -> None:
            raise EngineError("the GPU is gone", cure="Plug it in")

    results = list(run_checks(Broken(), lambda _: None))
    assert len(results) == len(CHECKS)
    assert {result.name for result in results if result.problem} == {
        "events between streams",
        "lending by DLPack",
    }


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
    with pytest.raises(BenchmarkError, match="sees no GPU"):
        require_torch_device("cuda:0")
