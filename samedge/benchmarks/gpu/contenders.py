"""Contenders on a GPU: samedge on each of its backends, and torch, all behind the same predictor."""

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
from samedge.benchmarks.measure.artefacts import IMAGES
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
        bundle: Its bundle.
        device: "cuda:0", or "cpu" for a rehearsal.
        engines: The engines, for contenders that run them.
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
        name: Its name.
        predictor: The predictor; closing it releases all but `many`.
        encoder: Its encoder.
        decoder: Its decoder.
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
    """Export and build the files of a contender, or find them; none of this is measured.

    Args:
        name: One of `CONTENDERS`.
        source: The checkpoint, or a bundle.
        bundle_of: Returns its bundles.
        device: "cuda:0", or "cpu" for a rehearsal.
        batches: Batch sizes of the encoder.
        say: Called with progress.

    Raises:
        SamedgeError: The contender is unavailable here.
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
    """Open a contender; samedge's own like `samedge.load`.

    Raises:
        SamedgeError: The contender is unavailable here.
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
    """A step to time.

    Attributes:
        name: Its name in the table.
        items: Images or prompts per call.
        call: Runs it, and waits for its completion.
    """

    name: str
    items: int
    call: Callable[[], object]


def steps_of(
    contender: GpuContender, prepared: Array, image: Path, prompts: Sequence[int], batches: Sequence[int]
) -> list[Step]:
    """Return all steps that a contender supports.

    Args:
        contender: The contender.
        prepared: The encoder's input, float32 ``[1, 3, S, S]``, on the host.
        image: The same image as a file.
        prompts: Numbers of single-point prompts.
        batches: Numbers of images.
    """
    predictor, encoder, decoder = contender.predictor, contender.encoder, contender.decoder
    uploaded = encoder.to_device(prepared)
    embedding = encoder.run_on_device({"image": uploaded})["image_embeddings"]
    size = predictor.info.input.image_size
    bgr = as_bgr(image)
    twin = predictor.twin()
    twin.set_embedding(cast("Any", embedding), size, size)
    steps = [
        Step("H2D", 1, lambda: waited(encoder.to_device(prepared))),
        Step("encode", 1, lambda: waited(*encoder.run_on_device({"image": uploaded}).values())),
        Step("D2H", 1, lambda: embedding.numpy() if isinstance(embedding, DeviceArray) else embedding.copy()),
    ]
    if isinstance(decoder, SplitDecoder):  # its context is computed once per image
        steps.append(Step("context", 1, lambda: waited(*decoder.context(cast("Any", embedding)).tensors.values())))
    for count in prompts:
        steps.append(
            Step(f"decode {count}", count, partial(twin.predict, points=points_of(count, size), multimask=True))
        )

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
    """Run a contender on the bundled images, and call each of its steps once.

    Args:
        contender: The contender.
        prepared: The encoder's input, float32 ``[1, 3, S, S]``, on the host.
        prompts: Numbers of single-point prompts.
        batches: Numbers of images.

    Returns:
        Embedding and masks of each image, and the steps.
    """
    outputs = [sample_outputs(contender.predictor, image) for image in IMAGES]
    steps = steps_of(contender, prepared, IMAGES[0], prompts, batches)
    for step in steps:
        step.call()
    return outputs, steps


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
    """Return the device and the engine's details of a contender, for the report."""
    return {"device": contender.encoder.device, **contender.encoder.details}
