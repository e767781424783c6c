"""What is made once in a run of the tests, whatever the number of processes: bundles, traced and simplified graphs.

It lies in a folder that the first process of a run makes and removes. Nothing is kept from run to run.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from io import BytesIO
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
        if module is not None and name not in _remembered and not getattr(module.__spec__, "_initializing", False):
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
            name = f"operations-{sha256(repr(key).encode()).hexdigest()}.json"
            counted[key] = tuple(json.loads(made_once(name, lambda path: written(path, sam)).read_text()))
        known: tuple[float, float] = counted[key]
        return known

    def written(path: Path, sam: Any) -> None:
        path.write_text(json.dumps(count(sam)))

    describe["count_gflops"] = remembered


class _Contents(pickle.Pickler):
    """Writes what an object holds, the same in every process: tensors by their digests, sets in order."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self.fast = True  # no memory of what is the same object: equal objects are written alike
        self._tensors: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> Any:
        import torch

        if isinstance(obj, torch.Tensor):
            number = self._tensors.setdefault(obj.data_ptr(), len(self._tensors))  # weights may be shared
            data = obj.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return "tensor", number, str(obj.dtype), tuple(obj.shape), obj.stride(), sha256(data).hexdigest()
        if isinstance(obj, set | frozenset):
            return "set", sorted(map(repr, obj))
        return None


def _contents(*objects: object) -> str | None:
    """Return a digest of everything that these objects hold; None where they cannot be written."""
    file = BytesIO()
    try:
        _Contents(file).dump(objects)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
        return None
    return sha256(file.getvalue()).hexdigest()


def _remember_traces(torch_onnx: dict[str, Any]) -> None:
    """Tracing is the other half; its answers go from process to process too, while they are small."""
    export = torch_onnx["export"]

    def remembered(module: Any, example: Any, path: Any, **options: Any) -> Any:
        small = sum(value.nbytes for value in module.state_dict().values()) <= SMALL_BYTES
        asked = _contents(module, example, options) if small and isinstance(path, str) else None
        if asked is None:
            return export(module, example, path, **options)
        answer = made_once(f"trace-{asked}.onnx", lambda file: export(module, example, str(file), **options))
        shutil.copyfile(answer, path)
        return None

    torch_onnx["export"] = remembered


def _remember_references(torch_reference: dict[str, Any]) -> None:
    """What a model answers to the probes, in this process."""
    runner = torch_reference["TorchRunner"]
    create, embed, decode = runner.__init__, runner.embed, runner.decode
    answers: dict[Any, Any] = {}

    def created(self: Any, sam: Any, roles: Any) -> None:
        create(self, sam, roles)
        self.asked = _contents(sam, roles) if sam.image_size <= LARGEST_SIDE else None

    def embedded(self: Any, probe: Any) -> Any:
        self.probe = sha256(probe.image.tobytes()).hexdigest()
        key = self.asked, self.probe
        if self.asked is None or key not in answers:
            answer = embed(self, probe)
            if self.asked is None:
                return answer
            answers[key] = answer, self._embedding, self._geometry
        answer, self._embedding, self._geometry = answers[key]
        return answer

    def decoded(self: Any, prompt: Any) -> Any:
        asked = _contents(prompt)
        if self.asked is None or asked is None:
            return decode(self, prompt)
        key = self.asked, self.probe, asked
        if key not in answers:
            answers[key] = decode(self, prompt)
        return answers[key]

    runner.__init__, runner.embed, runner.decode = created, embedded, decoded


SMALL_BYTES: Final = 1 << 26
"""Larger models are traced anew each time."""

LARGEST_SIDE: Final = 512
"""Side of the input of models whose answers are remembered, px: of larger ones they would fill the memory."""

REMEMBERED: Final = {
    "onnxslim": _remember_simplified,
    "torch.onnx": _remember_traces,
    "samedge.export.torch_reference": _remember_references,
    "samedge.parity.probes": _remember_probes,
    "samedge.export.describe": _remember_operations,
}
"""By the module in which it stands."""
