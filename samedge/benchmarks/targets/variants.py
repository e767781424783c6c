"""The contenders: each function loads one implementation and returns a callable that does its work once.

All arguments are JSON values, so that a variant can be loaded here, to be timed, or in a child process, to measure its
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from samedge.api.load import load
from samedge.benchmarks.measure.child import EXTRA, find_target
from samedge.benchmarks.measure.memory import MemoryUse, measure_memory
from samedge.bundle.archive import open_bundle
from samedge.bundle.manifest import SPLIT_ROLES, GraphRole
from samedge.engines.registry import open_engine
from samedge.errors import missing_extra
from samedge.runtime.decoder.decoders import SplitDecoder, WholeDecoder
from samedge.runtime.image.read import as_bgr
from samedge.runtime.predictor import Predictor
from samedge.testing.engine import fake_engine
from samedge.types import Array, FloatArray, TensorSpec

SEED: Final = 20
_PADDING_LABEL: Final = -1
_DECODER_ROLES: Final[tuple[GraphRole, ...]] = (*SPLIT_ROLES, "decoder")


@dataclass(frozen=True, slots=True)
class Variant:
    """A named implementation: a function of this module, and its arguments as JSON values."""

    name: str
    loader: str
    arguments: Mapping[str, Any]

    @property
    def target(self) -> str:
        """Full name of the function, for child processes."""
        return f"{__name__}:{self.loader}"

    def open(self) -> Callable[[], Any]:
        """Load the variant in this process."""
        call: Callable[[], Any] = find_target(self.target)(**self.arguments)
        return call

    def memory(self) -> MemoryUse:
        """Load and call the variant in a child process, and return its memory use."""
        return measure_memory(self.target, self.arguments)


def plain_session(graph: str | Path, threads: int | None) -> Any:
    """Return an onnxruntime session on the CPU with default options, except the number of threads."""
    try:
        ort = import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise missing_extra("onnxruntime", EXTRA, "The baseline") from error
    options = ort.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def plain_encoder(graph: str, image: str, threads: int | None) -> Callable[[], FloatArray]:
    """Load another exporter's encoder in a plain session; `image` is its input, npy."""
    session = plain_session(graph, threads)
    feeds = {session.get_inputs()[0].name: np.load(image)}
    return lambda: cast("FloatArray", session.run(None, feeds)[0])


def encoder(bundle: str, image: str, backend: str, threads: int | None) -> Callable[[], FloatArray]:
    """Load the encoder of a bundle; `image` is its input, npy."""
    path = open_bundle(bundle, force=True, verify=False).graph_path("encoder")
    engine = open_engine(path, backend=backend, device="cpu", threads=threads)
    feeds: dict[str, Array] = {"image": np.load(image)}
    return lambda: engine.run(feeds)["image_embeddings"]


def points_of(count: int, image_size: int) -> FloatArray:
    """Return random points away from the border of a square image, float32 ``[count, 2]``, (x, y) in px."""
    points: NDArray[np.float64] = np.random.default_rng(SEED).uniform(0.1, 0.9, (count, 2)) * image_size
    return points.round().astype(np.float32)


def meta_decoder(graph: str, embedding: str, prompts: int, threads: int | None) -> Callable[[], FloatArray]:
    """Load Meta's decoder in a plain session. It takes one prompt, so several are decoded one after another.

    `embedding` is the npy file of a square image of the model's size. The callable returns the logits of all four
    masks, float32 ``[prompts, 4, 4g, 4g]``.
    """
    session = plain_session(graph, threads)
    values = np.load(embedding)
    grid = values.shape[-1]
    size = 16 * grid
    # Like Meta's predictor, add a padding point to each click without a box.
    coords = np.stack([points_of(prompts, size), np.zeros((prompts, 2), np.float32)], axis=1)
    feeds = {
        "image_embeddings": values,
        "point_labels": np.array([[1, _PADDING_LABEL]], np.float32),
        "mask_input": np.zeros((1, 1, 4 * grid, 4 * grid), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    if any(node.name == "orig_im_size" for node in session.get_inputs()):
        feeds["orig_im_size"] = np.array([size, size], np.float32)
    outputs = [node.name for node in session.get_outputs()]
    wanted = outputs.index("low_res_masks")
    return lambda: np.concatenate(
        [session.run(outputs, {**feeds, "point_coords": coords[i : i + 1]})[wanted] for i in range(prompts)]
    )


def decoder(
    bundle: str, embedding: str, prompts: int, backend: str, threads: int | None, *, whole_image: bool = False
) -> Callable[[], FloatArray]:
    """Load the decoder of a bundle, called through the public predictor.

    With `whole_image`, each call includes the decoder's work per image. The callable returns the logits of masks 1 to
    3, float32 ``[prompts, 3, 4g, 4g]``.
    """
    predictor = _decoder_alone(bundle, backend, threads)
    size = predictor.info.input.image_size
    points = points_of(prompts, size)
    values = np.load(embedding)
    predictor.set_embedding(values, size, size)

    def call() -> FloatArray:
        if whole_image:
            predictor.set_embedding(values, size, size)
        logits = predictor.predict(points=points, multimask=True).low_res_logits
        return logits.reshape(prompts, -1, *logits.shape[1:])

    return call


def _decoder_alone(bundle: str, backend: str, threads: int | None) -> Predictor:
    """Return a predictor without its encoder, so that the measured memory is the decoder's."""
    opened = open_bundle(bundle, force=True, verify=False)
    manifest = opened.manifest
    record = manifest.graph("encoder")
    inputs, outputs = (
        {name: TensorSpec(port.shape, np.dtype(port.dtype)) for name, port in ports.items()}
        for ports in (record.inputs, record.outputs)
    )
    context, prompts, masks, whole = (
        partial(open_engine, opened.graph_path(role), backend=backend, device="cpu", threads=threads)
        for role in _DECODER_ROLES
    )
    split = SplitDecoder(
        context(), prompts(), masks(), lambda: WholeDecoder(whole(), manifest.io, manifest.input.image_size)
    )
    return Predictor(manifest, fake_engine(inputs, outputs, dict), split)


def meta_everything(
    source: str, image: str, options: Mapping[str, Any], threads: int | None
) -> Callable[[], list[dict[str, Any]]]:
    """Load Meta's ``SamAutomaticMaskGenerator`` in torch; the callable returns its records."""
    from samedge.benchmarks.reference.packages import reference_of, reference_package, use_threads

    use_threads(threads)
    sam, config = reference_of(source)
    generator = reference_package(config).package().SamAutomaticMaskGenerator(sam, **options)
    rgb = np.ascontiguousarray(as_bgr(image)[..., ::-1])
    return lambda: cast("list[dict[str, Any]]", generator.generate(rgb))


def everything(
    bundle: str, image: str, options: Mapping[str, Any], mode: str, backend: str, threads: int | None
) -> Callable[[], Any]:
    """Load a bundle for `Predictor.everything`, with Meta's parameters; the callable returns a `FoundMasks`."""
    predictor = load(bundle, backend, "cpu", threads=threads, force=True)
    bgr = as_bgr(image)
    given: dict[str, Any] = {**options, "mode": mode}
    return lambda: predictor.everything(bgr, **given)
