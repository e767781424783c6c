"""The decoder of a bundle in its two forms, behind a uniform interface.

A *whole* decoder is one graph from prompts to masks. A *split* one is three: the context graph computes once per image
what does not depend on prompts, the prompts graph takes each prompt to its predicted IoUs, and the masks graph draws
the requested masks. Their results are equal; the split form costs half, and never draws an unneeded mask. Tensors
passed between graphs stay on the device where they run.

Engines that prepare for each batch size (CUDA graphs, shape-specific tuning) meet few sizes: the number of prompts is
padded to the next power of two with copies of the last prompt, whose masks are dropped. Prompts do not influence each
other, so the other masks stay the same. The number of points of a prompt is never padded: a padding point is one more
token, which the others attend to, and it changes masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from samedge.bundle.dialects import DIALECTS
from samedge.engines.cuda.device_array import DeviceArray
from samedge.engines.protocol import Engine, Value
from samedge.errors import BundleError, EngineError, PromptError
from samedge.runtime.prompts.shapes import PADDING
from samedge.runtime.prompts.tokens import PromptGroup
from samedge.types import FloatArray, TensorSpec

MASK_TOKENS: Final = 4
BOX_CORNER: Final = 2
"""Label of the first corner of a box."""

PROMPT_INPUTS: Final = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
CONSTANT_FEATURES: Final = frozenset({"image_positional_embeddings"})
"""Features from encoders that are the same for every image."""

CONTEXT_INPUTS: Final = ("image_embeddings", "mask_input", "has_mask_input")
CONTEXT_OUTPUTS: Final = ("image_tokens", "image_positions", "image_keys", "image_values", "image_queries")
"""Image features seen by the decoder's layers; shapes in `samedge.export.graphs.split_decoder.DecoderContext`."""
PROMPTS_OUTPUTS: Final = ("iou_predictions", "mask_weights", "attended_image")

SPLIT_UP_TO_POINTS: Final = 24
"""Prompts of more points than this use the whole graph: the cost of the split one, which works on tokens, grows with
their number, while that of the whole one hardly does. At 8 points it takes 0.58 of the time of the whole, at 16 points
0.75, and at about 27 the same (onnxruntime, one thread, 64 x 64 image tokens)."""


NO_FEATURES: Final[Mapping[str, Value]] = {}

MOST: Final = 16
"""Enough to keep an accelerator busy, and to make the steps of a call worth starting for images with few tokens."""
CPU_IMAGE_TOKENS: Final = 16384
"""Limit on a CPU, image tokens of all prompts together. With SAM's 4096 tokens, a prompt takes as long alone as in
a call of 16, but 16 need 850 MB in all and 4 need 315 (onnxruntime, one thread)."""


class DecodedPrompts(Protocol):
    """The decoder's output for B prompts, before masks are drawn."""

    @property
    def scores(self) -> FloatArray:
        """Predicted IoUs float32 ``[B, M]``, of token 0 first."""
        ...

    def draw(self, prompts: NDArray[np.intp]) -> FloatArray:
        """Return the logits float32 ``[K, M, side, side]`` of the masks of some of the prompts."""
        ...


@dataclass(frozen=True, slots=True)
class ImageContext:
    """An image prepared for a decoder, on the host or on the decoder's device."""

    embedding: FloatArray | DeviceArray
    """``[1, C, g, g]``."""
    tensors: Mapping[str, Value]
    """Outputs of the context graph by name; of a whole decoder, its features."""


