"""The runtime with the lowest versions that it declares: images are read, old bundles run, and the program starts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import hypothesis
import pytest
from support.environments import ROOT, Environment, environment

pytestmark = pytest.mark.integration

READING = (
    "tests/runtime/image/test_read.py", "tests/runtime/image/test_sources.py",
    "tests/runtime/image/test_value_range.py", "tests/runtime/prompts", "tests/storage", "tests/test_written_before.py",
)  # fmt: skip
TOOLS = (f"pytest=={pytest.__version__}", f"hypothesis=={hypothesis.__version__}")
OPENCV = ("4.9.0.80", "4.10.0.84", "4.11.0.86", "4.12.0.88", "4.13.0.90", "4.14.0.94")


@pytest.fixture(scope="module")
def lowest() -> Environment:
    return environment(
        "lowest", *TOOLS, options=("--resolution", "lowest-direct", "--extra", "cpu"), files=(ROOT / "pyproject.toml",)
    )


def run_suite(python: Environment, *tests: str) -> None:
    done = python.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_images_and_old_bundles_are_read(lowest: Environment) -> None:
    # A YOLO is judged against another backend, and there is one alone.
    run_suite(lowest, *READING, "--deselect", "tests/test_written_before.py::test_it_verifies[yolo]")


def test_the_program_runs(lowest: Environment, tmp_path: Path) -> None:
    with zipfile.ZipFile(ROOT / "tests" / "data" / "written-by-0.1.0.zip") as archive:
        archive.extractall(tmp_path)
    helped = lowest.run("-m", "samedge", "predict", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "--point" in helped.stdout
    image = ROOT / "samedge" / "assets" / "coffee.jpg"
    done = lowest.run(
        "-m", "samedge", "predict", tmp_path / "sam.samedge", image, "--point", "200,200", "--json",
        tmp_path / "out.json", SAMEDGE_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["images"]


@pytest.mark.parametrize(
    "package", [*(f"opencv-python-headless=={version}" for version in OPENCV), f"opencv-python=={OPENCV[1]}"]
)
def test_every_opencv_reads_images(package: str) -> None:
    needed = ("pillow", "msgspec", "filelock", "platformdirs", "typing-extensions", *TOOLS)
    numpy = "numpy<2" if package.endswith("==4.9.0.80") else "numpy"  # built for numpy 1, whatever it declares
    run_suite(environment(package.replace("==", "-"), package, numpy, *needed), *READING[:3])
