"""Names of modules that users were shown before the modules moved."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import samedge.testing
from samedge import moved


@pytest.mark.parametrize("old", sorted(moved.MOVED))
def test_old_names_of_modules_warn_and_give_what_is_there_now(old: str) -> None:
    for name in [name for name in sys.modules if name == old or name.startswith(f"{old}.")]:
        del sys.modules[name]
    with pytest.warns(DeprecationWarning, match=rf"^{old} has moved to {moved.MOVED[old]}; "):
        module = importlib.import_module(old)
    home = importlib.import_module(moved.MOVED[old])
    for name in home.__dict__:
        if not name.startswith("__"):
            assert getattr(module, name) is getattr(home, name)
    assert importlib.util.find_spec(moved.MOVED[old]) is home.__spec__


@pytest.mark.parametrize("folder", sorted(moved.NAMES))
def test_modules_that_became_folders_still_give_their_names(folder: str) -> None:
    home, names = moved.NAMES[folder]
    module = importlib.import_module(folder)
    for name in names:
        with pytest.warns(DeprecationWarning, match=rf"^{folder}.{name} has moved to {home}.{name}; ") as caught:
            assert getattr(module, name) is getattr(importlib.import_module(home), name)
        assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


def test_what_the_pages_showed_is_imported_in_a_process_of_its_own(tmp_path: Path) -> None:
    code = """
from samedge.runtime.fake import fake_predictor
from samedge.benchmarks.table.options import BenchOptions
from samedge.benchmarks.table.records import read_bench
from samedge.benchmarks.table.session import run_bench
from samedge.benchmarks.profiling.profile_model import profile_model
from samedge.benchmarks.profiling.profile import Profile
from samedge.engines.fake_cuda import FakeCuda
from samedge.export.half import to_half
from samedge.runtime.load import load
from samedge.runtime.parity.verify import verify_bundle
from samedge.yolo import YOLO
from samedge.api import SAM
from samedge.sam_predictor import SAMPredictor
from samedge.runtime.results import Results
import samedge
assert (load, YOLO, SAM, SAMPredictor) == (samedge.load, samedge.YOLO, samedge.SAM, samedge.SAMPredictor)
assert (Results, verify_bundle) == (samedge.Results, samedge.verify_bundle)
"""
    (tmp_path / "shown.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning", str(tmp_path / "shown.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = {line.split(": ")[0] for line in done.stderr.splitlines() if "has moved to" in line}
    imports = [at for at, line in enumerate(code.splitlines(), 1) if line.startswith("from")]
    assert told == {f"{tmp_path / 'shown.py'}:{at}" for at in imports}


def test_names_that_never_were_stay_unknown() -> None:
    for name in ("samedge.nonsense", "samedge.runtime.nonsense"):
        with pytest.raises(ModuleNotFoundError, match=name):
            importlib.import_module(name)
    assert sum(type(finder).__module__ == moved.__name__ for finder in sys.meta_path) == 1


def test_doubles_are_found_in_one_place() -> None:
    assert {name: getattr(samedge.testing, name).__name__ for name in samedge.testing.__all__} == {
        name: name for name in samedge.testing.__all__
    }
    with pytest.raises(AttributeError, match="nonsense"):
        _ = samedge.testing.nonsense
