"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# One thread a process, before torch is imported: the tests run in parallel, and threads that wait for each other on too
# few cores are many times slower than none.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing is measured to choose a backend: it would say little here, and would be kept in the user's cache.
os.environ["SAMEDGE_AUTO"] = "first"

# No deadlines: how long an example takes says nothing on a shared machine. No example database: runs are reproducible.
settings.register_profile("samedge", deadline=None, database=None, derandomize=True)
settings.load_profile("samedge")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SAMEDGE_CACHE", str(folder))
    return folder
