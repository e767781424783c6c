"""The two sides of the parity check: the torch model, and the graphs of a bundle run by a backend."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from samedge.engines.protocol import Engine
from samedge.export.graphs import MetaDecoder
from samedge.export.parity import Decoded
from samedge.export.probes import Probe, ProbePrompt
from samedge.models.sam import MASK_THRESHOLD, PIXEL_MEAN, PIXEL_STD, Sam
from samedge.runtime.decoders import SplitDecoder, WholeDecoder
from samedge.runtime.geometry import ImageGeometry, normalised_input, raw_input
from samedge.runtime.manifest import SPLIT_ROLES, GraphRole
from samedge.runtime.prompts import PromptGroup
from samedge.types import Array, BoolArray, FloatArray, IOScheme

WHOLE_ROLES: Final[tuple[GraphRole, ...]] = ("decoder", "decoder_single")
SPLIT_ROLE: Final[GraphRole] = "decoder_masks"
"""Under which what the three graphs of a split decoder say together is judged."""


def judged_roles(engines: Iterable[GraphRole]) -> tuple[GraphRole, ...]:
    """Returns the roles that a bundle's decoders answer under, of all its roles."""
    return tuple(role for role in engines if role in (*WHOLE_ROLES, SPLIT_ROLE))


def image_masks(low_res: Tensor, geometry: ImageGeometry) -> BoolArray:
    """Returns masks at image size as Meta's ``postprocess_masks`` makes them: bool ``[M, H, W]``.

    Args:
        low_res: float32 ``[M, 4g, 4g]`` logits.
        geometry: Sizes of the image.
    """
    size = (geometry.image_size, geometry.image_size)
    full = F.interpolate(low_res.unsqueeze(0), size=size, mode="bilinear", align_corners=False)
    full = full[..., : geometry.resized_height, : geometry.resized_width]
    full = F.interpolate(full, size=(geometry.height, geometry.width), mode="bilinear", align_corners=False)
    masks: BoolArray = (full[0] > MASK_THRESHOLD).numpy()
    return masks


class TorchRunner:
    """The reference: the fp32 torch model.

    Args:
        sam: The model.
        roles: The decoder roles of the candidate: what to answer for.
    """

    def __init__(self, sam: Sam, roles: tuple[GraphRole, ...]) -> None:
        self._sam = sam
        self._roles = roles
        self._single = MetaDecoder(sam, single=True)

    @torch.no_grad()
    def embed(self, probe: Probe) -> FloatArray:
        """Encodes the image: float32 ``[1, C, g, g]``."""
        height, width = probe.image.shape[:2]
        self._geometry = ImageGeometry.of(height, width, self._sam.image_size)
        image = normalised_input(probe.image, self._geometry, PIXEL_MEAN, PIXEL_STD)
        self._embedding = self._sam.encode(torch.from_numpy(image))
        embedding: FloatArray = self._embedding.numpy()
        return embedding

    @torch.no_grad()
    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Decodes a prompt for each role."""
        feeds = [torch.from_numpy(array) for array in _prompt_arrays(prompt, self._sam.embedding_size)]
        decoded: dict[GraphRole, Decoded] = {}
        for role in self._roles:
            if role == "decoder_single":
                size = torch.tensor([self._geometry.height, self._geometry.width], dtype=torch.float32)
                _, ious, low_res = self._single(self._embedding, *feeds, size)
            else:
                low_res, ious = self._sam.decode(self._embedding, *feeds)
            decoded[role] = Decoded(low_res[0].numpy(), ious[0].numpy(), image_masks(low_res[0], self._geometry))
        return decoded


class GraphRunner:
    """The candidate: encoder and decoder graphs, each opened by a backend.

    Args:
        engines: Opened graphs by role.
        io: Their I/O scheme.
        image_size: Side of the square input, px.
        grid: Side of the image embedding.
    """

    def __init__(self, engines: dict[GraphRole, Engine], io: IOScheme, image_size: int, grid: int) -> None:
        self._engines = engines
        self._split: SplitDecoder | None = None
        if engines.keys() >= set(SPLIT_ROLES):
            context, prompts, masks = (engines[role] for role in SPLIT_ROLES)
            whole = partial(WholeDecoder, engines["decoder"], io, image_size)
            self._split = SplitDecoder(context, prompts, masks, whole)
        self._io = io
        self._image_size = image_size
        self._grid = grid

    def embed(self, probe: Probe) -> FloatArray:
        """Encodes the image: float32 ``[1, C, g, g]``."""
        height, width = probe.image.shape[:2]
        self._geometry = ImageGeometry.of(height, width, self._image_size)
        feeds: dict[str, Array]
        if self._io == "samexporter":
            feeds = {"input_image": raw_input(probe.image, self._geometry)}
        else:
            feeds = {"image": normalised_input(probe.image, self._geometry, PIXEL_MEAN, PIXEL_STD)}
        self._embedding: FloatArray = self._engines["encoder"].run(feeds)["image_embeddings"]
        if self._split is not None:
            self._context = self._split.context(self._embedding)
        return self._embedding

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Decodes a prompt with each decoder graph."""
        coords, labels, mask, has_mask = _prompt_arrays(prompt, self._grid)
        feeds: dict[str, Array] = {
            "image_embeddings": self._embedding,
            "point_coords": coords,
            "point_labels": labels,
            "mask_input": mask,
            "has_mask_input": has_mask,
        }
        if self._io != "native":
            size = np.array([self._geometry.height, self._geometry.width], dtype=np.float32)
            feeds |= {"point_labels": labels.astype(np.float32), "orig_im_size": size}
        decoded: dict[GraphRole, Decoded] = {}
        for role in WHOLE_ROLES:
            if role not in self._engines:
                continue
            outputs = self._engines[role].run(feeds)
            low_res = outputs["low_res_masks"][0]
            # Meta's graphs resize in the graph, and that is judged too; the native one leaves it to the host.
            masks = outputs["masks"][0] > MASK_THRESHOLD if "masks" in outputs else self._image_masks(low_res)
            decoded[role] = Decoded(low_res, outputs["iou_predictions"][0], masks)
        if self._split is not None:
            masks_of = None if prompt.mask is None else mask[:, 0]
            group = PromptGroup(np.zeros(1, np.intp), coords, labels, masks_of, has_mask)
            answer = self._split.answer(self._context, group)
            low_res = answer.draw(np.zeros(1, np.intp))[0]
            decoded[SPLIT_ROLE] = Decoded(low_res, answer.scores[0], self._image_masks(low_res))
        return decoded

    def _image_masks(self, low_res: FloatArray) -> BoolArray:
        return image_masks(torch.from_numpy(low_res), self._geometry)


def _prompt_arrays(prompt: ProbePrompt, grid: int) -> tuple[Array, Array, Array, Array]:
    """Returns point_coords, point_labels (int32), mask_input and has_mask_input for one prompt."""
    side = 4 * grid
    mask = np.zeros((side, side), dtype=np.float32) if prompt.mask is None else prompt.mask
    has_mask = np.array([prompt.mask is not None], dtype=np.float32)
    return prompt.coords[None], prompt.labels[None], mask[None, None], has_mask
