"""What is made once in a run of the tests, whatever the number of processes: bundles, and answers of the simplifier.

It lies in a folder that the first process of a run makes and removes. Nothing is kept from run to run.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

VARIABLE: Final = "SAMEDGE_TESTS_SHARED"

_remembered: set[str] = set()


def begin() -> Path | None:
    """Make the folder unless a process above has; return it where this process is to remove it."""
    if VARIABLE in os.environ:
        return None
    folder = Path(tempfile.mkdtemp(prefix="samedge-tests-"))
    os.environ[VARIABLE] = str(folder)
    return folder


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return what `make` writes to the path that it is given: the first caller's, which no caller may change.

    Args:
        name: Its path in the folder of the run, of two parts at most.
        make: Writes a file or a folder.
    """
    path = Path(os.environ[VARIABLE]) / name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        with FileLock(f"{path}.lock"):
            if not path.exists():
                unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=".tmp-")) / path.name
                make(unfinished)
                unfinished.rename(path)
                shutil.rmtree(unfinished.parent)
    return path


def environment() -> dict[str, str]:
    """Return the environment for a child process that exports: it remembers what this one does."""
    tests = Path(__file__).parents[1]
    path = [str(tests / "support" / "child"), str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def remember() -> None:
    """Let functions whose answers depend on their arguments alone answer once: they are most of a small export."""
    for name, patch in REMEMBERED.items():
        module = sys.modules.get(name)
        if module is not None and name not in _remembered:
            _remembered.add(name)
            patch(vars(module))


def _remember_simplified(onnxslim: dict[str, Any]) -> None:
    """Half of the time is spent in the simplifier; its answers go from process to process."""
    import onnx

    slim = onnxslim["slim"]

    def remembered(model: onnx.ModelProto) -> onnx.ModelProto:
        asked = model.SerializeToString(deterministic=True)
        answer = made_once(f"{sha256(asked).hexdigest()}.onnx", lambda path: onnx.save(slim(model), path))
        return onnx.load(answer)

    onnxslim["slim"] = remembered


def _remember_probes(probes: dict[str, Any]) -> None:
    draw = probes["_draw"]

    @cache
    def remembered(height: int, width: int, seed: int) -> Any:
        image = draw(height, width, seed)
        image.setflags(write=False)
        return image

    probes["_draw"] = remembered


def _remember_operations(describe: dict[str, Any]) -> None:
    """Counted from shapes alone, which are those of the weights and of the image."""
    count, counted = describe["count_gflops"], {}

    def remembered(sam: Any) -> tuple[float, float]:
        key = (sam.image_size, str(sam), *((name, value.shape) for name, value in sam.state_dict().items()))
        if key not in counted:
            counted[key] = count(sam)
        known: tuple[float, float] = counted[key]
        return known

    describe["count_gflops"] = remembered


REMEMBERED: Final = {
    "onnxslim": _remember_simplified,
    "samedge.parity.probes": _remember_probes,
    "samedge.export.describe": _remember_operations,
}
"""By the module in which it stands."""
