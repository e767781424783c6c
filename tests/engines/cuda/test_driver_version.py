"""The installed CUDA bindings, which are real, against a driver that only tells a version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samedge.engines.cuda.memory import old_driver

SOURCE = Path(__file__).with_name("libcuda_stub.c")
PROGRAM = """
from samedge.engines.cuda.cuda_python import CudaPythonMemory
from samedge.errors import SamedgeError
try:
    CudaPythonMemory(0)
except SamedgeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libcuda.so.1 that tells the version in $STUB_CUDA_DRIVER, and that there is no GPU."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) here")
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings are not installed")
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", SOURCE], check=True)
    return folder


def said_with(stub: Path, driver: int) -> str:
    own = {**os.environ, "LD_LIBRARY_PATH": str(stub), "STUB_CUDA_DRIVER": str(driver)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=own, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_driver_of_jetpack_6_is_told_the_right_pin(stub: Path) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    bindings = int(runtime.cudaRuntimeGetVersion()[1])
    if bindings < 13000:
        pytest.skip("cuda-bindings 12 take drivers of CUDA 12")
    said = said_with(stub, 12060)
    assert f"are for CUDA {bindings // 1000}.{bindings % 1000 // 10}, and this driver is for CUDA 12.6" in said
    assert "pip install 'cuda-bindings>=12.8,<13'" in said


def test_an_older_driver_is_to_be_updated(stub: Path) -> None:
    assert "Update NVIDIA's driver" in said_with(stub, 11040)


def test_a_new_driver_without_a_gpu_is_said_as_such(stub: Path) -> None:
    assert "driver" not in said_with(stub, 13050).split(".")[0]


@pytest.mark.parametrize(
    ("driver", "runtime", "cure"),
    [(12020, 13000, "cuda-bindings>=12.8,<13"), (11080, 12060, "Update NVIDIA's driver"), (0, 13000, "nvidia-smi")],
)
def test_cures(driver: int, runtime: int, cure: str) -> None:
    assert cure in str(old_driver(driver, runtime))
