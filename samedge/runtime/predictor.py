"""An image in, prompts in, masks out: the three steps of using SAM, on any backend.

    with samedge.load("sam_b-samedge") as predictor:
        predictor.set_image("photo.jpg")
        prediction = predictor.predict(points=[[400, 300]])

Encoding the image is the heavy step and is done once; each call of `predict` then costs milliseconds per prompt.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from threading import get_ident
from time import perf_counter
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from samedge.bundle.manifest import Manifest
from samedge.engines.cuda.dlpack import Exporter
from samedge.engines.protocol import Engine, Value
from samedge.errors import UsageError
from samedge.runtime.decoder.decoders import Decoder, ImageContext, WholeDecoder, prompts_at_once
from samedge.runtime.decoder.embedding import (
    EncodedImage,
    ImageEmbedding,
    check_embedding,
    encode_image,
    read_embedding,
    write_embedding,
)
from samedge.runtime.decoder.schemes import SamGraphs
from samedge.runtime.everything.found import FoundMasks
from samedge.runtime.everything.generate import find_everything
from samedge.runtime.everything.parameters import EverythingOptions, run_of
from samedge.runtime.everything.sweep import Scene
from samedge.runtime.everything.watch import Watch
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.image.read import ImageSource
from samedge.runtime.image.value_range import ValueRange
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.prompts.tokens import PromptBatch, parse_prompts
from samedge.runtime.results.prediction import Prediction
from samedge.runtime.stream.request import Arguments, ArgumentsOf, OnError, StreamRequest, StreamSource
from samedge.runtime.stream.stream import Stream, StreamHost
from samedge.types import Closing, FloatArray, ImageArray

__all__ = ["Prediction", "Predictor"]

R = TypeVar("R")
Sources: TypeAlias = "str | os.PathLike[str] | Iterable[StreamSource]"

_WARM_UP_ROUNDS: Final = 3
"""A CUDA graph is captured at the second call of a shape, unless memory has grown since."""


@dataclass(slots=True, eq=False)
class _Current:
    """The current image. A call keeps to the one that it began with, whatever other threads set."""

    embedding: ImageEmbedding
    pixels: ImageArray | None = None
    """BGR uint8 ``(H, W, 3)``."""
    encode_ms: float = 0.0
    speed: dict[str, float] = field(default_factory=dict)
    context: ImageContext | None = None
    """The decoder's context, computed at the first prompt: an embedding may only be saved."""
    owner: int = field(default_factory=get_ident)

    def prepared(self, decoder: Decoder) -> ImageContext:
        if self.context is None:
            self.context = decoder.context(self.embedding.values, self.embedding.features)
        return self.context


