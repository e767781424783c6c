"""The torch model as the reference of the parity check; `samedge.parity.graph_runner` is the candidate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from samedge.bundle.manifest import GraphRole
from samedge.export.graphs.plans import MetaDecoder
from samedge.models.sam.sam import MASK_THRESHOLD, Sam
from samedge.parity.compare import Decoded
from samedge.parity.graph_runner import prompt_arrays
from samedge.parity.probes import Probe, ProbePrompt
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.types import BoolArray, FloatArray


def image_masks(low_res: Tensor, geometry: ImageGeometry) -> BoolArray:
    """Return bool masks ``[M, H, W]`` at image size from logits ``[M, 4g, 4g]``, as Meta's ``postprocess_masks``."""
    size = (geometry.image_size, geometry.image_size)
    full = F.interpolate(low_res.unsqueeze(0), size=size, mode="bilinear", align_corners=False)
    full = full[..., : geometry.resized_height, : geometry.resized_width]
    full = F.interpolate(full, size=(geometry.height, geometry.width), mode="bilinear", align_corners=False)
    masks: BoolArray = (full[0] > MASK_THRESHOLD).numpy()
    return masks


class TorchRunner:
    """The fp32 torch model, which answers for the candidate's decoder roles."""

    def __init__(self, sam: Sam, roles: tuple[GraphRole, ...]) -> None:
        self._sam = sam
        self._roles = roles
        self._single = MetaDecoder(sam, single=True)

    @torch.no_grad()
    def embed(self, probe: Probe) -> FloatArray:
        """Return the embedding of an image, float32 ``[1, C, g, g]``."""
        height, width = probe.image.shape[:2]
        self._geometry = ImageGeometry.of(height, width, self._sam.image_size)
        image = normalised_input(probe.pixels(self._geometry), self._geometry, self._sam.normalisation)
        self._embedding = self._sam.encode(torch.from_numpy(image))
        embedding: FloatArray = self._embedding.numpy()
        return embedding

    @torch.no_grad()
    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Decode a prompt for each role."""
        feeds = [torch.from_numpy(array) for array in prompt_arrays(prompt, self._sam.embedding_size)]
        decoded: dict[GraphRole, Decoded] = {}
        for role in self._roles:
            if role == "decoder_single":
                size = torch.tensor([self._geometry.height, self._geometry.width], dtype=torch.float32)
                _, ious, low_res = self._single(self._embedding, *feeds, size)
            else:
                low_res, ious = self._sam.decode(self._embedding, *feeds)
            decoded[role] = Decoded(low_res[0].numpy(), ious[0].numpy(), image_masks(low_res[0], self._geometry))
        return decoded