class Decoder(Protocol):
    """A whole or split decoder."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the encoder's outputs that it reads beside the embedding."""
        ...

    @property
    def mask_count(self) -> int:
        """Masks of each prompt: that for unambiguous prompts, and those for ambiguous ones."""
        ...

    @property
    def prompt_side(self) -> int:
        """Rows and columns of mask prompts."""
        ...

    @property
    def mask_side(self) -> int:
        """Rows and columns of low-resolution masks."""
        ...

    @property
    def embedding_spec(self) -> TensorSpec:
        """Shape and dtype of image embeddings."""
        ...

    def most_prompts(self, *, masks: bool) -> int | None:
        """Return the most prompts of one call, with or without masks; None for any number."""
        ...

    def context(self, embedding: FloatArray | DeviceArray, features: Mapping[str, Value] = NO_FEATURES) -> ImageContext:
        """Prepare an image for any number of calls of `decode_prompts`."""
        ...

    def decode_prompts(self, context: ImageContext, group: PromptGroup) -> DecodedPrompts:
        """Decode a group of prompts in one call."""
        ...

    def close(self) -> None:
        """Release the graphs. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class WholeOutput:
    """The output of a whole decoder, with every mask, on the host or device."""

    scores: FloatArray
    low_res: FloatArray | DeviceArray

    def draw(self, prompts: NDArray[np.intp]) -> FloatArray:
        """Return the masks of some of the prompts."""
        if isinstance(self.low_res, DeviceArray):
            return finite(self.low_res.rows(prompts.tolist()).astype(np.float32, copy=False))
        return finite(self.low_res[_selection(prompts, len(self.low_res))])


class WholeDecoder:
    """One graph from prompts to masks, in any dialect.

    Graphs that take one prompt are run prompt by prompt. Where masks at image size are drawn as well, they are unused.

    Raises:
        BundleError: The graph does not have the inputs and outputs of the scheme.
    """

    def __init__(self, engine: Engine, io: str, image_size: int) -> None:
        self._dialect = dialect = DIALECTS[io].decoder
        require_names(engine, engine.inputs, dialect.inputs, io)
        missing = [name for name in dialect.outputs if name not in engine.outputs]
        if missing:
            raise wrong_scheme(engine, f"{missing[0]!r} is missing", io)
        self.engine = engine
        self.features = dialect.features
        self._low_res = dialect.low_res or next(name for name in engine.outputs if name not in dialect.outputs)
        ports = (dialect.coords, dialect.labels, dialect.mask, dialect.has_mask)
        single = 1 in (engine.inputs[name].shape[dialect.leading_axes] for name in ports if name)
        self._many = dialect.mask_count > 0 or not single
        self._size = dialect.size_given or image_size
        self._scale = np.float32(self._size / image_size if dialect.scaled else 1)
        side = engine.inputs[dialect.mask].shape[-1] if dialect.mask else ""
        self.prompt_side = side if isinstance(side, int) else image_size // 4
        spec = engine.outputs[self._low_res].shape
        drawn = spec[-1] if spec else ""
        self.mask_side = drawn if isinstance(drawn, int) else self._size if dialect.draws_only else self.prompt_side
        count = spec[-3] if len(spec) > 3 else ""
        scored = engine.outputs[dialect.scores].shape[-1:]
        if (
            dialect.mask_count
            and isinstance(count, int)
            and scored
            and isinstance(scored[0], int)
            and scored[0] != count
        ):
            raise wrong_scheme(engine, f"it returns {count} masks and {scored[0]} scores", io)
        if isinstance(count, int):
            self.mask_count = count + (not dialect.first_mask)
        else:
            self.mask_count = dialect.mask_count or self._counted(image_size)

    def _counted(self, image_size: int) -> int:
        """Return the number of masks of a graph that does not tell it, from the answer to a click."""
        grid = image_size // 16
        blank: dict[str, FloatArray] = {}
        for name in ("image_embeddings", *self.features):
            *first, rows, columns = self.engine.inputs[name].shape
            sizes = [1 if isinstance(axis, str) else axis for axis in first]
            sizes += [grid if isinstance(axis, str) else axis for axis in (rows, columns)]
            blank[name] = np.zeros(sizes, np.float32)
        embedding = blank.pop("image_embeddings")
        return len(self.decode_prompts(self.context(embedding, blank), _click()).scores[0])

    @property
    def embedding_spec(self) -> TensorSpec:
        """Shape and dtype of image embeddings."""
        return self.engine.inputs["image_embeddings"]

    def most_prompts(self, *, masks: bool) -> int | None:
        """Return the most prompts of one call; graphs that accept one are run one by one anyway."""
        del masks
        return most_of_axis(self.engine, self._dialect.coords, self._dialect.leading_axes) if self._many else None

    def context(self, embedding: FloatArray | DeviceArray, features: Mapping[str, Value] = NO_FEATURES) -> ImageContext:
        """Copy the embedding and the features to the decoder's device, if it has one, for all calls."""
        copied = {name: self.engine.to_device(features[name]) for name in self.features}
        return ImageContext(self.engine.to_device(embedding), copied)

    def decode_prompts(self, context: ImageContext, group: PromptGroup) -> WholeOutput:
        """Run the prompts and draw all masks.

        Raises:
            PromptError: The graph takes no such prompts.
        """
        found = self.refusal(group)
        if found:
            raise PromptError(
                f"this decoder takes no {found}: it is a graph of {self._dialect.producer}",
                where=self.engine.name,
                cure="Use other prompts, or export the checkpoint itself: samedge export",
            )
        if self._many:
            return self._decode(context, group)
        parts = [self._decode(context, prompt) for prompt in group.chunks(1)]
        scores, low_res = zip(*((part.scores, on_host(part.low_res)) for part in parts), strict=True)
        return WholeOutput(np.concatenate(scores), np.concatenate(low_res))

    def refusal(self, group: PromptGroup) -> str:
        """Return the kind of prompts in a group that the graph does not take, as messages name it; empty if none."""
        dialect = self._dialect
        if group.masks is not None and not dialect.mask:
            return "mask prompts"
        if not dialect.boxes and (group.labels >= BOX_CORNER).any():
            return "boxes"
        if not dialect.background and (group.labels == 0).any():
            return "points beside the object (label 0)"
        if dialect.most_points and (group.labels != PADDING).sum(1).max(initial=0) > dialect.most_points:
            return f"more than {dialect.most_points} points for a prompt"
        return ""

    def _decode(self, context: ImageContext, group: PromptGroup) -> WholeOutput:
        dialect, count = self._dialect, len(group.index)
        if self._many:
            group = bucketed(group, self.engine, self.most_prompts(masks=True))
        points = slice(0, -1 if dialect.pads else None)
        axes = (None,) * dialect.leading_axes
        coords = group.coords
        if dialect.padding_xy:
            coords = np.where(group.labels[..., None] == PADDING, np.float32(dialect.padding_xy), coords)
        feeds: dict[str, Value] = {
            "image_embeddings": context.embedding,
            **{name: context.tensors[name] for name in self.features},
            dialect.coords: coords[(*axes, slice(None), points)] * self._scale,
            dialect.labels: group.labels[(*axes, slice(None), points)],
        }
        if dialect.mask:
            feeds[dialect.mask] = mask_input(group, self.prompt_side)
            feeds[dialect.has_mask] = group.has_mask
        if dialect.size:
            feeds[dialect.size] = np.full(2, self._size, np.float32)
        outputs = self.engine.run_on_device(as_specified(self.engine, feeds), [self._low_res, dialect.scores])
        low_res, scores = outputs[self._low_res], finite(on_host(outputs[dialect.scores]), self.engine)
        if not dialect.leading_axes and dialect.first_mask:
            return WholeOutput(scores[:count], low_res if isinstance(low_res, DeviceArray) else on_host(low_res))
        scores = scores.reshape(len(group.index), -1)[:count]
        maps = on_host(low_res)
        maps = maps.reshape(len(group.index), -1, *maps.shape[-2:])[:count]
        if not dialect.first_mask:
            # Exporters of these graphs left out token 0: the best of the others stands for it.
            best = scores.argmax(1)[:, None]
            scores = np.concatenate([np.take_along_axis(scores, best, 1), scores], 1)
            maps = np.concatenate([np.take_along_axis(maps, best[..., None, None], 1), maps], 1)
        return WholeOutput(scores, maps)

    def close(self) -> None:
        """Release the graph. Idempotent."""
        self.engine.close()


