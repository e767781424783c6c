"""Settings and fixtures that all tests share."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from support import shared

# One thread a process, before torch is imported: the tests run in parallel, and threads that wait for each other on too
# few cores are many times slower than none.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing is measured to choose a backend: it would say little here, and would be kept in the user's cache.
os.environ["SAMEDGE_AUTO"] = "first"

# No deadlines: how long an example takes says nothing on a shared machine. No example database: runs are reproducible.
settings.register_profile("samedge", deadline=None, database=None, derandomize=True)
settings.load_profile("samedge")

_shared = shared.begin()
_begun: list[Path] = []

LONGEST = (
    "runtime/everything/test_fast.py",
    "export/test_exporter.py",
    "export/engines/test_compile_matrix.py",
    "test_formats.py",
    "benchmarks/test_command.py",
    "benchmarks/bench/test_whole.py",
    "runtime/everything/test_exact.py",
    "peers/test_ultralytics.py",
    "benchmarks/gpu/test_run.py",
    "export/precision/test_gpu.py",
    "export/precision/test_int8.py",
    "models/sam/test_sam.py",
    "export/engines/test_yolo.py",
    "cli/test_build.py",
    "cli/test_export.py",
    "export/yolo/test_suppression.py",
    "export/engines/test_build.py",
    "api/test_yolo.py",
    "export/yolo/test_tensorrt.py",
    "cli/test_demo.py",
    "peers/test_ultralytics_bench.py",
)
"""Modules that begin: a long one that comes last leaves the other worker idle. The rest follow as they are found."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """By now everything that tests need is imported, which no collection of garbage need look through."""
    shared.remember()
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Nor need it look again through what earlier modules left, such as what they imported."""
    if _begun[-1:] != [item.path]:
        _begun.append(item.path)
        shared.remember()
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    if _shared is not None:
        shutil.rmtree(_shared, ignore_errors=True)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SAMEDGE_CACHE", str(folder))
    return folder
