"""Who is measured on a GPU: samedge on each of its backends, and torch, all behind one predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from samedge.api.load import load
from samedge.benchmarks.gpu.engines import MeasuredEngines, make_engines
from samedge.benchmarks.gpu.torch_engine import require_torch_device, torch_engines
from samedge.benchmarks.measure.artefacts import PICTURES
from samedge.benchmarks.targets.variants import points_of
from samedge.bundle.archive import is_bundle, open_bundle
from samedge.bundle.engines import ENGINE_BACKENDS
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.protocol import Engine, Value
from samedge.engines.registry import open_engine, require_backend
from samedge.errors import BenchmarkError
from samedge.runtime.decoder.decoders import Decoder, SplitDecoder, WholeDecoder
from samedge.runtime.image.read import as_bgr
from samedge.runtime.predictor import Predictor
from samedge.types import Array, BoolArray, FloatArray, Precision

BASELINE: Final = "torch eager"
CONTENDERS: Final = (
    BASELINE, "torch eager fp16", "torch compile", "torch compile fp16", "onnxruntime", "onnxruntime fp16", "tensorrt",
    "tensorrt-rtx",
)  # fmt: skip
"""torch computes fp16 as its autocast does, onnxruntime as the exported graph says, engines as the ladder found."""
_HALF: Final = "fp16"
_PROMPTS: Final = 8

BundleOf = Callable[[Precision], Path]
"""Gives the bundle in a precision, exported if it is not there."""


@dataclass(frozen=True, slots=True)
class Ready:
    """All that is needed to open a contender.

    Attributes:
        name: One of `CONTENDERS`.
        source: The checkpoint: path, known name, or "seeded:NAME"; or a bundle.
        bundle: Its bundle.
        device: "cuda:0", or "cpu" for a rehearsal.
        engines: What was built, for contenders that run engines.
    """

    name: str
    source: str
    bundle: Path
    device: str
    engines: MeasuredEngines | None = None


@dataclass(frozen=True, slots=True)
class GpuContender:
    """A predictor on a device, and its parts.

    Attributes:
        name: What it is called.
        predictor: The predictor; closing it frees all but `many`.
        encoder: Its encoder.
        decoder: Its decoder.
        batch: Most images that the encoder takes at once; None for any number.
        many: An encoder for more images at once; None if there is none.
    """

    name: str
    predictor: Predictor
    encoder: Engine
    decoder: Decoder
    batch: int | None = None
    many: Engine | None = None

    def encoder_of(self, count: int) -> Engine | None:
        """Return the encoder that takes so many images at once; None if there is none."""
        return self.encoder if self.batch is None or count <= self.batch else self.many

    def close(self) -> None:
        """Free all."""
        with ExitStack() as stack:
            stack.callback(self.predictor.close)
            if self.many is not None:
                stack.callback(self.many.close)


def ready_contender(
    name: str, source: str, bundle_of: BundleOf, device: str, batches: Sequence[int], say: Callable[[str], None]
) -> Ready:
    """Export and builds what a contender runs, or finds it; nothing of that is measured.

    Args:
        name: One of `CONTENDERS`.
        source: The checkpoint, or a bundle.
        bundle_of: Gives its bundles.
        device: "cuda:0", or "cpu" for a rehearsal.
        batches: Numbers of images that the encoder will be given at once.
        say: Called with a sentence about what is being done.

    Raises:
        SamedgeError: It cannot be had here; says why.
    """
    backend, *rest = name.split()
    if backend == "torch":
        if is_bundle(source):
            raise BenchmarkError("a bundle has no weights for torch", cure="Give the checkpoint as --model")
        require_torch_device(device)
    elif backend in ENGINE_BACKENDS:
        bundle = bundle_of("fp32")
        return Ready(name, source, bundle, device, make_engines(backend, bundle, device, batches, say))
    else:
        require_backend(backend)
    return Ready(name, source, bundle_of("fp16" if _HALF in rest and backend != "torch" else "fp32"), device)


def open_contender(ready: Ready) -> GpuContender:
    """Open a contender; ours as `samedge.load` does.

    Raises:
        SamedgeError: It cannot be had here; says why.
    """
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
        if ready.engines is not None and ready.engines.many is not None:
            many = open_engine(ready.engines.many, backend=backend, device=ready.device)
        stack.pop_all()
    return GpuContender(shown_name(ready.name), predictor, encoder, predictor.graphs.decoder, limit, many)


def shown_name(name: str) -> str:
    """Return what a contender is called in the table."""
    return name if name.startswith("torch") else f"samedge, {name}"


def seen(predictor: Predictor, picture: Path) -> tuple[FloatArray, list[BoolArray]]:
    """Return the embedding of a picture, and the masks of some points on it."""
    predictor.set_image(picture)
    geometry = predictor.geometry
    points = points_of(_PROMPTS, 1000) * np.array([geometry.width, geometry.height], np.float32) / 1000
    return predictor.image_embedding, list(predictor.predict(points=points, multimask=True).masks)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to time.

    Attributes:
        name: What the table calls it.
        items: Images or prompts a call.
        call: Does it, and waits until it is done.
    """

    name: str
    items: int
    call: Callable[[], object]