@dataclass(frozen=True, slots=True)
class SplitOutput:
    """The output of a split decoder: the inputs of the masks graph."""

    scores: FloatArray
    weights: Value
    image: Value
    masks: Engine

    def draw(self, prompts: NDArray[np.intp]) -> FloatArray:
        """Run the masks graph for some of the prompts."""
        if isinstance(self.image, DeviceArray) and isinstance(self.weights, DeviceArray):
            return self._draw_on_device(self.image, self.weights, prompts)
        image, weights = on_host(self.image), on_host(self.weights)
        selection = _selection(prompts, len(self.scores))
        feeds = {"attended_image": image[selection], "mask_weights": weights[selection]}
        return on_host(self.masks.run(feeds, ["low_res_masks"])["low_res_masks"])

    def _draw_on_device(self, image: DeviceArray, weights: DeviceArray, prompts: NDArray[np.intp]) -> FloatArray:
        rows = rows_of_bucket(prompts.tolist(), image.shape[0])
        some_image, some_weights = image.pick(rows), weights.pick(rows)
        if some_image is None or some_weights is None:
            # All are drawn in place, and the requested ones copied.
            some_image, some_weights, wanted = image, weights, prompts.tolist()
        else:
            wanted = list(range(len(prompts)))
        feeds = {"attended_image": some_image, "mask_weights": some_weights}
        low_res = self.masks.run_on_device(feeds, ["low_res_masks"])["low_res_masks"]
        found = low_res.rows(wanted) if isinstance(low_res, DeviceArray) else low_res[wanted]
        return finite(found.astype(np.float32, copy=False), self.masks)


