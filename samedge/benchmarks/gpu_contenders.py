"""Who is measured on a GPU: samedge on each of its backends, and torch, all behind one predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from samedge.benchmarks.torch_engine import torch_engines
from samedge.benchmarks.variants import points_of
from samedge.engines.build_options import AxisRange, BuildOptions
from samedge.engines.device_array import DeviceArray
from samedge.engines.protocol import Engine, Value
from samedge.engines.registry import availability, open_engine
from samedge.engines.stored_builds import stored_engine
from samedge.engines.tensorrt_api import FlavourName
from samedge.errors import BackendUnavailableError
from samedge.runtime.bundle import open_bundle
from samedge.runtime.decoders import Decoder, SplitDecoder, WholeDecoder
from samedge.runtime.image import as_bgr
from samedge.runtime.manifest import SPLIT_ROLES, GraphRole
from samedge.runtime.predictor import Predictor
from samedge.types import Array

BASELINE: Final = "torch eager"
CONTENDERS: Final = (BASELINE, "torch compile", "onnxruntime", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, slots=True)
class GpuContender:
    """A predictor on a device, and its parts.

    Attributes:
        name: What it is called.
        predictor: The predictor; closing it frees all.
        encoder: Its encoder.
        decoder: Its decoder.
        batch: Most images that the encoder takes at once; None for any number.
    """

    name: str
    predictor: Predictor
    encoder: Engine
    decoder: Decoder
    batch: int | None = None


def open_contender(name: str, source: str, bundle: Path, device: str, batches: Sequence[int]) -> GpuContender:
    """Opens a contender; engines are built, or found in the store.

    Args:
        name: One of `CONTENDERS`.
        source: The checkpoint: path, known name, or "seeded:NAME".
        bundle: Its bundle.
        device: "cuda:0", or "cpu" for a rehearsal.
        batches: Numbers of images that the encoder will be given at once.

    Raises:
        SamedgeError: It cannot be had here; says why.
    """
    opened = open_bundle(bundle, force=True, verify=False)
    manifest = opened.manifest
    size = manifest.input.image_size
    with ExitStack() as stack:
        decoder: Decoder
        if name.startswith("torch"):
            encoder, whole = torch_engines(source, device, name.removeprefix("torch "))
            decoder = WholeDecoder(whole, "native", size)
        else:
            graph = partial(_engine, name, opened.graph_path, device=device, manifest=manifest, batches=batches)
            encoder = stack.enter_context(graph("encoder"))
            context, prompts, masks = (stack.enter_context(graph(role)) for role in SPLIT_ROLES)
            decoder = SplitDecoder(context, prompts, masks, lambda: WholeDecoder(graph("decoder"), "native", size))
        predictor = Predictor(manifest, encoder, decoder)
        stack.pop_all()
    axis = encoder.inputs["image"].shape[0]
    limit = encoder.axis_limits.get(axis, (1, None))[1] if isinstance(axis, str) else axis
    return GpuContender(shown_name(name), predictor, encoder, decoder, limit)


def shown_name(name: str) -> str:
    """Returns what a contender is called in the table."""
    return name if name.startswith("torch") else f"samedge, {name}"


def _engine(
    backend: str,
    path_of: Callable[[GraphRole], Path],
    role: GraphRole,
    *,
    device: str,
    manifest: Any,
    batches: Sequence[int],
) -> Engine:
    if backend == "onnxruntime":
        return open_engine(path_of(role), backend=backend, device=device)
    found = availability(backend)
    if not found.ok:
        raise BackendUnavailableError(found.reason, cure=found.cure)
    record = manifest.graph(role)
    axes = {name: port.shape for name, port in {**record.inputs, **record.outputs}.items()}
    profiles = {
        "batch": AxisRange(1, 1, max(batches, default=1)),
        "contexts": AxisRange(1, 1, 16),
        "prompts": AxisRange(1, 16, 16),
        "points": AxisRange(2, 2, 16),
    }
    options = BuildOptions(precision=record.precision, profiles=profiles)
    weights = [path_of(role).with_name(file.file) for file in record.external_data]
    built = stored_engine(
        path_of(role), options, flavour=cast("FlavourName", backend), device=device, weights=weights, axes=axes
    )
    return open_engine(built.plan, backend=backend, device=device)


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
    """Returns the steps of a contender, all that it can.

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
        if contender.batch is None or count <= contender.batch:
            many = encoder.to_device(np.repeat(prepared, count, axis=0))
            steps.append(Step(f"encode x{count}", count, partial(_encode, encoder, many)))
    return steps


def _encode(encoder: Engine, images: Value) -> object:
    return waited(*encoder.run_on_device({"image": images}).values())


def waited(*values: Value) -> object:
    """Waits until arrays on a device are complete."""
    for value in values:
        if isinstance(value, DeviceArray):
            value.wait()
    return values


def step_names(prompts: Sequence[int], batches: Sequence[int]) -> tuple[str, ...]:
    """Returns the names of all steps in the order of the table."""
    decodes, encodes = (f"decode {count}" for count in prompts), (f"encode x{count}" for count in batches)
    return ("H2D", "encode", "D2H", "context", *decodes, "image and prompt", *encodes)


def details_of(contender: GpuContender) -> Mapping[str, str]:
    """Returns what a report should say about how a contender runs."""
    return {"device": contender.encoder.device, **contender.encoder.details}
