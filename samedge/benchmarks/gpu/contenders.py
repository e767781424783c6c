"""Contenders on a GPU: samedge on each of its backends, and torch, all behind the same predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from samedge.api.load import load
from samedge.benchmarks.gpu.torch_engine import require_torch_device, torch_engines
from samedge.benchmarks.measure.artefacts import IMAGES
from samedge.benchmarks.measure.child import foreign_failures
from samedge.benchmarks.targets.variants import points_of
from samedge.bundle.archive import is_bundle, open_bundle
from samedge.bundle.engines import ENGINE_BACKENDS
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.protocol import Engine, Value
from samedge.engines.registry import open_engine, require_backend
from samedge.engines.tensorrt.api import FlavourName
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.store.builds import stored_engine
from samedge.errors import BenchmarkError, SamedgeError
from samedge.export.engines.build import build_engines
from samedge.export.engines.rungs import rung_graph, written_in
from samedge.options import AxisRange
from samedge.runtime.decoder.decoders import Decoder, SplitDecoder, WholeDecoder
from samedge.runtime.image.read import as_bgr
from samedge.runtime.predictor import Predictor
from samedge.types import Array, BoolArray, FloatArray, Precision

BASELINE: Final = "torch eager"
CONTENDERS: Final = (
    BASELINE, "torch eager fp16", "torch compile", "torch compile fp16", "onnxruntime", "onnxruntime fp16", "tensorrt",
    "tensorrt-rtx",
)  # fmt: skip
"""The fp16 of torch is its autocast, that of onnxruntime is in the graph, that of engines is chosen by the ladder."""
_HALF: Final = "fp16"
_PROMPTS: Final = 8

BundleOf = Callable[[Precision], Path]
"""Returns the bundle in a precision, exported if missing."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A contender ready to be opened.

    Attributes:
        name: One of `CONTENDERS`.
        source: The checkpoint: path, known name, or "seeded:NAME"; or a bundle.
        device: "cuda:0", or "cpu" for a rehearsal.
        many: The plan of the encoder for several images; None if there is none.
        details: Of engines: rungs, verdict, and the attempts of the ladder.
        notes: Sentences, such as the reason for a missing encoder for several images.
        problem: Description of a failure; empty if there is none.
    """

    name: str
    source: str
    bundle: Path
    device: str
    many: Path | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class GpuContender:
    """A predictor on a device, and its parts.

    Attributes:
        batch: Maximum batch size of the encoder; None for any number.
        many: An encoder for larger batches; None if there is none.
    """

    name: str
    predictor: Predictor
    encoder: Engine
    decoder: Decoder
    batch: int | None = None
    many: Engine | None = None

    def encoder_of(self, count: int) -> Engine | None:
        """Return an encoder for a batch of this size; None if there is none."""
        return self.encoder if self.batch is None or count <= self.batch else self.many

    def close(self) -> None:
        """Release the predictor and the encoders."""
        with ExitStack() as stack:
            stack.callback(self.predictor.close)
            if self.many is not None:
                stack.callback(self.many.close)


def ready_contender(
    name: str, source: str, bundle_of: BundleOf, device: str, batches: Sequence[int], say: Callable[[str], None]
) -> Ready:
    """Export and build the files of a contender, or find them; none of this is measured."""
    backend, *rest = name.split()
    precision: Precision = "fp32"
    if backend == "torch":
        if is_bundle(source):
            raise BenchmarkError("a bundle has no weights for torch", cure="Give the checkpoint as --model")
        require_torch_device(device)
    else:
        require_backend(backend)
        precision = "fp16" if _HALF in rest else "fp32"
    ready = Ready(name, source, bundle_of(precision), device)
    return _with_engines(ready, batches, say) if backend in ENGINE_BACKENDS else ready


def _with_engines(ready: Ready, batches: Sequence[int], say: Callable[[str], None]) -> Ready:
    """Build the engines that ``samedge build`` builds, and one of the encoder for several images.

    They are the engines a user gets: the ladder chose their precision on this GPU, by the checkpoint's masks.
    """
    backend = ready.name
    last = ""

    def progress(step: str, _share: float) -> None:
        nonlocal last
        if step != last:
            last = step
            say(f"{backend}: {step}")

    built = build_engines(ready.bundle, flavour=backend, device=ready.device, progress=progress)
    details = {
        "rungs": ", ".join(f"{role} {rung}" for role, rung in zip(built.plans, built.rungs, strict=True)),
        "masks": f"{built.verdict}, mean IoU {built.parity.mask_iou_mean:.4f} on the probe set",
    }
    tried = [str(attempt) for attempt in built.attempts if not attempt.passed]
    if tried:
        details["tried"] = " / ".join(tried)
    outcome = {"passed": "", "failed": "its engines failed the bundle's probes"}
    problem = outcome.get(built.verdict, "its engines were not checked on the bundle's probes")
    many, notes, most = None, built.notes, max(batches, default=1)
    if most > 1:
        say(f"{backend}: Building the encoder ({built.rungs[0]}) for up to {most} images")
        try:
            with foreign_failures(backend):
                many = _encoder_of_many(ready, built.rungs[0], most)
        except SamedgeError as error:
            notes += (f"no encoder for batches of {most}: {error}",)
    return replace(ready, many=many, details=details, notes=notes, problem=problem)


def _encoder_of_many(ready: Ready, rung: str, most: int) -> Path:
    """Build the encoder for several images, on the rung chosen for one."""
    opened = open_bundle(ready.bundle)
    ports = opened.manifest.graph("encoder")
    options = BuildOptions(precision=written_in(opened, "encoder", rung), profiles={"batch": AxisRange(1, most, most)})
    with rung_graph(opened, "encoder", rung) as (graph, weights):
        entry = stored_engine(
            graph,
            options,
            flavour=cast("FlavourName", ready.name),
            device=ready.device,
            weights=weights,
            axes={name: port.shape for name, port in {**ports.inputs, **ports.outputs}.items()},
        )
    return entry.plan


def open_contender(ready: Ready) -> GpuContender:
    """Open a contender; samedge's own like `samedge.load`."""
    backend, *rest = ready.name.split()
    many: Engine | None = None
    with ExitStack() as stack:
        if backend == "torch":
            manifest = open_bundle(ready.bundle, force=True, verify=False).manifest
            encoder, whole = torch_engines(ready.source, ready.device, rest[0], half=_HALF in rest)
            predictor = Predictor(manifest, encoder, WholeDecoder(whole, "native", manifest.input.image_size))
        else:
            predictor = load(ready.bundle, backend, ready.device, force=True, kind="sam")
        stack.callback(predictor.close)
        encoder = predictor.graphs.encoder
        axis = encoder.inputs["image"].shape[0]
        limit = encoder.axis_limits.get(axis, (1, None))[1] if isinstance(axis, str) else axis
        if ready.many is not None:
            many = open_engine(ready.many, backend=backend, device=ready.device)
        stack.pop_all()
    return GpuContender(shown_name(ready.name), predictor, encoder, predictor.graphs.decoder, limit, many)


