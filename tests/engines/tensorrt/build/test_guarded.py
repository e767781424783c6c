"""Builds in a child process: what they tell, and what happens when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import TESTS
from support.build_doubles import any_report

from samedge.engines.cuda.memory import Gpu
from samedge.engines.tensorrt.build import child as build_child
from samedge.engines.tensorrt.build.guarded import build_in_child
from samedge.engines.tensorrt.build.memory import DeviceMemory
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.errors import EngineError, SamedgeError, UsageError
from samedge.testing.cuda import FakeCuda


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"graph")
    return path


def run(graph: Path, builder: str, **others: object) -> BuildReport:
    return build_in_child(
        "tensorrt-rtx",
        graph,
        graph.parent / "out" / "graph.engine",
        BuildOptions(precision="fp16"),
        builder=f"support.build_doubles:{builder}",
        **others,  # type: ignore[arg-type]
    )


def left(graph: Path) -> list[str]:
    return sorted(path.name for path in (graph.parent / "out").iterdir())


def test_a_build_gives_its_plan_its_report_and_its_progress(graph: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[str, float]] = []
    report = run(
        graph, "works", progress=lambda step, share: steps.append((step, share)), axes={"x": ("n", 3), "y": ("n", 3)}
    )
    assert steps == [("Thinking", 0.25), ("Writing", 0.75)]
    assert left(graph) == ["graph.engine"]
    assert (graph.parent / "out" / "graph.engine").read_bytes() == b"plan of graph"
    assert report.plan_bytes == 13
    assert report.profiles == {"x": ((1, 3), (2, 3), (4, 3))}
    assert report.warnings == ("fp16", "{'x': ['n', 3], 'y': ['n', 3]}")
    assert capfd.readouterr() == ("", "")


def test_a_kill_by_the_system_is_an_error_with_the_cure_and_leaves_nothing(graph: Path) -> None:
    with pytest.raises(
        EngineError, match=r"graph.onnx: the system killed the build.*memory.*smaller profile"
    ) as caught:
        run(graph, "is_killed")
    assert caught.value.code == -signal.SIGKILL
    assert left(graph) == []


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("crashes", r"ended by SIGABRT \(free\(\): invalid pointer\)"),
        ("runs_out_of_memory", "ran out of memory.*add swap"),
        ("raises_theirs", r"ended with status 1 \(ZeroDivisionError: a bug\)"),
        ("no_such_function", "ended with status 1.*no_such_function"),
        ("writes_less_than_it_says", "reported a plan of 12 bytes but wrote 4"),
    ],
)
def test_every_end_is_explained_and_leaves_nothing(graph: Path, builder: str, message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        run(graph, builder)
    assert caught.value.cure
    assert left(graph) == []


def test_an_older_plan_survives_a_build_that_fails(graph: Path) -> None:
    run(graph, "works")
    with pytest.raises(EngineError):
        run(graph, "is_killed")
    assert (graph.parent / "out" / "graph.engine").read_bytes() == b"plan of graph"


def test_errors_of_ours_come_back_as_they_were(graph: Path) -> None:
    with pytest.raises(UsageError, match=r"^graph.onnx: too much. Take less$") as caught:
        run(graph, "raises_ours")
    assert caught.value.axis == "prompts"


def test_cancelling_kills_the_child(graph: Path) -> None:
    steps: list[str] = []
    started = time.monotonic()
    with pytest.raises(EngineError, match="cancelled"):
        run(graph, "never_ends", progress=lambda step, _share: steps.append(step), cancelled=lambda: bool(steps))
    assert time.monotonic() - started < 60
    assert gone(int(steps[0].removeprefix("pid ")))
    assert left(graph) == []


def test_an_exception_in_the_callback_kills_the_child(graph: Path) -> None:
    steps: list[str] = []

    def interrupt(step: str, _share: float) -> None:
        steps.append(step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(graph, "never_ends", progress=interrupt)
    assert gone(int(steps[0].removeprefix("pid ")))
    assert left(graph) == []


def test_the_child_ends_when_its_parent_is_killed(graph: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from samedge.engines.tensorrt.build.options import BuildOptions\n"
        "from samedge.engines.tensorrt.build.guarded import build_in_child\n"
        "build_in_child('tensorrt-rtx', Path(sys.argv[1]), Path(sys.argv[1] + '.engine'), BuildOptions(),\n"
        "    builder='support.build_doubles:never_ends', progress=lambda step, share: print(step, flush=True))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(graph)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline().removeprefix("pid "))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(child)


def test_a_missing_tensorrt_is_told_by_the_child(graph: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(SamedgeError, match="tensorrt"):
        build_in_child("tensorrt", graph, graph.parent / "out" / "graph.engine", BuildOptions())
    assert left(graph) == []


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" in status.read_text(encoding="ascii")
    except OSError:
        return True


def test_the_gpu_is_current_while_the_child_builds(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(gpu=Gpu(1, "Orin", "8.7", 8, 1000, integrated=True), memory_bytes=700)
    built: list[object] = []

    def build(*_: object, device: object, **__: object) -> tuple[memoryview, BuildReport]:
        if built == []:
            cuda.free_bytes()  # complains outside of the context
        built.append(device)
        return memoryview(b"plan"), any_report(b"plan")

    monkeypatch.setattr(build_child, "open_cuda", lambda device: cuda)
    monkeypatch.setattr(build_child, "build_plan", build)
    monkeypatch.setattr(build_child, "find_flavour", lambda name: None)
    request = {
        "flavour": "tensorrt",
        "graph": str(graph),
        "output": str(graph.with_suffix(".engine")),
        "options": BuildOptions().to_json(),
        "axes": {},
        "timing_cache": None,
    }
    build_child.build({**request, "device": "cuda:1"}, lambda _step, _share: None)
    build_child.build({**request, "device": {"free": 1, "total": 2, "shared": False}}, lambda _step, _share: None)
    build_child.build({**request, "device": None}, lambda _step, _share: None)
    assert built == [DeviceMemory(700, 1000, shared=True), DeviceMemory(1, 2), None]
    assert graph.with_suffix(".engine").read_bytes() == b"plan"
