"""``python -m samedge.benchmarks gpu``: all that runs on a GPU, run on one, compared with the CPU and with torch.

Engines are built as ``samedge build`` does it, ladder and probes included. One contender that cannot be had, or fails,
costs its own row. Without a GPU, ``--device cpu`` rehearses the same on the host: the checks on the fake GPU, the
contenders on the CPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

import msgspec
import numpy as np

from samedge.api.load import load
from samedge.benchmarks.gpu.behaviours import predictor_problems
from samedge.benchmarks.gpu.contenders import (
    BASELINE,
    CONTENDERS,
    GpuContender,
    Ready,
    Step,
    details_of,
    first_calls,
    open_contender,
    ready_contender,
    seen,
    shown_name,
    step_names,
)
from samedge.benchmarks.gpu.cuda_checks import CHECKS, CudaCheck
from samedge.benchmarks.gpu.memory_watch import MemoryWatch
from samedge.benchmarks.gpu.results import SCHEMA, CheckResult, ContenderResult, GpuReport, latency_of
from samedge.benchmarks.gpu.torch_engine import check_torch, require_torch_device
from samedge.benchmarks.measure.agreement import largest_difference, mask_ious
from samedge.benchmarks.measure.artefacts import PICTURES, Artefacts
from samedge.benchmarks.measure.child import call_in_child, foreign_failures
from samedge.benchmarks.measure.rounds import Contender, times_in_turn
from samedge.bundle.archive import is_bundle
from samedge.engines.cuda.memory import CudaMemory
from samedge.engines.cuda.providers import open_cuda
from samedge.errors import SamedgeError, UsageError
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.image.read import as_bgr
from samedge.runtime.predictor import Predictor
from samedge.testing.cuda import FakeCuda
from samedge.types import BoolArray, FloatArray, Precision

_CPU: Final = "cpu"
LEAST_IOU: Final = 0.98
"""Mean IoU with the masks of the CPU below which masks are others, and not rounded ones."""


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """How to measure.

    Attributes:
        device: "cuda", "cuda:1", or "cpu" for a rehearsal.
        model: Path, known name, or "seeded:NAME"; or a bundle, which needs no torch.
        contenders: Some of `CONTENDERS`; none to check the memory layer only.
        prompts: Numbers of prompts of one point.
        batches: Numbers of images that are encoded at once.
        rounds: Rounds that count.
        warm_ups: Rounds before them that do not: graphs are captured and kernels chosen in the first ones.
        form: How global attention is laid out in the encoder.
        trial: Call each contender once in a process of its own before: what crashes there is a row that says so, and
            would have ended the run here.
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
    steps: dict[str, Step] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all contenders are given.

    Attributes:
        settings: How to measure.
        made: Gives bundles.
        device: "cuda:0" or "cpu".
        memory: The GPU.
        prepared: The encoder's input, float32 ``[1, 3, S, S]``.
        image: The file that it is in, for processes of their own.
        wanted: What the CPU sees in each picture.
        say: Called with a sentence about what is being done.
    """

    settings: GpuSettings
    made: Artefacts
    device: str
    memory: CudaMemory
    prepared: FloatArray
    image: Path
    wanted: list[tuple[FloatArray, list[BoolArray]]]
    say: Callable[[str], None]

    def bundle(self, precision: Precision = "fp32") -> Path:
        """Return the bundle; that in float32 has the checkpoint's answers, by which engines are judged."""
        return _bundle(self.settings, self.made, precision)