def shown_name(name: str) -> str:
    """Return the name of a contender in the table."""
    return name if name.startswith("torch") else f"samedge, {name}"


def sample_outputs(predictor: Predictor, image: Path) -> tuple[FloatArray, list[BoolArray]]:
    """Return the embedding of an image, and the masks of some points in it."""
    predictor.set_image(image)
    geometry = predictor.geometry
    points = points_of(_PROMPTS, 1000) * np.array([geometry.width, geometry.height], np.float32) / 1000
    return predictor.image_embedding, list(predictor.predict(points=points, multimask=True).masks)


@dataclass(frozen=True, slots=True)
class Step:
    """A step to time: it processes `items` images or prompts per call, and waits for their completion."""

    name: str
    items: int
    call: Callable[[], object]


def steps_of(
    contender: GpuContender, prepared: Array, image: Path, prompts: Sequence[int], batches: Sequence[int]
) -> list[Step]:
    """Return all supported steps; `prepared` is the encoder's input of `image`, float32 ``[1, 3, S, S]``."""
    predictor, encoder, decoder = contender.predictor, contender.encoder, contender.decoder
    uploaded = encoder.to_device(prepared)
    embedding = encoder.run_on_device({"image": uploaded})["image_embeddings"]
    size = predictor.info.input.image_size
    bgr = as_bgr(image)
    twin = predictor.twin()
    twin.set_embedding(cast("Any", embedding), size, size)
    steps = [
        Step("H2D", 1, lambda: _waited(encoder.to_device(prepared))),
        Step("encode", 1, partial(_encode, encoder, uploaded)),
        Step("D2H", 1, lambda: embedding.numpy() if isinstance(embedding, DeviceArray) else embedding.copy()),
    ]
    if isinstance(decoder, SplitDecoder):  # its context is computed once per image
        steps.append(Step("context", 1, lambda: _waited(*decoder.context(cast("Any", embedding)).tensors.values())))
    for count in prompts:
        decode = partial(twin.predict, points=points_of(count, size), multimask=True)
        steps.append(Step(f"decode {count}", count, decode))

    def image_and_prompt() -> object:
        predictor.set_image(bgr)
        height, width = bgr.shape[:2]
        return predictor.predict(points=[[width / 2, height / 2]])

    steps.append(Step("image and prompt", 1, image_and_prompt))
    for count in batches:
        batch_encoder = contender.encoder_of(count)
        if batch_encoder is not None:
            many = batch_encoder.to_device(np.repeat(prepared, count, axis=0))
            steps.append(Step(f"encode x{count}", count, partial(_encode, batch_encoder, many)))
    return steps


def first_calls(
    contender: GpuContender, prepared: Array, prompts: Sequence[int], batches: Sequence[int]
) -> tuple[list[tuple[FloatArray, list[BoolArray]]], list[Step]]:
    """Return embedding and masks of each bundled image, and the steps, after calling each once."""
    outputs = [sample_outputs(contender.predictor, image) for image in IMAGES]
    steps = steps_of(contender, prepared, IMAGES[0], prompts, batches)
    for step in steps:
        step.call()
    return outputs, steps


def _encode(encoder: Engine, images: Value) -> object:
    return _waited(*encoder.run_on_device({"image": images}).values())


def _waited(*values: Value) -> object:
    """Wait until arrays on a device are complete."""
    for value in values:
        if isinstance(value, DeviceArray):
            value.wait()
    return values


def step_names(prompts: Sequence[int], batches: Sequence[int]) -> tuple[str, ...]:
    """Return the names of all steps in the order of the table."""
    decodes, encodes = (f"decode {count}" for count in prompts), (f"encode x{count}" for count in batches)
    return ("H2D", "encode", "D2H", "context", *decodes, "image and prompt", *encodes)
