"""An image in, prompts in, masks out: the three steps of using SAM, on any backend.

    with samedge.load("sam_b-samedge") as predictor:
        predictor.set_image("photo.jpg")
        prediction = predictor.predict(points=[[400, 300]])

Encoding the image is the heavy step and is done once; each call of `predict` then costs milliseconds a prompt. Knows
engines, and nothing of the runtimes behind them.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, Final, TypeVar, overload

import numpy as np
from typing_extensions import Unpack

from samedge.bundle.manifest import Manifest
from samedge.engines.cuda.dlpack import Exporter
from samedge.engines.protocol import Engine
from samedge.errors import ImageError, UsageError
from samedge.runtime.decoder.decoders import MASK_TOKENS, Decoder, ImageContext, WholeDecoder
from samedge.runtime.decoder.embedding import (
    EncodedImage,
    ImageEmbedding,
    encode_image,
    read_embedding,
    write_embedding,
)
from samedge.runtime.decoder.schemes import SamGraphs
from samedge.runtime.everything.found import FoundMasks
from samedge.runtime.everything.generate import Scene, find_everything
from samedge.runtime.everything.parameters import EverythingOptions, run_of
from samedge.runtime.everything.watch import Watch
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.image.read import ImageSource
from samedge.runtime.prompts.shapes import PromptLike
from samedge.runtime.prompts.tokens import parse_prompts, prompts_at_once
from samedge.runtime.results.prediction import Prediction
from samedge.runtime.stream.request import Arguments, ArgumentsOf, OnError, StreamRequest, StreamSource
from samedge.runtime.stream.stream import Stream, StreamHost
from samedge.types import Closing, FloatArray, ImageArray

__all__ = ["Prediction", "Predictor"]

R = TypeVar("R")

_WARM_UP_ROUNDS: Final = 3
"""A CUDA graph is captured at the second call of a shape, if memory did not have to grow for another one since."""


class Predictor(Closing):
    """Segments one image at a time by prompts.

    `samedge.load` makes one from a bundle. Use it as a context manager, or call `close` when done. It holds the state
    of one image, so give each thread one of its own.

    Args:
        manifest: Of the bundle.
        encoder: The opened encoder graph.
        decoder: The decoder; an opened graph of role "decoder" will do.
        prompts_per_call: Prompts that the decoder gets at once; more are done in several calls. Less memory, or more
            speed on a large GPU; the masks are the same. None for what `samedge.runtime.prompts.tokens` says.

    Raises:
        BundleError: The graphs do not have the inputs and outputs of the manifest's I/O scheme.
        UsageError: `prompts_per_call` is less than 1.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder: Engine,
        decoder: Engine | Decoder,
        *,
        prompts_per_call: int | None = None,
    ) -> None:
        self._manifest = manifest
        if isinstance(decoder, Engine):
            decoder = WholeDecoder(decoder, manifest.io, manifest.input.image_size)
        self._graphs = SamGraphs(manifest, encoder, decoder)
        self._image: ImageEmbedding | None = None
        self._context: ImageContext | None = None
        self._pixels: ImageArray | None = None
        self._speed: dict[str, float] = {}
        self._encode_ms = 0.0
        self._owns_graphs = True
        self._last_stream: Callable[[], Stream[Any] | None] = lambda: None  # weak: a stream that is forgotten ends
        if prompts_per_call is None:
            prompts_per_call = prompts_at_once(encoder.device, self._graphs.decoder.embedding_spec)
        self.prompts_per_call = prompts_per_call

    @property
    def prompts_per_call(self) -> int:
        """Prompts that the decoder gets at once."""
        return self._prompts_per_call

    @prompts_per_call.setter
    def prompts_per_call(self, value: int) -> None:
        if value < 1:
            raise UsageError(f"prompts_per_call is {value}", cure="Give 1 or more")
        self._prompts_per_call = value

    @property
    def info(self) -> Manifest:
        """What the bundle says about itself: model, licence, parity."""
        return self._manifest

    @property
    def graphs(self) -> SamGraphs:
        """The opened graphs, for who wants to run one step alone; closed with the predictor."""
        return self._graphs

    @property
    def backend(self) -> str:
        """The backend that runs the graphs."""
        return self._graphs.encoder.backend

    @property
    def device(self) -> str:
        """The device really used, such as "cpu" or "cuda:0"."""
        return self._graphs.encoder.device

    @property
    def speed(self) -> dict[str, float]:
        """Milliseconds for the present image: "preprocess", "inference" and "postprocess".

        Inference is the encoder and the last call of `predict`; postprocess does not count drawing masks.
        """
        return dict(self._speed)

    @property
    def image_embedding(self) -> FloatArray:
        """What the encoder made of the present image, on the host: float32 ``[1, C, g, g]``.

        It is copied from the encoder's device if it lies there; `embedding` gives it as it lies.

        Raises:
            UsageError: No image is set.
            EngineError: The copy failed.
        """
        return self._present().numpy()

    @property
    def embedding(self) -> ImageEmbedding:
        """What the encoder made of the present image, where it lies: ``torch.from_dlpack(predictor.embedding)``.

        It keeps its memory when other images are set, and when the predictor is closed.

        Raises:
            UsageError: No image is set.
        """
        return self._present()

    @property
    def image(self) -> ImageArray:
        """The present image, BGR uint8 ``(H, W, 3)``.

        Raises:
            UsageError: No image is set, or only its embedding is known.
        """
        self._present()
        if self._pixels is None:
            raise UsageError(
                "only the embedding of the image is known", cure="Call set_image; in a stream, give keep_images=True"
            )
        return self._pixels

    @property
    def geometry(self) -> ImageGeometry:
        """Sizes of the present image.

        Raises:
            UsageError: No image is set.
        """
        return self._present().geometry

    def set_image(self, source: ImageSource) -> None:
        """Encode an image, which later calls of `predict` are about. If that fails, no image is set.

        An array is kept, not copied, until the next image is set: `everything` may cut crops out of it.

        Args:
            source: A path; a PIL image of any mode; or an array, BGR as OpenCV reads it: ``(H, W, 3)``, ``(H, W)``,
                ``(H, W, 1)`` or ``(H, W, 4)``, of uint8, uint16 or bool.

        Raises:
            ImageError: The image cannot be read or used.
            EngineError: The encoder failed.
            UsageError: A stream is open.
        """
        self._refuse_beside_a_stream()
        self.reset_image()
        self._set(encode_image(self._graphs, source, self._manifest.input.image_size))

    def _set(self, image: EncodedImage) -> None:
        self._image, self._pixels = image.embedding, image.pixels
        self._speed = {"preprocess": image.preprocess_ms, "inference": image.encode_ms, "postprocess": 0.0}
        self._encode_ms = image.encode_ms

    def warm_up(self, prompts: Iterable[int] = (1,), points: Iterable[int] = (1,)) -> None:
        """Make the first calls as fast as later ones: on a GPU each new set of shapes costs up to seconds once.

        The present image stays as it is.

        Args:
            prompts: Numbers of prompts that will be asked at once.
            points: Numbers of points that a prompt will have; boxes count as one.

        Raises:
            UsageError: A stream is open.
            EngineError: A graph failed.
        """
        self._refuse_beside_a_stream()
        twin, size = self.twin(), self._manifest.input.image_size
        # The largest first, so that memory grows once.
        shapes = sorted(product(prompts, points), key=lambda shape: -shape[0] * shape[1])
        for _ in range(_WARM_UP_ROUNDS):
            twin.set_image(np.zeros((size, size, 3), np.uint8))
            for count, each in shapes:
                twin.predict(points=np.full((count, each, 2), size / 2), multimask=True)

    def reset_image(self) -> None:
        """Forget the present image."""
        self._image = None
        self._context = None
        self._pixels = None
        self._speed = {}
        self._encode_ms = 0.0

    def predict(
        self,
        points: PromptLike | None = None,
        labels: PromptLike | None = None,
        boxes: PromptLike | None = None,
        masks: PromptLike | None = None,
        multimask: bool = False,
        conf: float | None = None,
    ) -> Prediction:
        """Segment the present image by prompts: one mask a prompt, or three with ``multimask``, in their order.

        Where points, boxes and masks are given together, the i-th of each make up the i-th prompt; lists may hold None
        where a prompt has none. Prompts do not influence each other.

        Args:
            points: (x, y) in px of the image: ``[x, y]`` is one prompt, ``(N, 2)`` N prompts of one point each,
                ``(N, P, 2)`` N prompts of P points; a list of N arrays where their numbers differ.
            labels: 1 for points on the object, 0 for points beside it, in the shape of the points without the last
                axis; all 1 if left out.
            boxes: (x1, y1, x2, y2) in px of the image: ``(4,)`` or ``(N, 4)``. Cut off at the border of the image.
            masks: Low-resolution logits of an earlier prediction, float ``[side, side]``, or masks of the image's size,
                bool or uint8 ``(H, W)``, not 0 inside; N of them in an array or a list.
            multimask: Return the three masks for ambiguous prompts (a click on a shirt: shirt, person, crowd) instead
                of the one for clear ones. This is the torch reference's rule: mask 0, or masks 1 to 3.
            conf: Keep only masks whose predicted IoU is greater. None keeps all.

        Raises:
            PromptError: A prompt cannot be used; says which one and why.
            UsageError: No image is set, or a stream is open.
            EngineError: The decoder failed.
        """
        self._refuse_beside_a_stream()
        image = self._present()
        start = perf_counter()
        decoder = self._graphs.decoder
        side = decoder.mask_side
        batch = parse_prompts(image.geometry, side, points=points, labels=labels, boxes=boxes, masks=masks)
        tokens = np.arange(1, MASK_TOKENS) if multimask else np.arange(1)
        logits = np.empty((batch.count, len(tokens), side, side), np.float32)
        scores = np.empty((batch.count, len(tokens)), np.float32)
        parsed = perf_counter()
        context = self._image_context()
        for group in batch.groups:
            most = self._prompts_at_once(masks=group.masks is not None)
            for chunk in group.chunks(most):
                answer = decoder.answer(context, chunk)
                found = answer.scores[:, tokens]
                scores[chunk.index] = found
                # What is dropped below is not drawn.
                wanted = np.flatnonzero((found > (-np.inf if conf is None else conf)).any(1))
                if len(wanted):
                    logits[chunk.index[wanted]] = answer.draw(wanted)[:, tokens]
        done = perf_counter()
        prompt_index = np.repeat(np.arange(batch.count), len(tokens))
        mask_index = np.tile(tokens, batch.count)
        flat_logits, flat_scores = logits.reshape(-1, side, side), scores.reshape(-1)
        if conf is not None:
            keep = flat_scores > conf
            flat_logits, flat_scores = flat_logits[keep], flat_scores[keep]
            prompt_index, mask_index = prompt_index[keep], mask_index[keep]
        self._speed = {
            "preprocess": self._speed.get("preprocess", 0.0),
            "inference": self._encode_ms + (done - parsed) * 1e3,
            "postprocess": (parsed - start + perf_counter() - done) * 1e3,
        }
        threshold = self._manifest.input.mask_threshold
        return Prediction(
            flat_logits, flat_scores, prompt_index, mask_index, image.geometry, threshold, MappingProxyType(self.speed)
        )

    def everything(self, image: ImageSource | None = None, **options: Unpack[EverythingOptions]) -> FoundMasks:
        """Segment all that a grid of points finds, by Meta's rules: duplicates and uncertain masks are dropped.

        Args:
            image: As in `set_image`, and becomes the present image. If left out, the present one is segmented.
            options: The parameters of `EverythingParameters` under Meta's names or Ultralytics' (`EverythingOptions`);
                ``mode``, ``time_budget_ms``, ``progress`` and ``cancel``.

        Returns:
            Masks as RLE, with boxes and scores, `FoundMasks.records` for Meta's dictionaries and `FoundMasks.results`
            for `Results`.

        Raises:
            UsageError: No image is set; crops are wanted of an image of which only the embedding is known; an option
                means nothing; or a stream is open.
            TypeError: An option that is not known.
            ImageError: The image cannot be read or used.
            CancelledError: ``cancel`` said so.
            EngineError: A graph failed.
        """
        self._refuse_beside_a_stream()
        run = run_of(options)
        watch = Watch(run.progress, run.cancel, run.time_budget_ms)
        if image is not None:
            watch.report("Encoding the image", 0.0)
            self.set_image(image)
        scene = Scene(
            graphs=self._graphs,
            mask_threshold=self._manifest.input.mask_threshold,
            geometry=self._present().geometry,
            context=self._image_context,
            pixels=self._pixels,
            prompts_per_call=self._prompts_at_once(masks=False),
        )
        found = find_everything(scene, run, watch, {**self._speed, "inference": self._encode_ms})
        self._speed = dict(found.speed)
        return found

    @overload
    def stream(
        self,
        sources: str | os.PathLike[str] | Iterable[StreamSource],
        prompts: Arguments | ArgumentsOf | None = None,
        *,
        decode: None = None,
        queue_size: int = 2,
        errors: OnError = "raise",
        keep_images: bool = False,
    ) -> Stream[Prediction]: ...

    @overload
    def stream(
        self,
        sources: str | os.PathLike[str] | Iterable[StreamSource],
        prompts: Arguments | ArgumentsOf | None = None,
        *,
        decode: Callable[..., R],
        queue_size: int = 2,
        errors: OnError = "raise",
        keep_images: bool = False,
    ) -> Stream[R]: ...

    def stream(
        self,
        sources: str | os.PathLike[str] | Iterable[StreamSource],
        prompts: Arguments | ArgumentsOf | None = None,
        *,
        decode: Callable[..., Any] | None = None,
        queue_size: int = 2,
        errors: OnError = "raise",
        keep_images: bool = False,
    ) -> Stream[Any]:
        """Segment many images; the next ones are read and encoded in a thread while the last one is decoded.

            for item in predictor.stream("photos/", {"boxes": [10, 20, 200, 300]}):
                print(item.path, item.result.scores)
            for item in predictor.stream(frames, decode=Predictor.everything): ...

        The present image stays as it is. While the stream is open, this predictor refuses what would run its graphs;
        ``decode`` is given another that may, and so is who asks for a `twin`.

        Args:
            sources: A folder or a pattern; or anything that yields images as `set_image` takes them, or pairs of an
                image and its prompts. Read in the thread, when there is room. A source that writes each image into one
                buffer will do, unless images are kept.
            prompts: Keyword arguments of ``decode`` for every image, those of `predict` if that is left out; or a
                function of an image's index and source that returns them, called just before the image is decoded, so
                that it can use what was found in the one before. Those of an image's own come on top.
            decode: Called as ``decode(predictor, **prompts)``, in the thread of who reads the stream, with a predictor
                of which the image is the present one; what it returns is the item's result. `predict` if left out.
            queue_size: At most so many images are read ahead; each is an embedding of 4 MB for SAM at 1024 px.
            errors: "raise" ends the stream with the error of the first image that fails; "yield" gives an item with the
                error, and goes on. Errors of the source itself, cancelling, and whatever is no `SamedgeError` are
                raised in any case. `SamedgeError.where` says which image it is about, and so do the attributes
                ``item_index`` and ``item_path``.
            keep_images: Keep pixels: for `StreamItem.image`, and for ``crop_n_layers`` of `everything`.

        Returns:
            An iterator over `StreamItem` that can be closed. Reading begins with its first item.

        Raises:
            UsageError: An argument that means nothing; when the first item is asked for: another stream is open.
        """
        host = StreamHost(
            encode=partial(encode_image, self._graphs, image_size=self._manifest.input.image_size),
            present=self._presenting,
            claim=self._begin_stream,
        )
        request = StreamRequest(
            sources=sources,
            arguments={} if prompts is None else prompts,
            decode=type(self).predict if decode is None else decode,
            needs_prompts=decode is None,
            queue_size=queue_size,
            errors=errors,
            keep_images=keep_images,
        )
        return Stream(host, request)

    def twin(self) -> Predictor:
        """Return a predictor of the same graphs with an image of its own, for the same thread.

        The graphs are freed when this one is closed; closing the twin frees its image only.
        """
        twin: Predictor = copy.copy(self)
        twin._owns_graphs = False
        twin._last_stream = lambda: None
        twin.reset_image()
        return twin

    def end_stream(self) -> None:
        """Close the stream that is open, if there is one: an error in a notebook's loop leaves one behind."""
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
            raise UsageError(
                "a stream of this predictor is open",
                cure="Read it to its end or call end_stream first; beside it, use twin()",
            )

    def save_embedding(self, path: str | os.PathLike[str]) -> None:
        """Write the present image's embedding to exactly this path, as ``.npz``; 4 MB for SAM at 1024 px.

        Raises:
            UsageError: No image is set.
            StorageError: The file system said no.
        """
        write_embedding(Path(path), self._present(), self._manifest)

    def load_embedding(self, path: str | os.PathLike[str]) -> None:
        """Set the image whose embedding was saved here, by a bundle of the same checkpoint.

        Raises:
            ImageError: The file is not an embedding, is damaged, or is of another model.
            StorageError: It cannot be read.
        """
        self.reset_image()
        image = read_embedding(Path(path), self._manifest)
        self.set_embedding(image.numpy(), image.geometry.height, image.geometry.width, where=path)

    def set_embedding(
        self, values: FloatArray | ImageEmbedding | Exporter, height: int, width: int, *, where: object = None
    ) -> None:
        """Set an image by the embedding that this model made of it.

        Args:
            values: `image_embedding` or `embedding`, float32 ``[1, C, g, g]``; or a contiguous array of another library
                that speaks DLPack, such as a torch tensor, which must not be written to as long as the image is set.
                One that lies on the decoder's device is read there.
            height: Rows of the image.
            width: Columns of the image.
            where: What to name in an error.

        Raises:
            ImageError: The embedding is of another shape or dtype, or the image has no pixels.
            TensorMismatchError: It lies on another device, or not one element after the other.
        """
        self.reset_image()
        spec = self._graphs.decoder.embedding_spec
        values = self._graphs.placed(values.values if isinstance(values, ImageEmbedding) else values)
        if values.dtype != np.float32 or not spec.accepts(values.shape) or min(height, width) < 1:
            raise ImageError(
                f"the embedding is {values.dtype}{list(values.shape)} of a {width} x {height} px image, and the "
                f"decoder takes {spec}",
                where=where,
                cure="Set the image with this model and take its embedding again",
            )
        self._image = ImageEmbedding(values, ImageGeometry.of(height, width, self._manifest.input.image_size))

    def close(self) -> None:
        """End the stream that is open, if there is one, and frees the graphs. May be called twice."""
        self.end_stream()
        self.reset_image()
        if self._owns_graphs:
            self._graphs.close()

    def _image_context(self) -> ImageContext:
        """What the decoder computes once an image; at the first prompt, because embeddings may only be saved."""
        if self._context is None:
            self._context = self._graphs.decoder.context(self._present().values)
        return self._context

    def _prompts_at_once(self, *, masks: bool) -> int:
        limit = self._graphs.decoder.most_prompts(masks=masks)
        return self._prompts_per_call if limit is None else min(self._prompts_per_call, limit)

    def _present(self) -> ImageEmbedding:
        if self._image is None:
            raise UsageError("no image is set", cure="Call set_image or load_embedding first")
        return self._image
