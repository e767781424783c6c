"""Streams of images: the next ones are read and encoded while the last one is decoded.

Order is preserved, memory is bounded, and errors name the image concerned.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from typing_extensions import Self

from samedge.errors import CancelledError, SamedgeError
from samedge.runtime.decoder.embedding import EncodedImage
from samedge.runtime.image.read import Frame, ImageSource, path_of
from samedge.runtime.stream.request import Arguments, StreamRequest, StreamSource, image_and_arguments, require_prompts
from samedge.runtime.stream.work_ahead import WorkAhead
from samedge.types import Closing, ImageArray

R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class StreamItem(Generic[R]):
    """The outcome of one image of a stream.

    Attributes:
        index: Position in the source, from 0.
        path: Path of the image or video; None for arrays and PIL images.
        frame: Position in the video, from 1; None for images.
        error: The reason there is no result; only in streams with ``errors="yield"``.
        speed: Milliseconds for "preprocess", "inference" and "postprocess". They overlap with those of other images, so
            their sum over a stream exceeds its duration.
        image: BGR uint8 ``(H, W, 3)``; only in streams with ``keep_images``.
    """

    index: int
    path: str | None
    error: SamedgeError | None
    speed: Mapping[str, float]
    image: ImageArray | None
    _result: R | None
    frame: int | None = None

    @property
    def result(self) -> R:
        """Result of decoding, by default a `Prediction`.

        Raises:
            SamedgeError: `error`, if there is one.
        """
        if self.error is not None:
            raise self.error
        return cast("R", self._result)


@dataclass(frozen=True, slots=True)
class StreamHost:
    """The predictor's side of a stream."""

    encode: Callable[[ImageSource], EncodedImage]
    """Reads and encodes an image; called in the stream's thread."""
    present: Callable[[EncodedImage], Any]
    """Returns a predictor whose current image is the encoded one; called in the consumer's thread."""
    claim: Callable[[Stream[Any]], None]
    """Called when a stream begins; raises UsageError while another one is open."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """An encoded image, or the error. `source` is kept for functions that return prompts."""

    index: int
    path: str | None
    source: ImageSource | None = None
    arguments: Arguments = field(default_factory=dict)
    image: EncodedImage | None = None
    error: SamedgeError | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Reader:
    """Encodes items of the source. Runs in the worker, and must not hold the stream: see `Stream`."""

    encode: Callable[[ImageSource], EncodedImage]
    request: StreamRequest[Any]

    def __call__(self, index: int, item: StreamSource) -> _Ready:
        path: str | None = None
        try:
            source, own = image_and_arguments(item)
            path = path_of(source)
            common = self.request.arguments
            if isinstance(common, Mapping):
                own = {**common, **own}
                if self.request.needs_prompts:
                    require_prompts(own)  # before the costly step
            image = self.encode(source)
        except SamedgeError as error:
            return _Ready(index, path, error=_named(error, index, path))
        if not self.request.keep_images:
            image = replace(image, pixels=None)
        frame = source.number if isinstance(source, Frame) else None
        return _Ready(index, path, None if isinstance(common, Mapping) else source, own, image, frame=frame)


class Stream(Closing, Iterator[StreamItem[R]]):
    """The items of `Predictor.stream`, in the order of the images. For one consumer, in one thread.

    Reading begins with the first item requested. The worker ends at the end of the source, at an error, at `close`, at
    the end of a ``with`` block, and when the stream is garbage-collected, as after leaving a loop early. Ending waits
    for the image being encoded.
    """

    # The worker's thread keeps its objects alive. They must not include the stream itself, which would then never be
    # garbage-collected.

    def __init__(self, host: StreamHost, request: StreamRequest[R]) -> None:
        self._host = host
        self._request = request
        self._ready: WorkAhead[StreamSource, _Ready] | None = None
        self._end: Callable[[], object] | None = None
        self._closed = False

    @property
    def open(self) -> bool:
        """True after the first item was requested, while more may come."""
        return self._ready is not None and not self._closed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamItem[R]:
        """Return the next item.

        Raises:
            SamedgeError: The next image failed, and is named; or the source failed, which ends the stream.
            UsageError: Another stream of the predictor is open.
        """
        if self._closed:
            raise StopIteration
        try:
            return self._decoded(next(self._worker()))
        except BaseException:
            self.close()
            raise

    def _worker(self) -> WorkAhead[StreamSource, _Ready]:
        if self._ready is None:
            self._host.claim(self)
            request = self._request
            reader = _Reader(self._host.encode, request)
            self._ready = WorkAhead(request.each_source(), reader, ahead=request.queue_size, name="samedge-stream")
            # Also at exit: a thread inside a native library must not outlive the interpreter.
            self._end = weakref.finalize(self, self._ready.close)
            self._ready.start()
        return self._ready

    def _decoded(self, ready: _Ready) -> StreamItem[R]:
        """Decode an image, in the consumer's thread."""
        error, result = ready.error, None
        predictor = None if ready.image is None else self._host.present(ready.image)
        if predictor is not None:
            try:
                result = self._request.decode(predictor, **self._arguments(ready))
            except CancelledError:
                raise
            except SamedgeError as failure:
                error = _named(failure, ready.index, ready.path)
            except StopIteration as failure:  # otherwise mistaken for the end of the stream
                raise RuntimeError(f"decoding image {ready.index} raised StopIteration") from failure
        if error is not None:
            if self._request.errors == "raise":
                raise error
            _forget_frames(error)
        speed = {} if predictor is None else predictor.speed
        pixels = None if ready.image is None else ready.image.pixels
        return StreamItem(ready.index, ready.path, error, MappingProxyType(speed), pixels, result, ready.frame)

    def _arguments(self, ready: _Ready) -> Arguments:
        if ready.source is None or isinstance(self._request.arguments, Mapping):
            return ready.arguments
        arguments = {**self._request.arguments(ready.index, ready.source), **ready.arguments}
        if self._request.needs_prompts:
            require_prompts(arguments)
        return arguments

    def close(self) -> None:
        """End the stream, dropping encoded images. Idempotent."""
        self._closed = True
        if self._end is not None:
            self._end()


def _named(error: SamedgeError, index: int, path: str | None) -> SamedgeError:
    """Return the error with its image in `where` and in attributes."""
    name = f"image {index}" if path is None else f"image {index} ({path})"
    if error.where is not None and (path is None or Path(error.where) != Path(path)):
        name = f"{name}, {error.where}"
    error.where = name
    error.facts |= {"item_index": index, "item_path": path}
    return error


def _forget_frames(error: BaseException) -> None:
    """Drop tracebacks: their frames hold the image and its embedding as long as the error is kept."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
