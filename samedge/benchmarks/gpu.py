"""``python -m samedge.benchmarks gpu``: all that runs on a GPU, run on one, compared with the CPU and with torch.

Without a GPU, ``--device cpu`` rehearses the same on the host: the checks on the fake GPU, the contenders on the CPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import Final

import msgspec
import numpy as np

from samedge.benchmarks.agreement import largest_difference, mask_ious
from samedge.benchmarks.artefacts import PICTURES, Artefacts
from samedge.benchmarks.gpu_contenders import (
    BASELINE,
    CONTENDERS,
    GpuContender,
    Step,
    details_of,
    open_contender,
    shown_name,
    step_names,
    steps_of,
)
from samedge.benchmarks.gpu_results import SCHEMA, CheckResult, ContenderResult, GpuReport, latency_of
from samedge.benchmarks.measure import Contender, times_in_turn
from samedge.benchmarks.torch_engine import check_torch
from samedge.benchmarks.variants import points_of
from samedge.engines.cuda_checks import CHECKS, CudaCheck
from samedge.engines.cuda_memory import CudaMemory, open_cuda
from samedge.engines.fake_cuda import FakeCuda
from samedge.errors import SamedgeError, UsageError
from samedge.runtime.bundle import open_bundle
from samedge.runtime.load import load
from samedge.runtime.predictor import Predictor
from samedge.types import BoolArray, FloatArray

_CPU: Final = "cpu"
_WATCH_S: Final = 0.002
_PROMPTS: Final = 8


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """How to measure.

    Attributes:
        device: "cuda", "cuda:1", or "cpu" for a rehearsal.
        model: Path, known name, or "seeded:NAME".
        contenders: Some of `CONTENDERS`; none to check the memory layer only.
        prompts: Numbers of prompts of one point.
        batches: Numbers of images that are encoded at once.
        rounds: Rounds that count.
        warm_ups: Rounds before them that do not: graphs are captured and kernels chosen in the first ones.
        form: How global attention is laid out in the encoder.
    """

    device: str = "cuda"
    model: str = "seeded:sam_vit_b"
    contenders: tuple[str, ...] = CONTENDERS
    prompts: tuple[int, ...] = (1, 4, 16)
    batches: tuple[int, ...] = (2, 4)
    rounds: int = 50
    warm_ups: int = 5
    form: str = "mask"


@dataclass(slots=True)
class _Entry:
    contender: GpuContender
    result: ContenderResult
    steps: dict[str, Step] = field(default_factory=dict)


def run_gpu(
    settings: GpuSettings,
    machine: dict[str, str],
    *,
    artefacts: Artefacts | None = None,
    say: Callable[[str], None] = lambda _: None,
    show: Callable[[GpuReport], None] = lambda _: None,
) -> GpuReport:
    """Checks, opens, compares and times all contenders.

    Args:
        settings: How.
        machine: Facts for the report.
        artefacts: Makes and finds bundles; the user's if left out.
        say: Called with a sentence about what is being done.
        show: Called with what is there so far, after each part.

    Raises:
        UsageError: A setting means nothing.
        DeviceUnavailableError: There is no such GPU.
        MissingExtraError: The CUDA bindings are not installed.
        SamedgeError: The model cannot be exported, or does not run on the CPU.
    """
    unknown = [name for name in settings.contenders if name not in CONTENDERS]
    if unknown:
        raise UsageError(f"there is no contender {unknown[0]!r}", cure=f"Choose among: {', '.join(CONTENDERS)}")
    with _memory(settings.device) as memory:
        device = _CPU if settings.device == _CPU else f"cuda:{memory.gpu.index}"
        report = GpuReport(
            schema=SCHEMA,
            machine={**machine, "gpu": f"{memory.gpu}, {memory.gpu.memory_bytes / 1e9:.1f} GB, {memory.provider}"},
            settings={name: _text(value) for name, value in msgspec.to_builtins(settings).items()},
            baseline=BASELINE,
            steps=step_names(settings.prompts, settings.batches),
            checks=tuple(run_checks(memory, say)),
            contenders=(),
        )
        show(report)
        if not settings.contenders:
            return report
        made = artefacts or Artefacts(say=say)
        bundle = made.bundle(settings.model, form=settings.form)
        prepared: FloatArray = np.load(made.encoder_input(_image_size(bundle)))
        say("Masks on the CPU")
        with load(bundle, "onnxruntime", _CPU, force=True) as predictor:
            wanted = [_seen(predictor, picture) for picture in PICTURES]
        with ExitStack() as stack:
            entries: list[_Entry] = []
            for name in settings.contenders:
                say(f"Opening {name}")
                found = _open(name, settings, bundle, device, memory, prepared, wanted)
                if isinstance(found, _Entry):
                    stack.callback(found.contender.predictor.close)
                    entries.append(found)
                    found = found.result
                report = msgspec.structs.replace(report, contenders=(*report.contenders, found))
                show(report)
            for results in _timed(entries, settings, say):
                rows = tuple(results.get(row.name, row) for row in report.contenders)
                report = msgspec.structs.replace(report, contenders=rows)
                show(report)
            entries.clear()
    return report


def run_checks(memory: CudaMemory, say: Callable[[str], None]) -> Iterator[CheckResult]:
    """Yields what the checks of the memory layer say; that of torch on a real GPU only."""
    real = memory.provider != FakeCuda.provider
    for check in (*CHECKS, *((CudaCheck("torch on the same GPU", check_torch),) if real else ())):
        say(f"Checking {check.name}")
        try:
            check.run(memory)
        except SamedgeError as error:
            yield CheckResult(check.name, str(error))
        else:
            yield CheckResult(check.name)


@contextmanager
def _memory(device: str) -> Iterator[CudaMemory]:
    memory = FakeCuda() if device == _CPU else open_cuda(device)
    try:
        yield memory
    finally:
        memory.close()


def _image_size(bundle: Path) -> int:
    return open_bundle(bundle, force=True, verify=False).manifest.input.image_size


def _seen(predictor: Predictor, picture: Path) -> tuple[FloatArray, list[BoolArray]]:
    """The embedding of a picture, and the masks of some points on it."""
    predictor.set_image(picture)
    geometry = predictor.geometry
    points = points_of(_PROMPTS, 1000) * np.array([geometry.width, geometry.height], np.float32) / 1000
    return predictor.image_embedding, list(predictor.predict(points=points, multimask=True).masks)


def _open(
    name: str,
    settings: GpuSettings,
    bundle: Path,
    device: str,
    memory: CudaMemory,
    prepared: FloatArray,
    wanted: list[tuple[FloatArray, list[BoolArray]]],
) -> _Entry | ContenderResult:
    """Opens a contender, compares it with the CPU, and calls each of its steps once; or says why it cannot be had."""
    with ExitStack() as stack:
        try:
            with MemoryWatch(memory) as watch:
                start = perf_counter()
                contender = open_contender(name, settings.model, bundle, device, settings.batches)
                stack.callback(contender.predictor.close)
                open_s = perf_counter() - start
                found = [_seen(contender.predictor, picture) for picture in PICTURES]
                steps = steps_of(contender, prepared, PICTURES[0], settings.prompts, settings.batches)
                for step in steps:
                    step.call()
        except SamedgeError as error:
            return ContenderResult(name=shown_name(name), skipped=str(error))
        stack.pop_all()
    ious = [
        float(mask_ious([ours], [theirs])[0, 0])
        for (_, mine), (_, other) in zip(found, wanted, strict=True)
        for ours, theirs in zip(mine, other, strict=True)
    ]
    missing = [f"{step} is more than the engine takes" for step in step_names((), settings.batches)
               if step not in {step.name for step in steps}]  # fmt: skip
    result = ContenderResult(
        name=contender.name,
        details=dict(details_of(contender)),
        open_s=open_s,
        peak_bytes=None if device == _CPU else watch.peak,
        embedding_error=max(largest_difference(mine[0], other[0]) for mine, other in zip(found, wanted, strict=True)),
        mask_iou_mean=float(np.mean(ious)),
        mask_iou_worst=min(ious),
        notes=tuple(missing),
    )
    return _Entry(contender, result, {step.name: step for step in steps})


def _timed(
    entries: list[_Entry], settings: GpuSettings, say: Callable[[str], None]
) -> Iterator[dict[str, ContenderResult]]:
    """Yields all results after each step: contenders take turns at a step, so that a ratio is of one moment."""
    for name in step_names(settings.prompts, settings.batches):
        able = [entry for entry in entries if name in entry.steps]
        if not able:
            continue
        say(f"Timing {name}")
        contenders = [Contender(entry.contender.name, entry.steps[name].call) for entry in able]
        times = times_in_turn(contenders, settings.rounds, warm_ups=settings.warm_ups)
        seconds = {who: [wall for wall, _ in own] for who, own in times.items()}
        for entry in able:
            latency = latency_of(seconds[entry.contender.name], entry.steps[name].items, seconds.get(BASELINE))
            entry.result = msgspec.structs.replace(entry.result, steps={**entry.result.steps, name: latency})
        yield {entry.result.name: entry.result for entry in entries}


class MemoryWatch:
    """The most memory of the GPU that was taken inside a ``with`` block beyond what was taken before.

    Other programs count as well: measure on a GPU that is otherwise idle.

    Args:
        memory: The GPU.

    Attributes:
        peak: Bytes.
    """

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="samedge-memory", daemon=True)
        self._before = 0
        self.peak = 0

    def __enter__(self) -> MemoryWatch:
        gc.collect()
        self._before = self._free()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_S):
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, self._before - self._free())

    def _free(self) -> int:
        with self._memory.current():
            return self._memory.free_bytes()


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