class SplitDecoder:
    """Three graphs: context, prompts, masks.

    `whole` opens the whole decoder, for prompts of very many points; it is called at most once.

    Raises:
        BundleError: A graph does not have the inputs and outputs of its role.
    """

    def __init__(self, context: Engine, prompts: Engine, masks: Engine, whole: Callable[[], WholeDecoder]) -> None:
        require_names(context, context.inputs, CONTEXT_INPUTS, "native")
        require_names(context, context.outputs, CONTEXT_OUTPUTS, "native")
        require_names(prompts, prompts.inputs, (*CONTEXT_OUTPUTS, "point_coords", "point_labels"), "native")
        require_names(prompts, prompts.outputs, PROMPTS_OUTPUTS, "native")
        require_names(masks, masks.inputs, ("attended_image", "mask_weights"), "native")
        require_names(masks, masks.outputs, ("low_res_masks",), "native")
        self.context_graph, self.prompts_graph, self.masks_graph = context, prompts, masks
        self._open_whole, self._opening = whole, Lock()
        self._whole: WholeDecoder | None = None
        side = context.inputs["mask_input"].shape[-1]
        if not isinstance(side, int):
            raise wrong_scheme(context, "the size of 'mask_input' is not fixed", "native")
        self.mask_side = self.prompt_side = side
        scored = prompts.outputs["iou_predictions"].shape[-1]
        self.mask_count = scored if isinstance(scored, int) else MASK_TOKENS
        self.features: tuple[str, ...] = ()

    @property
    def embedding_spec(self) -> TensorSpec:
        """Shape and dtype of image embeddings."""
        return self.context_graph.inputs["image_embeddings"]

    def most_prompts(self, *, masks: bool) -> int | None:
        """Return the most prompts of one call; with masks, each needs its own context."""
        axes = [(self.prompts_graph, "point_coords"), (self.masks_graph, "mask_weights")]
        if masks:
            axes += [(self.context_graph, "mask_input"), (self.prompts_graph, "image_tokens")]
        return min((limit for axis in axes if (limit := most_of_axis(*axis)) is not None), default=None)

    def context(self, embedding: FloatArray | DeviceArray, features: Mapping[str, Value] = NO_FEATURES) -> ImageContext:
        """Compute the features shared by all prompts without a mask."""
        del features
        none = np.zeros((1, 1, self.mask_side, self.mask_side), np.float32)
        return ImageContext(embedding, self._context(embedding, none, np.zeros(1, np.float32)))

    def _context(
        self, embedding: FloatArray | DeviceArray, masks: FloatArray, has_mask: FloatArray
    ) -> Mapping[str, Value]:
        feeds: dict[str, Value] = {"image_embeddings": embedding, "mask_input": masks, "has_mask_input": has_mask}
        return self.context_graph.run_on_device(feeds, list(CONTEXT_OUTPUTS))

    def decode_prompts(self, context: ImageContext, group: PromptGroup) -> DecodedPrompts:
        """Decode the prompts up to their predicted IoUs."""
        if group.coords.shape[1] > SPLIT_UP_TO_POINTS:
            return self.whole.decode_prompts(context, group)
        count = len(group.index)
        group = bucketed(group, self.prompts_graph, self.most_prompts(masks=group.masks is not None))
        tensors = context.tensors
        if group.masks is not None:
            # A mask prompt changes the image features, so each needs its own context.
            tensors = self._context(context.embedding, mask_input(group, self.mask_side), group.has_mask)
        feeds: dict[str, Value] = {**tensors, "point_coords": group.coords, "point_labels": group.labels}
        outputs = self.prompts_graph.run_on_device(feeds, list(PROMPTS_OUTPUTS))
        scores = finite(on_host(outputs["iou_predictions"])[:count], self.prompts_graph)
        return SplitOutput(scores, outputs["mask_weights"], outputs["attended_image"], self.masks_graph)

    @property
    def whole(self) -> WholeDecoder:
        """The whole decoder, opened on first use."""
        with self._opening:
            if self._whole is None:
                self._whole = self._open_whole()
            return self._whole

    def close(self) -> None:
        """Release the graphs. Idempotent."""
        for engine in (self.context_graph, self.prompts_graph, self.masks_graph):
            engine.close()
        if self._whole is not None:
            self._whole.close()


def _selection(prompts: NDArray[np.intp], count: int) -> NDArray[np.intp] | slice:
    """Return a slice, which copies nothing, for all prompts of a batch in order, and otherwise their indices."""
    return slice(None) if len(prompts) == count and bool((prompts == np.arange(count)).all()) else prompts


