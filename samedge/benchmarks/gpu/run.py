"""``python -m samedge.benchmarks gpu``: every GPU backend, compared with the CPU and with torch.

Engines are built like those of ``samedge build``, including ladder and probes. A contender that is unavailable or fails
affects only its own row. Without a GPU, ``--device cpu`` rehearses the run on the host: the checks on the fake GPU, the
contenders on the CPU.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import Final

import numpy as np
from msgspec.structs import replace

from samedge.api.load import load
from samedge.benchmarks.gpu.behaviours import predictor_problems
from samedge.benchmarks.gpu.contenders import (
    BASELINE,
    CONTENDERS,
    BundleOf,
    GpuContender,
    Ready,
    Step,
    first_calls,
    open_contender,
    ready_contender,
    sample_outputs,
    shown_name,
    step_names,
)
from samedge.benchmarks.gpu.cuda_checks import CHECKS, CudaCheck
from samedge.benchmarks.gpu.results import SCHEMA, CheckResult, ContenderResult, GpuReport, latency_of
from samedge.benchmarks.gpu.torch_engine import check_torch, require_torch_device
from samedge.benchmarks.measure.agreement import largest_difference, mask_ious
from samedge.benchmarks.measure.artefacts import IMAGES, Artefacts
from samedge.benchmarks.measure.child import call_in_child, foreign_failures
from samedge.benchmarks.measure.facts import settings_text
from samedge.benchmarks.measure.rounds import Contender, times_in_turn
from samedge.bundle.archive import is_bundle
from samedge.engines.cuda.memory import CudaMemory
from samedge.engines.cuda.providers import open_cuda
from samedge.errors import SamedgeError, UsageError
from samedge.runtime.image.read import as_bgr
from samedge.runtime.predictor import Predictor
from samedge.testing.cuda import FakeCuda
from samedge.types import BoolArray, FloatArray, Precision

_CPU: Final = "cpu"
_WATCH_S: Final = 0.002
LEAST_IOU: Final = 0.98
"""Mean IoU with the CPU's masks below which the difference is not rounding."""


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """Settings of the measurement.

    Attributes:
        device: "cuda", "cuda:1", or "cpu" for a rehearsal.
        model: Path, known name, or "seeded:NAME"; or a bundle, which needs no torch.
        contenders: Some of `CONTENDERS`; none to check the memory layer only.
        prompts: Numbers of single-point prompts.
        batches: Batch sizes of the encoder.
        warm_ups: Warm-up rounds, in which graphs are captured and kernels chosen.
        form: Form of global attention in the encoder.
        trial: First call each contender once in a child process: a crash there becomes a row of the report instead of
            ending the run.
    """

    device: str = "cuda"
    model: str = "seeded:sam_vit_b"
    contenders: tuple[str, ...] = CONTENDERS
    prompts: tuple[int, ...] = (1, 4, 16)
    batches: tuple[int, ...] = (2, 4)
    rounds: int = 50
    warm_ups: int = 5
    form: str = "mask"
    trial: bool = True


@dataclass(slots=True)
class _Entry:
    contender: GpuContender
    result: ContenderResult
    steps: dict[str, Step]


@dataclass(frozen=True, slots=True)
class _Context:
    """Everything that the contenders share.

    Attributes:
        prepared: The encoder's input, float32 ``[1, 3, S, S]``.
        image: The same input as a file, for child processes.
        wanted: Embedding and masks of each image on the CPU.
    """

    settings: GpuSettings
    bundle_of: BundleOf
    device: str
    memory: CudaMemory
    prepared: FloatArray
    image: Path
    wanted: list[tuple[FloatArray, list[BoolArray]]]
    say: Callable[[str], None]


