"""The program as a whole: help, version, statuses, and what it does when it is interrupted or cannot write."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from support.bundles import write_any_bundle, write_small_bundle
from support.program import Program
from support.shared import environment
from typer.testing import CliRunner

import samedge
from samedge.cli import app as module
from samedge.cli.app import app, main
from samedge.errors import BundleError

COMMANDS = ("export", "predict", "info", "demo")
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and /dev/full")


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    """Starts the program as a process of its own."""
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "samedge", *map(str, arguments)], text=True, **streams)


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"^\W*{command}\b", shown.output, re.MULTILINE)
        own = CliRunner().invoke(app, [command, "-h"])
        assert own.exit_code == 0
        assert "--help" in own.output


def test_help_of_predict_says_what_belongs_together() -> None:
    shown = " ".join(CliRunner().invoke(app, ["predict", "--help"], env={"COLUMNS": "200"}).output.split())
    assert "All points of one command describe one object" in shown
    assert "--each-point" in shown


def test_version(program: Program) -> None:
    assert program("--version").out == f"samedge {samedge.__version__}\n"


def test_no_command_shows_the_help_and_is_wrong_usage(program: Program) -> None:
    done = program()
    assert done.status == 2
    assert "Usage: samedge" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["predict", "--nonsense"], "No such option: --nonsense"),
        (["predict"], "Missing argument"),
        (["export", "x.pt", "--opset", "new"], "Invalid value for '--opset'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(program: Program, arguments: list[str], message: str) -> None:
    done = program(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}")
    assert done.err.endswith("See samedge --help\n")
    assert done.err.count("\n") == 1


def test_errors_are_not_wrapped_and_not_read_as_markup(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "a [bold]very[/bold] " + "long " * 40 + "name.pt"
    done = program("info", name)
    assert done.status == 1
    assert done.err.startswith(f"error: {name}: there is no such file")
    assert done.err.count("\n") == 1


def test_main_exits_with_the_status() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["info", "no_such.pt"])
    assert caught.value.code == 1


def failing_app(error: BaseException) -> typer.Typer:
    """A program of one command that raises."""
    failing = typer.Typer(pretty_exceptions_enable=False)

    @failing.command()
    def fail() -> None:
        raise error

    return failing


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (BundleError("it is\nbroken", where="x", cure="Mend it"), 1, "error: x: it is broken. Mend it\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (typer.Abort(), 130, "error: interrupted\n"),
        (typer.Exit(7), 7, ""),
    ],
)
def test_statuses(
    program: Program, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, line: str
) -> None:
    monkeypatch.setattr(module, "app", failing_app(error))
    done = program()
    assert (done.status, done.err.lstrip("\n")) == (status, line)


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(2, "a bug", "name"), OSError(5, "a bug")])
def test_bugs_keep_their_traceback(program: Program, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(module, "app", failing_app(error))
    with pytest.raises(type(error), match="a bug"):
        program()


class TestProcesses:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        return write_any_bundle(tmp_path / "any-samedge")

    def test_module_and_script_are_the_same_program(self) -> None:
        script = shutil.which("samedge", path=str(Path(sys.executable).parent))
        assert script is not None
        commands = ([sys.executable, "-m", "samedge", "--help"], [script, "--help"])
        shown = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]
        assert shown[0] == shown[1]
        assert "Usage: samedge" in shown[0]

    def test_a_bundle_is_run_without_torch(self, tmp_path: Path, photo: Path) -> None:
        bundle = write_small_bundle(tmp_path / "small-samedge")
        script = """
import sys
for name in ("torch", "onnx", "onnxslim", "safetensors"):
    sys.modules[name] = None
from samedge.cli.app import main
main()
"""
        for arguments in (["info", bundle], ["predict", bundle, photo, "--point", "100,50", "--json", "-"]):
            done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
        assert len(json.loads(done.stdout)["images"]) == 1

    def test_errors_of_a_process(self) -> None:
        process = start("info", "no_such.pt")
        out, err = process.communicate()
        assert (process.returncode, out) == (1, "")
        assert err.startswith("error: no_such.pt: there is no such file")
        assert "Traceback" not in err

    @POSIX
    def test_an_interrupt_is_one_line_and_leaves_no_bundle(self, tmp_path: Path) -> None:
        process = start("export", "seeded:sam_vit_tiny", "-o", tmp_path / "bundle", env=environment())
        assert process.stderr is not None
        for line in process.stderr:
            if "Writing the encoder" in line:
                break
        out = err = ""
        for _ in range(20):  # Python drops an interrupt that comes while it frees an object: then press again
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=2)
                break
        # Python ends by the signal itself if that came while exec() ran; a shell shows 130 for both.
        assert process.returncode in (130, -signal.SIGINT)
        assert out == ""
        assert err.splitlines()[-1] == "error: interrupted"
        assert "Traceback" not in err
        assert list(tmp_path.iterdir()) == []

    @POSIX
    @pytest.mark.parametrize("arguments", [["info", "{}", "--json"], ["info", "{}"], ["--version"], ["--help"]])
    def test_a_full_disk_under_stdout(self, bundle: Path, arguments: list[str]) -> None:
        with Path("/dev/full").open("w") as full:
            process = start(*(argument.format(bundle) for argument in arguments), stdout=full)
            _, err = process.communicate()
        message = "error: stdout: cannot write: No space left on device. Free some space on the disk\n"
        assert (process.returncode, err) == (1, message)

    @POSIX
    def test_a_reader_that_goes_away(self, bundle: Path) -> None:
        read, write = os.pipe()
        os.close(read)
        process = start("info", bundle, "--json", stdout=write)
        os.close(write)
        _, err = process.communicate()
        assert (process.returncode, err) == (1, "")

    @pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
    def test_file_names_of_any_bytes(self, tmp_path: Path, photo: Path) -> None:
        bundle = write_small_bundle(tmp_path / "small-samedge")
        folder = os.fsencode(tmp_path)
        odd, overlay = folder + b"/odd\xff.png", folder + b"/seen\xff.png"
        Path(os.fsdecode(odd)).write_bytes(photo.read_bytes())
        command: list[str | bytes] = [sys.executable, "-m", "samedge", "predict", str(bundle), odd]
        command += ["--point", "9,9", "--save", overlay]
        done = subprocess.run(command, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"odd\xff.png" in done.stdout
        assert Path(os.fsdecode(overlay)).is_file()
        broken = subprocess.run([*command[:-1], folder + b"/seen.\xff"], capture_output=True)
        assert broken.returncode == 1
        assert b"unknown image format" in broken.stderr

    def test_a_terminal_of_few_characters(self, bundle: Path) -> None:
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        process = start("info", bundle, env=environment)
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        assert "Apache-2.0" in out