def mask_input(group: PromptGroup, side: int) -> FloatArray:
    """Return the mask prompts as graph input, zeros for prompts without one: float32 ``[B, 1, side, side]``."""
    masks = np.zeros((len(group.index), side, side), np.float32) if group.masks is None else group.masks
    return masks[:, None]


def as_specified(engine: Engine, feeds: Mapping[str, Value]) -> dict[str, Value]:
    """Cast each host feed to the graph's dtype: labels are floats in some schemes."""
    return {
        name: array if isinstance(array, DeviceArray) else array.astype(engine.inputs[name].dtype, copy=False)
        for name, array in feeds.items()
    }


def on_host(value: Value) -> FloatArray:
    """Return a float32 copy on the host."""
    array = value.numpy() if isinstance(value, DeviceArray) else value
    return array.astype(np.float32, copy=False)


def finite(values: FloatArray, engine: Engine | None = None) -> FloatArray:
    """Return the output of a graph; raise EngineError if it contains NaN or infinity, which no mask may come from."""
    if np.isfinite(values).all():
        return values
    raise EngineError(
        "the graph returned NaN or infinity",
        where=None if engine is None else f"{engine.name} ({engine.backend}, {engine.device})",
        cure="Compare it with the checkpoint: samedge verify. In half precision, values may overflow: export in fp32",
    )


def require_names(engine: Engine, have: Iterable[str], want: tuple[str, ...], io: str) -> None:
    """Raise BundleError if the names of a graph's inputs or outputs differ from those of its scheme."""
    names = set(have)
    if names != set(want):
        odd = sorted(names ^ set(want))[0]
        raise wrong_scheme(engine, f"{odd!r} is {'unexpected' if odd in names else 'missing'}", io)


def wrong_scheme(engine: Engine, what: str, io: str) -> BundleError:
    """Return the error for a graph that does not follow its I/O scheme."""
    return BundleError(
        f"the graph does not follow the I/O scheme {io!r}: {what}",
        where=engine.name,
        cure="Export the checkpoint again",
    )


def bucket_of(count: int, most: int | None = None) -> int:
    """Return the next power of two, at most ``most``, which is at least ``count``; 0 stays 0."""
    bucket = 1 << (count - 1).bit_length() if count else 0
    return bucket if most is None else max(count, min(bucket, most))


def bucketed(group: PromptGroup, engine: Engine, most: int | None) -> PromptGroup:
    """Return a group in a batch size for an engine that accepts ``most``: padded to a bucket on a device."""
    more = bucket_of(len(group.index), most) - len(group.index)
    if not engine.on_device or not more:
        return group
    return group[np.concatenate([np.arange(len(group.index)), np.full(more, len(group.index) - 1)])]


def rows_of_bucket(rows: list[int], most: int) -> list[int]:
    """Return rows of a batch of ``most``, padded to a bucket by repeating the last."""
    return rows + rows[-1:] * (bucket_of(len(rows), max(most, len(rows))) - len(rows))


def most_of_axis(engine: Engine, name: str, axis_index: int = 0) -> int | None:
    """Return the limit of an axis of an input, or None."""
    axis = engine.inputs[name].shape[axis_index]
    limits = engine.axis_limits.get(axis) if isinstance(axis, str) else (axis, axis)
    return None if limits is None else limits[1]


def prompts_at_once(device: str, embedding: TensorSpec) -> int:
    """Return the default number of prompts for one call of a decoder, from the spec of embeddings ``[1, C, g, g]``."""
    rows, columns = embedding.shape[-2:]
    if device.partition(":")[0].lower() != "cpu" or not isinstance(rows, int) or not isinstance(columns, int):
        return MOST
    return max(1, min(MOST, CPU_IMAGE_TOKENS // (rows * columns)))


def first_click(decoder: Decoder) -> None:
    """Warm-up: decode a click on an embedding of zeros; do nothing if the size of embeddings is free.

    Some backends create their kernels for each shape on first use: in OpenVINO the first decode takes longer than three
    warm ones.
    """
    sizes = [size for size in decoder.embedding_spec.shape[1:] if isinstance(size, int)]
    if decoder.features or len(sizes) != len(decoder.embedding_spec.shape) - 1:
        return
    context = decoder.context(np.zeros((1, *sizes), np.float32))
    decoder.decode_prompts(context, _click()).draw(np.arange(1))


def _click() -> PromptGroup:
    coords, labels = np.zeros((1, 2, 2), np.float32), np.array([[1, PADDING]], np.int32)
    return PromptGroup(np.arange(1), coords, labels, None, np.zeros(1, np.float32))
