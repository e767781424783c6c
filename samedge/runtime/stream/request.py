"""The request of a stream: images, prompts, and the treatment of errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeAlias, TypeVar

import numpy as np

from samedge.errors import ImageError, PromptError, UsageError
from samedge.runtime.image.read import ImageSource
from samedge.runtime.image.sources import iter_sources, without_litter

R = TypeVar("R")

Arguments: TypeAlias = "Mapping[str, object]"
"""Keyword arguments of the decoding function, by default `Predictor.predict`."""
StreamSource: TypeAlias = "ImageSource | tuple[ImageSource, Arguments | None]"
ArgumentsOf: TypeAlias = "Callable[[int, ImageSource], Arguments]"
OnError: TypeAlias = Literal["raise", "yield"]

_PROMPTS: Final = ("points", "boxes", "masks")
_PREDICT: Final = (*_PROMPTS, "labels", "multimask", "conf")


@dataclass(frozen=True, slots=True, eq=False)
class StreamRequest(Generic[R]):
    """The request of a stream; see the arguments of `Predictor.stream`.

    Raises:
        UsageError: An argument is invalid.
    """

    sources: str | os.PathLike[str] | Iterable[StreamSource]
    arguments: Arguments | ArgumentsOf
    decode: Callable[..., R]
    needs_prompts: bool
    queue_size: int
    errors: OnError
    keep_images: bool

    def __post_init__(self) -> None:
        if self.queue_size < 1:
            raise UsageError(f"invalid queue_size {self.queue_size}", cure="Give 1 or more")
        if self.errors not in ("raise", "yield"):
            raise UsageError(f"invalid errors {self.errors!r}", cure="Choose raise or yield")
        one_array = isinstance(self.sources, np.ndarray) and self.sources.ndim < 4
        if one_array or not isinstance(self.sources, (str, os.PathLike, Iterable)):
            raise UsageError(
                f"a stream reads many images, not one {type(self.sources).__name__}",
                cure="Give a folder, a list, or anything else that yields images",
            )
        if self.needs_prompts and isinstance(self.arguments, Mapping):
            require_known(self.arguments)

    def each_source(self) -> Iterator[StreamSource]:
        """Yield the images that a text names, see `iter_sources`, or any iterable's items except hidden files.

        Raises:
            ImageError: A folder or a pattern has no image, or a video cannot be opened.
            StorageError: A folder cannot be read.
        """
        if isinstance(self.sources, (str, os.PathLike)):
            yield from iter_sources(self.sources)
        else:
            yield from without_litter(self.sources)


def image_and_arguments(item: StreamSource) -> tuple[ImageSource, Arguments]:
    """Split an item of the source into the image and its arguments; raise ImageError for other tuples."""
    if not isinstance(item, tuple):
        return item, {}
    if len(item) != 2 or not isinstance(item[1], (Mapping, type(None))):
        raise ImageError(
            f"an item of the source is a tuple of {', '.join(type(part).__name__ for part in item) or 'nothing'}",
            cure="Give an image, or an image and a mapping: (image, {'boxes': [...]})",
        )
    return item[0], item[1] or {}


def require_known(arguments: Arguments) -> None:
    """Raise UsageError for a name that is no argument of `Predictor.predict`."""
    unknown = [name for name in arguments if name not in _PREDICT]
    if unknown:
        raise UsageError(f"predict has no argument {unknown[0]!r}", cure=f"Use one of: {', '.join(_PREDICT)}")


def require_prompts(arguments: Arguments) -> None:
    """Raise PromptError without a prompt for `Predictor.predict`, UsageError for an unknown argument."""
    require_known(arguments)
    if all(arguments.get(name) is None for name in _PROMPTS):
        raise PromptError(
            "no prompts for this image",
            cure="Give prompts, or (image, prompts) as items; decode=Predictor.everything needs none",
        )