def run_gpu(
    settings: GpuSettings,
    machine: dict[str, str],
    *,
    artefacts: Artefacts | None = None,
    say: Callable[[str], None] = lambda _: None,
    show: Callable[[GpuReport], None] = lambda _: None,
) -> GpuReport:
    """Check, open, compare and time all contenders; `show` is called with the report so far after each part.

    Raises:
        UsageError: A setting is invalid.
        DeviceUnavailableError: There is no such GPU.
        MissingExtraError: The CUDA bindings are not installed.
        SamedgeError: The model cannot be exported, or does not run on the CPU. Failures of a single contender are in
            the report instead.
    """
    unknown = [name for name in settings.contenders if name not in CONTENDERS]
    if unknown:
        raise UsageError(f"unknown contender {unknown[0]!r}", cure=f"Choose from: {', '.join(CONTENDERS)}")
    with closing(FakeCuda() if settings.device == _CPU else open_cuda(settings.device)) as memory:
        device = _CPU if settings.device == _CPU else f"cuda:{memory.gpu.index}"
        report = GpuReport(
            schema=SCHEMA,
            machine={**machine, "gpu": f"{memory.gpu}, {memory.gpu.memory_bytes / 1e9:.1f} GB, {memory.provider}"},
            settings=settings_text(settings),
            baseline=BASELINE,
            steps=step_names(settings.prompts, settings.batches),
            checks=tuple(run_checks(memory, say)),
            contenders=(),
        )
        show(report)
        if not settings.contenders:
            return report
        bundle_of = partial(_bundle, settings, artefacts or Artefacts(say=say))
        say("Computing the masks on the CPU")
        with load(bundle_of(), "onnxruntime", _CPU, force=True, kind="sam") as predictor:
            wanted = [sample_outputs(predictor, image) for image in IMAGES]
            prepared = _prepared(predictor, IMAGES[0])
        with ExitStack() as stack:
            image = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="samedge-gpu-"))) / "image.npy"
            np.save(image, prepared)
            context = _Context(settings, bundle_of, device, memory, prepared, image, wanted, say)
            entries: list[_Entry] = []
            for name in settings.contenders:
                say(f"Opening {name}")
                opened = _open(name, context)
                if isinstance(opened, _Entry):
                    stack.callback(_close, opened.contender, say)
                    entries.append(opened)
                    opened = opened.result
                report = replace(report, contenders=(*report.contenders, opened))
                show(report)
            for results in _timed(entries, settings, say):
                rows = tuple(results.get(row.name, row) for row in report.contenders)
                report = replace(report, contenders=rows)
                show(report)
            entries.clear()
    return report


def run_checks(memory: CudaMemory, say: Callable[[str], None]) -> Iterator[CheckResult]:
    """Yield the results of the memory layer's checks, including that of torch if it has the GPU."""
    for check in (*CHECKS, *_torch_checks(memory, say)):
        say(f"Checking {check.name}")
        try:
            with foreign_failures(check.name):
                check.run(memory)
        except SamedgeError as error:
            yield CheckResult(check.name, str(error))
        else:
            yield CheckResult(check.name)


def _torch_checks(memory: CudaMemory, say: Callable[[str], None]) -> tuple[CudaCheck, ...]:
    """Return the check of torch on the same GPU; none for the fake GPU, or without torch."""
    if memory.provider == FakeCuda.provider:
        return ()
    try:
        require_torch_device(f"cuda:{memory.gpu.index}")
    except SamedgeError as error:
        say(f"Not checking torch on the same GPU: {error.what}")
        return ()
    return (CudaCheck("torch on the same GPU", check_torch),)


class MemoryWatch:
    """Peak GPU memory, in bytes, allocated inside a ``with`` block above the level at its start.

    Memory of other programs counts too: measure on an otherwise idle GPU.
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
        self._sample()

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_S):
            self._sample()

    def _sample(self) -> None:
        self.peak = max(self.peak, self._before - self._free())

    def _free(self) -> int:
        with self._memory.current():
            return self._memory.free_bytes()


def _bundle(settings: GpuSettings, artefacts: Artefacts, precision: Precision = "fp32") -> Path:
    """Return the bundle; in float32 it holds the checkpoint's outputs, by which engines are judged."""
    if not is_bundle(settings.model):
        return artefacts.bundle(settings.model, precision=precision, form=settings.form, checked=precision == "fp32")
    if precision != "fp32":
        raise UsageError(f"a bundle cannot be converted to {precision}", cure="Give the checkpoint as --model")
    return Path(settings.model)


def _prepared(predictor: Predictor, image: Path) -> FloatArray:
    bgr = as_bgr(image)
    return predictor.graphs.prepare(bgr, predictor.graphs.geometry(*bgr.shape[:2]))


def _close(contender: GpuContender, say: Callable[[str], None]) -> None:
    """Close a contender; a failure to do so, because the GPU has failed, costs no result."""
    try:
        with foreign_failures(contender.name):
            contender.close()
    except SamedgeError as error:
        say(f"Closing {contender.name}: {error}")


