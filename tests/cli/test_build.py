"""``samedge build`` and ``samedge export --format trt``: the paths on stdout, the rest on stderr, errors in a line."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
from support.boards import Board, overflown
from support.exported import TINY, exported_bundle
from support.program import Program

from samedge.bundle.archive import bundle_manifest
from samedge.engines.tensorrt.build import guarded as guarded_build
from samedge.engines.tensorrt.store import builds as stored_builds
from samedge.engines.tensorrt.store.store import EngineStore


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_bundle(tmp_path_factory.mktemp("exported") / "tiny")


def test_engines_are_built_without_a_gpu_and_said_to_be_unchecked(program: Program, bundle: Path, cache: Path) -> None:
    """The real builder of TensorRT for RTX, and the real float16."""
    pytest.importorskip("tensorrt_rtx")
    done = program("build", bundle, "--flavour", "rtx", "--targets", "8.6", "--prompts", "1/4/8")
    folder = bundle.with_name("tiny-engines")
    names = ["encoder.tensorrt-rtx.sm86.engine", "decoder.tensorrt-rtx.sm86.engine"]
    assert (done.status, done.out.splitlines()) == (0, [str(folder / name) for name in names])
    assert "Building the encoder (fp16)" in done.err
    assert "for sm86: encoder fp16, decoder fp16; masks unchecked" in done.err
    assert "will be checked on the device" in done.err
    assert "parity" not in done.err
    assert not list((cache / "rungs").glob("rung-*"))

    again = program("build", bundle, "--flavour", "rtx", "--targets", "8.6", "--prompts", "1/4/8")
    assert (again.out, "Building" in again.err) == (done.out, False)

    shown = json.loads(program("info", folder / names[1], "--json").out)
    assert (shown["producer"], shown["part"], shown["flavour"]) == ("samedge", "decoder", "tensorrt-rtx")
    assert shown["inputs"]["point_labels"] == {"dtype": "int32", "shape": ["prompts", "points"]}
    assert shown["key"]["profiles"] == {"prompts": "1/4/8", "points": "2/3/16"}
    assert shown["notes"]["samedge"]["parity"]["verdict"] == "unchecked"
    text = program("info", folder / names[0]).out
    assert "image_embeddings" in text
    assert ", encoder" in text

    text = program("info", bundle).out
    assert "tensorrt-rtx 1." in text
    assert "sm86" in text
    assert "unchecked" in text

    failed = program("engines", "why", folder / names[0])
    assert failed.status == 1
    assert "there is no GPU here, or no driver for it" in failed.err
    assert "samedge build BUNDLE" not in failed.err  # which would not help


WITHOUT = textwrap.dedent(
    """
    import sys
    for name in sys.argv[1].split(","):
        sys.modules[name] = None  # as where it is not installed
    from samedge.cli.app import run
    sys.exit(run(sys.argv[2:]))
    """
)


def build_without(missing: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, missing, "build", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_board_without_torch_builds(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    done = build_without("torch,onnxslim,onnxruntime", bundle, "--targets", "8.6", "-o", tmp_path / "out")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr


def test_a_board_without_onnx_builds_float32_only(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    done = build_without("torch,onnx", bundle, "--targets", "8.6", "-o", tmp_path / "out")
    assert done.stderr.splitlines()[-1] == (
        "error: writing float16 into the graphs needs the package 'onnx', which is not installed. "
        "Install it with: pip install onnx, which needs no torch; or build with --precision fp32"
    )
    options = ("--targets", "8.6", "--precision", "fp32", "--prompts", "1/2/4", "--optimisation-level", "0")
    done = build_without("torch,onnx", bundle, *options, "-o", tmp_path / "out")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr
    assert "encoder fp32, decoder fp32; masks unchecked" in done.stderr


def test_two_processes_that_build_at_once_build_once(bundle: Path, tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = ("--targets", "8.6", "--precision", "fp32", "--prompts", "1/2/4", "--optimisation-level", "0")
    command = [sys.executable, "-c", WITHOUT, "torch", "build", str(bundle), *options, "-o"]
    both = [
        subprocess.Popen([*command, str(tmp_path / name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    done = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], done
    assert len(EngineStore().entries()) == 2
    assert {path.suffix for path in (cache / "engines").iterdir()} == {".engine", ".json", ".lock"}
    for role in ("encoder", "decoder"):
        one, two = (next((tmp_path / name).glob(f"{role}.*.engine")) for name in ("one", "two"))
        assert one.samefile(two)


def test_the_verdict_is_on_stderr_and_what_was_tried(
    program: Program, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch)
    board.wrong = {("encoder", "fp16"): overflown}
    board.serve(bundle)
    done = program("build", bundle, "-o", tmp_path / "out", "--optimization-level", "5", "--workspace", "0.25")
    assert done.status == 0
    assert [Path(line).parent for line in done.out.splitlines()] == [tmp_path / "out"] * 2
    assert "parity: passed (fake cuda:0)" in done.err
    assert "TensorRT 10.3.0.26 on Orin (nvgpu)" in done.err
    assert "encoder fp16-norms, decoder fp16; masks passed" in done.err
    assert "tried fp16: failed, mask IoU" in done.err
    assert (board.options[0].optimisation_level, board.options[0].workspace_share) == (5, 0.25)


def test_engines_that_failed_are_a_failed_command(
    program: Program, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(monkeypatch)
    board.wrong = {("encoder", "fp32"): overflown}
    done = program("build", board.serve(bundle), "-o", tmp_path / "out", "--precision", "fp32")
    assert done.status == 1
    assert len(done.out.splitlines()) == 2
    last = done.err.splitlines()[-1]
    assert last.startswith(f"error: {bundle}: the engines do not reproduce the checkpoint's masks in any precision.")


def test_a_build_that_the_system_kills_is_one_line_with_the_cure(
    program: Program, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real child that is really killed."""
    board = Board(monkeypatch, "rtx", None)
    board.serve(bundle)
    killed = partial(guarded_build.build_in_child, builder="support.build_doubles:is_killed")
    monkeypatch.setattr(stored_builds, "build_in_child", killed)
    done = program("build", bundle, "-o", tmp_path / "out")
    assert (done.status, done.out) == (1, "")
    graph = bundle_manifest(bundle).graph("encoder").graph.file
    assert done.err.splitlines()[-1] == (
        f"error: {graph}: the system killed the build, most likely for lack of memory. Close other programs, "
        "add swap, allow fewer prompts with a smaller profile, lower the optimisation level, or build on a machine "
        "with more memory"
    )
    assert "Traceback" not in done.err
    assert EngineStore().entries() == []
    assert not (tmp_path / "out").exists()