def run_gpu(
    settings: GpuSettings,
    machine: dict[str, str],
    *,
    artefacts: Artefacts | None = None,
    say: Callable[[str], None] = lambda _: None,
    show: Callable[[GpuReport], None] = lambda _: None,
) -> GpuReport:
    """Check, open, compare and times all contenders.

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
        SamedgeError: The model cannot be exported, or does not run on the CPU. What befalls one contender is in the
            report.
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
        bundle = _bundle(settings, made)
        say("Masks on the CPU")
        with load(bundle, "onnxruntime", _CPU, force=True, kind="sam") as predictor:
            wanted = [seen(predictor, picture) for picture in PICTURES]
            prepared = _prepared(predictor, PICTURES[0])
        with ExitStack() as stack:
            image = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="samedge-gpu-"))) / "image.npy"
            np.save(image, prepared)
            given = _Setting(settings, made, device, memory, prepared, image, wanted, say)
            entries: list[_Entry] = []
            for name in settings.contenders:
                say(f"Opening {name}")
                found = _open(name, given)
                if isinstance(found, _Entry):
                    stack.callback(_close, found.contender, say)
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
    """Yield what the checks of the memory layer say; that of torch where it sees the GPU."""
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
    """The check of torch on the same GPU; none for the fake one, and on boards without torch."""
    if memory.provider == FakeCuda.provider:
        return ()
    try:
        require_torch_device(f"cuda:{memory.gpu.index}")
    except SamedgeError as error:
        say(f"Not checking torch on the same GPU: {error.what}")
        return ()
    return (CudaCheck("torch on the same GPU", check_torch),)


@contextmanager
def _memory(device: str) -> Iterator[CudaMemory]:
    memory = FakeCuda() if device == _CPU else open_cuda(device)
    try:
        yield memory
    finally:
        memory.close()


def _bundle(settings: GpuSettings, made: Artefacts, precision: Precision = "fp32") -> Path:
    if not is_bundle(settings.model):
        return made.bundle(settings.model, precision=precision, form=settings.form, checked=precision == "fp32")
    if precision != "fp32":
        raise UsageError(f"a bundle has its one precision, and {precision} is another", cure="Give the checkpoint")
    return Path(settings.model)


def _prepared(predictor: Predictor, picture: Path) -> FloatArray:
    bgr = as_bgr(picture)
    return predictor.graphs.prepare(bgr, ImageGeometry.of(bgr.shape[0], bgr.shape[1], predictor.info.input.image_size))


def _close(contender: GpuContender, say: Callable[[str], None]) -> None:
    """Free a contender; that it cannot be freed any more, because the GPU has failed, costs no result."""
    try:
        with foreign_failures(contender.name):
            contender.close()
    except SamedgeError as error:
        say(f"Closing {contender.name}: {error}")


def _open(name: str, given: _Setting) -> _Entry | ContenderResult:
    """Open a contender, compare it with the CPU, and calls each of its steps once; or say why it cannot be had."""
    settings, memory = given.settings, given.memory
    with ExitStack() as stack:
        try:
            with foreign_failures(name):
                ready = ready_contender(name, settings.model, given.bundle, given.device, settings.batches, given.say)
                if settings.trial:
                    _try(ready, given)
                with MemoryWatch(memory) as watch:
                    start = perf_counter()
                    contender = open_contender(ready)
                    stack.callback(_close, contender, given.say)
                    open_s = perf_counter() - start
                    found, steps = first_calls(contender, given.prepared, settings.prompts, settings.batches)
                wrong = (
                    []
                    if name.startswith("torch")
                    else list(predictor_problems(contender, lambda: open_contender(ready), PICTURES))
                )
        except SamedgeError as error:
            return ContenderResult(name=shown_name(name), skipped=str(error))
        stack.pop_all()
    ious = [
        float(mask_ious([ours], [theirs])[0, 0])
        for (_, mine), (_, other) in zip(found, given.wanted, strict=True)
        for ours, theirs in zip(mine, other, strict=True)
    ]
    errors = [largest_difference(mine[0], other[0]) for mine, other in zip(found, given.wanted, strict=True)]
    able = {step.name for step in steps}
    missing = [
        f"encode x{count} is more than the engine takes" for count in settings.batches if f"encode x{count}" not in able
    ]
    made = ready.engines
    result = ContenderResult(
        name=contender.name,
        details={**details_of(contender), **({} if made is None else made.details)},
        open_s=open_s,
        peak_bytes=None if given.device == _CPU else watch.peak,
        embedding_error=float(np.max(errors)),  # NaN stays NaN
        mask_iou_mean=float(np.mean(ious)),
        mask_iou_worst=min(ious),
        notes=(*missing, *(() if made is None else made.notes)),
    )
    problems = [*_other_masks(result), *wrong, *([] if made is None or not made.problem else [made.problem])]
    result = msgspec.structs.replace(result, problem="; ".join(problems))
    return _Entry(contender, result, {step.name: step for step in steps})


def _try(ready: Ready, given: _Setting) -> None:
    many = None if ready.engines is None else ready.engines.many
    arguments = {
        "name": ready.name,
        "source": ready.source,
        "bundle": str(ready.bundle),
        "device": ready.device,
        "many": None if many is None else str(many),
        "prepared": str(given.image),
        "prompts": given.settings.prompts,
        "batches": given.settings.batches,
    }
    call_in_child("samedge.benchmarks.gpu.behaviours:try_contender", arguments)


def _other_masks(result: ContenderResult) -> Iterator[str]:
    """Yield what shows that a contender does not compute what the CPU does."""
    if result.embedding_error is None or not np.isfinite(result.embedding_error):
        yield "its embedding has numbers that are none"
    if result.mask_iou_mean is None or not result.mask_iou_mean >= LEAST_IOU:
        yield f"its masks are not those of the CPU (IoU {result.mask_iou_mean:.4f} on average)"


def _timed(
    entries: list[_Entry], settings: GpuSettings, say: Callable[[str], None]
) -> Iterator[dict[str, ContenderResult]]:
    """Yield all results after each step: contenders take turns at a step, so that a ratio is of one moment."""
    for name in step_names(settings.prompts, settings.batches):
        able = [(entry, _Survivor(entry.steps[name])) for entry in entries if name in entry.steps]
        if not able:
            continue
        say(f"Timing {name}")
        contenders = [Contender(entry.contender.name, survivor) for entry, survivor in able]
        times = times_in_turn(contenders, settings.rounds, warm_ups=settings.warm_ups)
        failed = {entry.contender.name: survivor.problem for entry, survivor in able if survivor.problem}
        seconds = {who: [wall for wall, _ in own] for who, own in times.items() if who not in failed}
        for entry, survivor in able:
            who = entry.contender.name
            if who in failed:
                problem = "; ".join(filter(None, (entry.result.problem, f"{name} failed: {survivor.problem}")))
                entry.result = msgspec.structs.replace(entry.result, problem=problem)
                continue
            latency = latency_of(seconds[who], entry.steps[name].items, seconds.get(BASELINE))
            entry.result = msgspec.structs.replace(entry.result, steps={**entry.result.steps, name: latency})
        yield {entry.result.name: entry.result for entry in entries}


@dataclass(slots=True)
class _Survivor:
    """A step that fails once, and is not called again: those of the others go on."""

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


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