def _open(name: str, context: _Context) -> _Entry | ContenderResult:
    """Open a contender, call each of its steps once, and compare it with the CPU; or return the reason to skip it."""
    settings, memory = context.settings, context.memory
    with ExitStack() as stack:
        try:
            with foreign_failures(name):
                ready = ready_contender(
                    name, settings.model, context.bundle_of, context.device, settings.batches, context.say
                )
                if settings.trial:
                    _try(ready, context)
                with MemoryWatch(memory) as watch:
                    start = perf_counter()
                    contender = open_contender(ready)
                    stack.callback(_close, contender, context.say)
                    open_s = perf_counter() - start
                    outputs, steps = first_calls(contender, context.prepared, settings.prompts, settings.batches)
                wrong: list[str] = []
                if not name.startswith("torch"):
                    wrong += predictor_problems(contender, lambda: open_contender(ready), IMAGES)
        except SamedgeError as error:
            return ContenderResult(name=shown_name(name), skipped=str(error))
        stack.pop_all()
    ious = [
        float(mask_ious([ours], [theirs])[0, 0])
        for (_, mine), (_, other) in zip(outputs, context.wanted, strict=True)
        for ours, theirs in zip(mine, other, strict=True)
    ]
    errors = [largest_difference(mine[0], other[0]) for mine, other in zip(outputs, context.wanted, strict=True)]
    supported = {step.name for step in steps}
    missing = [
        f"encode x{count} exceeds the engine's maximum batch"
        for count in settings.batches
        if f"encode x{count}" not in supported
    ]
    result = ContenderResult(
        name=contender.name,
        details={"device": contender.encoder.device, **contender.encoder.details, **ready.details},
        open_s=open_s,
        peak_bytes=None if context.device == _CPU else watch.peak,
        embedding_error=float(np.max(errors)),  # NaN stays NaN
        mask_iou_mean=float(np.mean(ious)),
        mask_iou_worst=min(ious),
        notes=(*missing, *ready.notes),
    )
    problems = [*_differences(result), *wrong, *filter(None, [ready.problem])]
    result = replace(result, problem="; ".join(problems))
    return _Entry(contender, result, {step.name: step for step in steps})


def _try(ready: Ready, context: _Context) -> None:
    arguments = {
        "name": ready.name,
        "source": ready.source,
        "bundle": str(ready.bundle),
        "device": ready.device,
        "many": None if ready.many is None else str(ready.many),
        "prepared": str(context.image),
        "prompts": context.settings.prompts,
        "batches": context.settings.batches,
    }
    call_in_child("samedge.benchmarks.gpu.behaviours:try_contender", arguments)


def _differences(result: ContenderResult) -> Iterator[str]:
    """Yield a description of each difference from the CPU."""
    if result.embedding_error is None or not np.isfinite(result.embedding_error):
        yield "its embedding has values that are not finite"
    if result.mask_iou_mean is None or not result.mask_iou_mean >= LEAST_IOU:
        yield f"its masks differ from the CPU's (mean IoU {result.mask_iou_mean:.4f})"


def _timed(
    entries: list[_Entry], settings: GpuSettings, say: Callable[[str], None]
) -> Iterator[dict[str, ContenderResult]]:
    """Yield all results after each step; contenders take turns at a step, so that ratios compare the same moment."""
    for step in step_names(settings.prompts, settings.batches):
        guarded = [(entry, _GuardedStep(entry.steps[step])) for entry in entries if step in entry.steps]
        if not guarded:
            continue
        say(f"Timing {step}")
        contenders = [Contender(entry.contender.name, call) for entry, call in guarded]
        times = times_in_turn(contenders, settings.rounds, warm_ups=settings.warm_ups)
        failed = {entry.contender.name for entry, call in guarded if call.problem}
        seconds = {name: [wall for wall, _ in own] for name, own in times.items() if name not in failed}
        for entry, call in guarded:
            result = entry.result
            if call.problem:
                problem = "; ".join(filter(None, (result.problem, f"{step} failed: {call.problem}")))
                entry.result = replace(result, problem=problem)
            else:
                latency = latency_of(seconds[entry.contender.name], entry.steps[step].items, seconds.get(BASELINE))
                entry.result = replace(result, steps={**result.steps, step: latency})
        yield {entry.result.name: entry.result for entry in entries}


@dataclass(slots=True)
class _GuardedStep:
    """A step that is not called again after it has failed, so that the other contenders continue."""

    step: Step
    problem: str = ""

    def __call__(self) -> object:
        if self.problem:
            return None
        try:
            with foreign_failures(self.step.name):
                return self.step.call()
        except SamedgeError as error:
            self.problem = error.what
        return None