def test_a_build_for_which_the_memory_is_not_enough_is_refused(
    program: Program, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the real child, which reads how much is free."""
    board = Board(monkeypatch, "rtx", None)
    board.serve(bundle)
    monkeypatch.setattr(
        stored_builds,
        "build_in_child",
        partial(guarded_build.build_in_child, builder="support.build_doubles:checks_memory_of_a_small_board"),
    )
    done = program("build", bundle, "-o", tmp_path / "out")
    assert done.status == 1
    assert "building this engine needs about" in done.err.splitlines()[-1]
    assert "add swap" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flavour", "tflite"], "--flavour: unknown flavour 'tflite'. Choose one of: auto, trt, rtx"),
        (["--flavour", "rtx"], "tensorrt_rtx is not installed. Install it with: pip install 'samedge[rtx]'"),
        (["--prompts", "1-64"], "--prompts: invalid range '1-64'. Give minimum/optimum/maximum, such as 1/16/64"),
        (["--targets", "8.6"], "builds for the local GPU only and accepts no targets"),
        (["--hardware-compatibility", "all"], "invalid hardware_compatibility 'all'. Choose one of: none, ampere_plus"),
        (["--precision", "fp8"], "the bundle's encoder is fp32, not fp8"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    program: Program, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    Board(monkeypatch).serve(bundle)
    done = program("build", bundle, "-o", tmp_path / "out", *arguments)
    assert (done.status, done.out) == (1, "")
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_something_that_is_no_bundle(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Board(monkeypatch)
    (tmp_path / "x.engine").write_bytes(b"ftrt")
    assert "this is a single TensorRT engine" in program("build", tmp_path / "x.engine").err
    assert "there is no such bundle" in program("build", tmp_path / "none").err
    assert "Export it first: samedge export sam_b.pt" in program("build", "sam_b.pt").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "rtx"], "tensorrt_rtx is not installed. Install it with: pip install 'samedge[rtx]'"),
        (["--format", "trt", "--io", "meta"], "--io: engines are built from native bundles"),
        (["--format", "trt", "--precision", "int8"], "Add --calib IMAGES"),
        (["--format", "trt", "--precision", "fp4"], "unknown precision 'fp4'"),
        (["--format", "onnx", "--targets", "8.6"], "--targets: this option is for engines. Add --format trt or rtx"),
        (["--prompts", "1/2/4"], "--prompts: this option is for engines. Add --format trt or rtx"),
        (["--device", "cuda:1"], "--device: this option is for engines. Add --format trt or rtx"),
        (["--format", "trt", "--points", "4/2/1"], "invalid profile 4/2/1"),
        (["--format", "trt", "--workspace", "2"], "invalid workspace_share 2.0"),
        (["--format", "trt", "--optimisation-level", "9"], "invalid optimisation_level 9"),
    ],
)
def test_what_stops_the_build_is_said_before_the_export(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    Board(monkeypatch)
    done = program("export", TINY, "-o", tmp_path / "out", *arguments)
    assert (done.status, done.out) == (1, "")
    assert message in done.err
    assert "Reading the checkpoint" not in done.err
    assert not (tmp_path / "out").exists()


def test_format_trt_without_tensorrt_says_what_to_install(program: Program, tmp_path: Path) -> None:
    """As on any PC that has neither."""
    done = program("export", TINY, "--format", "trt", "-o", tmp_path / "out")
    assert (done.status, done.out) == (1, "")
    assert "pip install 'samedge[trt]'; without an NVIDIA GPU here, build with format 'rtx' instead" in done.err
    assert not (tmp_path / "out").exists()


def test_export_and_engines_in_one_command(program: Program, tmp_path: Path) -> None:
    """The real exporter, and the real builder of TensorRT for RTX."""
    pytest.importorskip("tensorrt_rtx")
    target = tmp_path / "tiny"
    done = program("export", TINY, "--format", "rtx", "--targets", "8.6", "--no-check", "-o", target,
                   "--prompts", "1/2/4", "--points", "2/2/4", "--optimisation-level", "2")  # fmt: skip
    assert (done.status, done.out) == (0, f"{target}\n")
    (decoder,) = (tmp_path / "tiny-engines").glob("decoder.*.engine")
    key = json.loads(program("info", decoder, "--json").out)["key"]
    assert key["profiles"] == {"prompts": "1/2/4", "points": "2/2/4"}
    assert key["settings"]["optimisation_level"] == 2
    encoder = bundle_manifest(target).graph("encoder")
    assert (encoder.precision, encoder.variant) == ("fp32", "mask")
    assert len(list((tmp_path / "tiny-engines").glob("*.tensorrt-rtx.sm86.engine"))) == 2
    assert "masks unchecked" in done.err
    assert "chunked" not in done.err