def steps_of(
    contender: GpuContender, prepared: Array, picture: Path, prompts: Sequence[int], batches: Sequence[int]
) -> list[Step]:
    """Return the steps of a contender, all that it can.

    Args:
        contender: Who is measured.
        prepared: The encoder's input, float32 ``[1, 3, S, S]``, on the host.
        picture: The same image as a file.
        prompts: Numbers of prompts of one point.
        batches: Numbers of images.
    """
    predictor, encoder, decoder = contender.predictor, contender.encoder, contender.decoder
    there = encoder.to_device(prepared)
    embedding = encoder.run_on_device({"image": there})["image_embeddings"]
    size = predictor.info.input.image_size
    bgr = as_bgr(picture)
    twin = predictor.twin()
    twin.set_embedding(cast("Any", embedding), size, size)
    steps = [
        Step("H2D", 1, lambda: waited(encoder.to_device(prepared))),
        Step("encode", 1, lambda: waited(*encoder.run_on_device({"image": there}).values())),
        Step("D2H", 1, lambda: embedding.numpy() if isinstance(embedding, DeviceArray) else embedding.copy()),
    ]
    if isinstance(decoder, SplitDecoder):  # what is done once an image
        steps.append(Step("context", 1, lambda: waited(*decoder.context(cast("Any", embedding)).tensors.values())))
    for count in prompts:
        steps.append(
            Step(f"decode {count}", count, partial(twin.predict, points=points_of(count, size), multimask=True))
        )

    def image() -> object:
        predictor.set_image(bgr)
        height, width = bgr.shape[:2]
        return predictor.predict(points=[[width / 2, height / 2]])

    steps.append(Step("image and prompt", 1, image))
    for count in batches:
        able = contender.encoder_of(count)
        if able is not None:
            many = able.to_device(np.repeat(prepared, count, axis=0))
            steps.append(Step(f"encode x{count}", count, partial(_encode, able, many)))
    return steps


def first_calls(
    contender: GpuContender, prepared: Array, prompts: Sequence[int], batches: Sequence[int]
) -> tuple[list[tuple[FloatArray, list[BoolArray]]], list[Step]]:
    """Show the pictures to a contender and calls each of its steps once.

    Args:
        contender: Who is measured.
        prepared: The encoder's input, float32 ``[1, 3, S, S]``, on the host.
        prompts: Numbers of prompts of one point.
        batches: Numbers of images.

    Returns:
        What it saw in each picture, and the steps.
    """
    found = [seen(contender.predictor, picture) for picture in PICTURES]
    steps = steps_of(contender, prepared, PICTURES[0], prompts, batches)
    for step in steps:
        step.call()
    return found, steps


def _encode(encoder: Engine, images: Value) -> object:
    return waited(*encoder.run_on_device({"image": images}).values())


def waited(*values: Value) -> object:
    """Wait until arrays on a device are complete."""
    for value in values:
        if isinstance(value, DeviceArray):
            value.wait()
    return values


def step_names(prompts: Sequence[int], batches: Sequence[int]) -> tuple[str, ...]:
    """Return the names of all steps in the order of the table."""
    decodes, encodes = (f"decode {count}" for count in prompts), (f"encode x{count}" for count in batches)
    return ("H2D", "encode", "D2H", "context", *decodes, "image and prompt", *encodes)


def details_of(contender: GpuContender) -> Mapping[str, str]:
    """Return what a report should say about how a contender runs."""
    return {"device": contender.encoder.device, **contender.encoder.details}
