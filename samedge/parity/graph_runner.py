"""The graphs of a bundle, or their engines, as a parity candidate, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

import numpy as np

from samedge.bundle.dialects import DIALECTS
from samedge.bundle.manifest import SPLIT_ROLES, GraphRole, InputRecord
from samedge.engines.protocol import Engine
from samedge.parity.compare import Decoded
from samedge.parity.probes import Probe, ProbePrompt
from samedge.runtime.decoder.decoders import SplitDecoder, WholeDecoder, as_specified
from samedge.runtime.decoder.schemes import encoder_input
from samedge.runtime.image.geometry import ImageGeometry
from samedge.runtime.masks.masks import draw_mask, empty_masks
from samedge.runtime.prompts.tokens import PromptGroup
from samedge.types import Array, BoolArray, FloatArray

WHOLE_ROLES: Final[tuple[GraphRole, ...]] = ("decoder", "decoder_single")
SPLIT_ROLE: Final[GraphRole] = "decoder_masks"
"""Role under which the three graphs of a split decoder are judged together."""


def judged_roles(engines: Iterable[GraphRole]) -> tuple[GraphRole, ...]:
    """Return those of a bundle's roles under which decoders are judged."""
    return tuple(role for role in engines if role in (*WHOLE_ROLES, SPLIT_ROLE))


class GraphRunner:
    """The parity candidate: opened encoder and decoder graphs.

    Args:
        engines: Opened graphs by role.
        io: Their I/O scheme.
        source: Preprocessing of images, and the mask threshold.
        grid: Side of the image embedding.
    """

    def __init__(self, engines: Mapping[GraphRole, Engine], io: str, source: InputRecord, grid: int) -> None:
        self._engines = engines
        self._split: SplitDecoder | None = None
        if engines.keys() >= set(SPLIT_ROLES):
            context, prompts, masks = (engines[role] for role in SPLIT_ROLES)
            whole = partial(WholeDecoder, engines["decoder"], io, source.image_size)
            self._split = SplitDecoder(context, prompts, masks, whole)
        self._dialect = DIALECTS[io]
        self._source = source
        self._grid = grid

    def embed(self, probe: Probe) -> FloatArray:
        """Return the embedding of the probe's image, float32 ``[1, C, g, g]``."""
        height, width = probe.image.shape[:2]
        source, encoder = self._source, self._engines["encoder"]
        self._geometry = ImageGeometry.of(height, width, source.image_size)
        dialect, pixels = self._dialect.encoder, probe.pixels(self._geometry)
        feeds = {dialect.input: encoder_input(dialect, encoder, pixels, self._geometry, source)}
        name = dialect.embedding or next(iter(encoder.outputs))
        self._embedding: Array = encoder.run(as_specified(encoder, feeds))[name]
        if self._split is not None:
            self._context = self._split.context(self._embedding)
        return self._embedding.astype(np.float32, copy=False)

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Decode a prompt with each decoder graph."""
        coords, labels, mask, has_mask = prompt_arrays(prompt, self._grid)
        feeds: dict[str, Array] = {
            "image_embeddings": self._embedding,
            "point_coords": coords,
            "point_labels": labels,
            "mask_input": mask,
            "has_mask_input": has_mask,
        }
        if self._dialect.decoder.size:
            feeds[self._dialect.decoder.size] = np.array(
                [self._geometry.height, self._geometry.width], dtype=np.float32
            )
        decoded: dict[GraphRole, Decoded] = {}
        for role in WHOLE_ROLES:
            if role not in self._engines:
                continue
            outputs = self._engines[role].run(as_specified(self._engines[role], feeds))
            low_res = outputs["low_res_masks"][0].astype(np.float32, copy=False)
            # Meta's graphs resize masks themselves, which is judged too; the native one leaves it to the host.
            masks = (
                outputs["masks"][0] > self._source.mask_threshold if "masks" in outputs else self._image_masks(low_res)
            )
            decoded[role] = Decoded(low_res, outputs["iou_predictions"][0].astype(np.float32, copy=False), masks)
        if self._split is not None:
            masks_of = None if prompt.mask is None else mask[:, 0]
            group = PromptGroup(np.zeros(1, np.intp), coords, labels, masks_of, has_mask)
            output = self._split.decode_prompts(self._context, group)
            low_res = output.draw(np.zeros(1, np.intp))[0]
            decoded[SPLIT_ROLE] = Decoded(low_res, output.scores[0], self._image_masks(low_res))
        return decoded

    def _image_masks(self, low_res: FloatArray) -> BoolArray:
        masks = empty_masks(len(low_res), self._geometry.height, self._geometry.width)
        for logits, mask in zip(low_res, masks, strict=True):
            draw_mask(logits, self._geometry, self._source.mask_threshold, mask)
        return masks


def prompt_arrays(prompt: ProbePrompt, grid: int) -> tuple[Array, Array, Array, Array]:
    """Return point_coords, point_labels (int32), mask_input and has_mask_input for one prompt."""
    side = 4 * grid
    mask = np.zeros((side, side), dtype=np.float32) if prompt.mask is None else prompt.mask
    has_mask = np.array([prompt.mask is not None], dtype=np.float32)
    return prompt.coords[None], prompt.labels[None], mask[None, None], has_mask