class Predictor(Closing):
    """Segments one image at a time by prompts.

    `samedge.load` makes one from a bundle. Use it as a context manager, or call `close` when done. It holds the state
    of one image, so give each thread its own `twin`: in another thread than that which set the image, UsageError is
    raised, where masks of the wrong image might come back. Set `one_thread` to False if calls of several threads
    never interleave.

    Methods that need the current image raise UsageError if none is set, and methods that run graphs raise UsageError
    while a stream is open.

    Args:
        manifest: Manifest of the bundle.
        encoder: The opened encoder graph.
        decoder: The decoder, or an opened graph of role "decoder".
        prompts_per_call: Maximum number of prompts per call of the decoder; None for a default that fits the device.
            Fewer need less memory, more are faster on a large GPU; the masks are the same.

    Raises:
        BundleError: The graphs do not have the inputs and outputs of the manifest's I/O scheme.
        UsageError: `prompts_per_call` is less than 1.
    """

    def __init__(
        self, manifest: Manifest, encoder: Engine, decoder: Engine | Decoder, *, prompts_per_call: int | None = None
    ) -> None:
        self.value_range: ValueRange = None
        self.one_thread = True
        self._manifest = manifest
        if isinstance(decoder, Engine):
            decoder = WholeDecoder(decoder, manifest.io, manifest.input.image_size)
        self._graphs = SamGraphs(manifest, encoder, decoder)
        self._current: _Current | None = None
        self._owns_graphs = True
        self._last_stream: Callable[[], Stream[Any] | None] = lambda: None  # weak: a garbage-collected stream ends
        if prompts_per_call is None:
            prompts_per_call = prompts_at_once(encoder.device, self._graphs.decoder.embedding_spec)
        self.prompts_per_call = prompts_per_call

    @property
    def prompts_per_call(self) -> int:
        """Maximum number of prompts per call of the decoder."""
        return self._prompts_per_call

    @prompts_per_call.setter
    def prompts_per_call(self, value: int) -> None:
        if value < 1:
            raise UsageError(f"invalid prompts_per_call {value}", cure="Give 1 or more")
        self._prompts_per_call = value

    @property
    def info(self) -> Manifest:
        """The bundle's manifest: model, licence, parity."""
        return self._manifest

    @property
    def graphs(self) -> SamGraphs:
        """The opened graphs, for running a single stage; closed with the predictor."""
        return self._graphs

    @property
    def backend(self) -> str:
        """The backend that runs the graphs."""
        return self._graphs.encoder.backend

    @property
    def device(self) -> str:
        """Device actually used, such as "cpu" or "cuda:0"."""
        return self._graphs.encoder.device

    @property
    def speed(self) -> dict[str, float]:
        """Milliseconds for the current image: "preprocess", "inference" and "postprocess".

        Inference is the encoder and the last call of `predict`; postprocess excludes drawing masks.
        """
        return {} if self._current is None else dict(self._current.speed)

    @property
    def image_embedding(self) -> FloatArray:
        """Embedding of the current image, copied to the host if necessary: float32 ``[1, C, g, g]``."""
        return self._present().embedding.numpy()

    @property
    def embedding(self) -> ImageEmbedding:
        """Embedding of the current image, on its device: ``torch.from_dlpack(predictor.embedding)``.

        It stays valid when other images are set, and when the predictor is closed.
        """
        return self._present().embedding

    @property
    def image(self) -> ImageArray:
        """The current image, BGR uint8 ``(H, W, 3)``; UsageError if only its embedding is available."""
        pixels = self._present().pixels
        if pixels is None:
            cure = "Call set_image; in a stream, give keep_images=True"
            raise UsageError("only the embedding of the image is available", cure=cure)
        return pixels

    @property
    def geometry(self) -> ImageGeometry:
        """Geometry of the current image."""
        return self._present().embedding.geometry

    def set_image(self, source: ImageSource) -> None:
        """Encode an image for later calls of `predict`. If that fails, no image is set.

        Args:
            source: A path; a PIL image of any mode; or an array, BGR as OpenCV reads it: ``(H, W, 3)``, ``(H, W)``,
                ``(H, W, 1)`` or ``(H, W, 4)``, of integers, of floats 0..1, or of bool. An array is kept without a copy
                until the next image is set: `everything` may cut crops out of it. `value_range` says which values are
                black and white.

        Raises:
            ImageError: The image cannot be read or used.
            EngineError: The encoder failed.
        """
        self._refuse_beside_a_stream()
        self.reset_image()
        self._set(encode_image(self._graphs, source, self.value_range))

    def _set(self, image: EncodedImage) -> None:
        speed = {"preprocess": image.preprocess_ms, "inference": image.encode_ms, "postprocess": 0.0}
        self._current = _Current(image.embedding, image.pixels, image.encode_ms, speed)

    def warm_up(self, prompts: Iterable[int] = (1,), points: Iterable[int] = (1,)) -> None:
        """Warm-up: compile kernels and capture graphs, which on a GPU can take seconds for each new set of shapes.

        The current image is kept.

        Args:
            prompts: Numbers of prompts of later calls.
            points: Numbers of points of their prompts; boxes count as one.
        """
        self._refuse_beside_a_stream()
        twin, size = self.twin(), self._manifest.input.image_size
        # The largest first, so that memory grows once.
        shapes = sorted(product(prompts, points), key=lambda shape: -shape[0] * shape[1])
        for _ in range(_WARM_UP_ROUNDS):
            twin.set_image(np.zeros((size, size, 3), np.uint8))
            for count, each in shapes:
                twin.predict(points=np.full((count, each, 2), size / 2), multimask=self._graphs.decoder.mask_count > 1)

    def reset_image(self) -> None:
        """Discard the current image."""
        self._current = None

    def predict(
        self,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        boxes: PromptLike | None = None,
        masks: PromptLike | None = None,
        multimask: bool = False,
        conf: float | None = None,
    ) -> Prediction:
        """Segment the current image by prompts: one mask per prompt, or all others with ``multimask``, in prompt order.

        If points, boxes and masks are given together, the i-th of each make up the i-th prompt; lists may hold None for
        prompts without one. Prompts do not influence each other.

        Args:
            points: (x, y) in px of the image: ``[x, y]`` is one prompt, ``(N, 2)`` N prompts of one point each,
                ``(N, P, 2)`` N prompts of P points; or a list of N arrays of different lengths.
            labels: 1 for points on the object, 0 for points beside it, in the shape of the points without the last
                axis; by default all 1.
            boxes: (x1, y1, x2, y2) in px of the image: ``(4,)`` or ``(N, 4)``. Clipped to the image.
            masks: Low-resolution logits of an earlier prediction, float ``[side, side]``, or masks at image size, bool
                or uint8 ``(H, W)``, not 0 inside; N of them in an array or a list.
            multimask: Return the masks for ambiguous prompts (a click on a shirt: shirt, person, crowd), three in SAM,
                instead of the one for clear ones. This is the torch reference's rule: mask 0, or masks 1 to 3.
            conf: Minimum predicted IoU, exclusive. None keeps all masks.

        Raises:
            PromptError: A prompt is invalid; the message names it and the reason.
            EngineError: The decoder failed.
        """
        self._refuse_beside_a_stream()
        current, start = self._present(), perf_counter()
        geometry = current.embedding.geometry
        decoder = self._graphs.decoder
        if multimask and decoder.mask_count == 1:
            raise UsageError(
                "this decoder returns one mask for each prompt",
                where=self._manifest.model.name,
                cure="Leave out multimask, or export the checkpoint itself: samedge export",
            )
        batch = parse_prompts(geometry, decoder.prompt_side, points=points, labels=labels, boxes=boxes, masks=masks)
        tokens = np.arange(1, decoder.mask_count) if multimask else np.arange(1)
        parsed = perf_counter()
        logits, scores = self._decode(current, batch, tokens, -np.inf if conf is None else conf)
        done = perf_counter()
        kept = slice(None) if conf is None else np.flatnonzero(scores > conf)  # a slice copies nothing
        logits, scores = logits[kept], scores[kept]
        prompt_index = np.repeat(np.arange(batch.count), len(tokens))[kept]
        mask_index = np.tile(tokens, batch.count)[kept]
        current.speed = {
            "preprocess": current.speed.get("preprocess", 0.0),
            "inference": current.encode_ms + (done - parsed) * 1e3,
            "postprocess": (parsed - start + perf_counter() - done) * 1e3,
        }
        threshold, speed = self._manifest.input.mask_threshold, MappingProxyType(current.speed)
        return Prediction(logits, scores, prompt_index, mask_index, geometry, threshold, speed)

    def _decode(
        self, current: _Current, batch: PromptBatch, tokens: NDArray[np.intp], conf: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return logits ``[K, side, side]`` and scores ``[K]`` of these masks of each prompt, in prompt order.

        The logits of a prompt are left uninitialised if none of its scores is above `conf`.
        """
        decoder = self._graphs.decoder
        logits = np.empty((batch.count, len(tokens), decoder.mask_side, decoder.mask_side), np.float32)
        scores = np.empty((batch.count, len(tokens)), np.float32)
        context = current.prepared(decoder)
        for group in batch.groups:
            for chunk in group.chunks(self._prompts_at_once(masks=group.masks is not None)):
                output = decoder.decode_prompts(context, chunk)
                scores[chunk.index] = found = output.scores[:, tokens]
                wanted = np.flatnonzero((found > conf).any(1))
                if len(wanted):
                    logits[chunk.index[wanted]] = output.draw(wanted)[:, tokens]
        return logits.reshape(-1, *logits.shape[2:]), scores.reshape(-1)

    def everything(self, image: ImageSource | None = None, **options: Unpack[EverythingOptions]) -> FoundMasks:
        """Segment everything that a grid of points finds, by Meta's rules: duplicates and uncertain masks are dropped.

        Args:
            image: A new current image, as in `set_image`; by default the current one is segmented.
            options: See `EverythingOptions`.

        Returns:
            Masks as RLE with boxes and scores; `FoundMasks.records` returns Meta's dictionaries.

        Raises:
            UsageError: An option is invalid, or crops are requested but only the image's embedding is available.
            TypeError: An option is unknown.
            ImageError: The image cannot be read or used.
            CancelledError: ``cancel`` requested it.
            EngineError: A graph failed.
        """
        self._refuse_beside_a_stream()
        run = run_of(options)
        watch = Watch(run.progress, run.cancel, run.time_budget_ms)
        if image is not None:
            watch.report("Encoding the image", 0.0)
            self.set_image(image)
        current, threshold = self._present(), self._manifest.input.mask_threshold
        context = partial(current.prepared, self._graphs.decoder)
        most = self._prompts_at_once(masks=False)
        scene = Scene(self._graphs, threshold, current.embedding.geometry, context, current.pixels, most)
        found = find_everything(scene, run, watch, {**current.speed, "inference": current.encode_ms})
        current.speed = dict(found.speed)
        return found

    @overload
    def stream(
        self, sources: Sources, prompts: Arguments | ArgumentsOf | None = None, *,
        decode: None = None, queue_size: int = 2, errors: OnError = "raise", keep_images: bool = False,
    ) -> Stream[Prediction]: ...  # fmt: skip

    @overload
    def stream(
        self, sources: Sources, prompts: Arguments | ArgumentsOf | None = None, *,
        decode: Callable[..., R], queue_size: int = 2, errors: OnError = "raise", keep_images: bool = False,
    ) -> Stream[R]: ...  # fmt: skip

    def stream(
        self,
        sources: Sources,
        prompts: Arguments | ArgumentsOf | None = None,
        *,
        decode: Callable[..., Any] | None = None,
        queue_size: int = 2,
        errors: OnError = "raise",
        keep_images: bool = False,
    ) -> Stream[Any]:
        """Segment many images, reading and encoding the next ones in a thread while the last one is decoded.

            for item in predictor.stream("photos/", {"boxes": [10, 20, 200, 300]}):
                print(item.path, item.result.scores)
            for item in predictor.stream(frames, decode=Predictor.everything): ...

        The current image is kept. While the stream is open, this predictor refuses to run its graphs; use the one
        passed to ``decode``, or a `twin`.

        Args:
            sources: A folder or a pattern; or any iterable of images as in `set_image`, or of pairs of an image and its
                prompts. Read in the thread, when there is room. A source may reuse one buffer for its images, unless
                they are kept.
            prompts: Keyword arguments of ``decode`` for every image; or a function of an image's index and source that
                returns them, called just before the image is decoded, so that it can use the previous result. An
                image's own prompts take precedence.
            decode: Called as ``decode(predictor, **prompts)``, in the consumer's thread, with a predictor whose current
                image is this one; returns the item's result. By default `predict`.
            queue_size: Maximum number of images read ahead; each is an embedding of 4 MB for SAM at 1024 px.
            errors: "raise" ends the stream with the error of the first image that fails; "yield" yields an item with
                the error, and continues. Errors of the source itself, cancellation, and anything but a `SamedgeError`
                are always raised. `SamedgeError.where`, ``item_index`` and ``item_path`` name the image.
            keep_images: Keep pixels: for `StreamItem.image`, and for ``crop_n_layers`` of `everything`.

        Returns:
            A closable iterator over `StreamItem`. Reading begins with its first item.

        Raises:
            UsageError: An argument is invalid; or, on the first item, another stream is open.
        """
        encode = partial(encode_image, self._graphs, value_range=self.value_range)
        arguments = {} if prompts is None else prompts
        decoding = type(self).predict if decode is None else decode
        request = StreamRequest(sources, arguments, decoding, decode is None, queue_size, errors, keep_images)
        return Stream(StreamHost(encode, self._presenting, self._begin_stream), request)

    def twin(self) -> Predictor:
        """Return a predictor with these graphs and its own image, for any thread. Closing it keeps the graphs."""
        twin: Predictor = copy.copy(self)
        twin._owns_graphs = False
        twin._last_stream = lambda: None
        twin.reset_image()
        return twin

    def end_stream(self) -> None:
        """Close the open stream, if any, such as one left behind by an error in a notebook's loop."""
        stream = self._last_stream()
        if stream is not None:
            stream.close()

    def _presenting(self, image: EncodedImage) -> Predictor:
        twin: Predictor = self.twin()
        twin._set(image)
        return twin

    def _begin_stream(self, stream: Stream[Any]) -> None:
        self._refuse_beside_a_stream()
        self._last_stream = weakref.ref(stream)

    def _refuse_beside_a_stream(self) -> None:
        stream = self._last_stream()
        if stream is not None and stream.open:
            cure = "Read it to its end or call end_stream first; meanwhile, use twin()"
            raise UsageError("a stream of this predictor is open", cure=cure)

    def save_embedding(self, path: str | os.PathLike[str]) -> None:
        """Write the current image's embedding to exactly this path, as ``.npz``; 4 MB for SAM at 1024 px.

        Raises:
            StorageError: The file cannot be written.
        """
        write_embedding(Path(path), self._present().embedding, self._manifest)

    def load_embedding(self, path: str | os.PathLike[str]) -> None:
        """Set an image by its embedding, saved by a bundle of the same checkpoint.

        Raises:
            ImageError: The file is not an embedding, is damaged, or is of another model.
            StorageError: It cannot be read.
        """
        self.reset_image()
        image = read_embedding(Path(path), self._manifest)
        self.set_embedding(image, image.geometry.height, image.geometry.width, where=path)

    def set_embedding(
        self, values: FloatArray | ImageEmbedding | Exporter, height: int, width: int, *, where: object = None
    ) -> None:
        """Set an image of this height and width, px, by its embedding, computed by this model.

        `values` are `image_embedding` or `embedding`, float32 ``[1, C, g, g]``; or a contiguous DLPack array of another
        library, such as a torch tensor, which must not be modified as long as the image is set. One on the decoder's
        device is read in place. `where` names the image in error messages.

        Raises:
            ImageError: The embedding has another shape or dtype, or the image has no pixels.
            TensorMismatchError: It is on another device, or not contiguous.
        """
        self.reset_image()
        given: Mapping[str, Value] = values.features if isinstance(values, ImageEmbedding) else {}
        values = self._graphs.placed(values.values if isinstance(values, ImageEmbedding) else values)
        check_embedding(values, height, width, self._graphs.decoder.embedding_spec, where)
        if not given.keys() >= set(self._graphs.decoder.features):
            given = self._graphs.constant_features()
        self._current = _Current(ImageEmbedding(values, self._graphs.geometry(height, width), given))

    def close(self) -> None:
        """Close the open stream, if any, and release the graphs. Idempotent."""
        self.end_stream()
        self.reset_image()
        if self._owns_graphs:
            self._graphs.close()

    def _prompts_at_once(self, *, masks: bool) -> int:
        limit = self._graphs.decoder.most_prompts(masks=masks)
        return self._prompts_per_call if limit is None else min(self._prompts_per_call, limit)

    def _present(self) -> _Current:
        current = self._current
        if current is None:
            raise UsageError("no image is set", cure="Call set_image or load_embedding first")
        if self.one_thread and current.owner != get_ident():
            cure = "Give each thread its own predictor: predictor.twin()"
            raise UsageError("the current image was set by another thread", cure=cure)
        return current
