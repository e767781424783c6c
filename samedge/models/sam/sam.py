"""SAM as one module with the two calls that become graphs: `encode` and `decode`."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from samedge.models.sam.configs import IMAGENET, Normalisation
from samedge.models.sam.mask_decoder import MaskDecoder
from samedge.models.sam.prompt_encoder import PromptEncoder

MASK_THRESHOLD: Final = 0.0


class Sam(nn.Module):
    """An image encoder, a prompt encoder and a mask decoder.

    Args:
        image_encoder: Maps ``[N, 3, S, S]`` to ``[N, C, g, g]``; has ``image_size`` (S), ``grid`` (g) and ``family``.
        prompt_encoder: The prompt encoder for the same sizes.
        mask_decoder: The mask decoder.
        normalisation: Conversion of pixels to the encoder's input.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    @property
    def image_size(self) -> int:
        """Side of the square input, px."""
        return self.prompt_encoder.image_size

    @property
    def embedding_size(self) -> int:
        """Side of the image embedding."""
        return self.prompt_encoder.grid

    def encode(self, image: Tensor) -> Tensor:
        """Map normalised images float32 ``[N, 3, S, S]`` to image embeddings float32 ``[N, C, g, g]``."""
        out: Tensor = self.image_encoder(image)
        return out

    def decode(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts on one image, or on one image each.

        Args:
            image_embeddings: float32 ``[1 or B, C, g, g]``.
            point_coords: float32 ``[B, P, 2]``, (x, y) in px of the resized image.
            point_labels: ``[B, P]``: 1 foreground, 0 background, 2 and 3 box corners, -1 padding.
            mask_input: float32 ``[B, 1, 4 * g, 4 * g]``, logits.
            has_mask_input: float32 ``[B]``: 1 to use mask_input, 0 to ignore it.

        Returns:
            ``low_res_masks`` float32 ``[B, tokens, 4 * g, 4 * g]`` and ``iou_predictions`` float32 ``[B, tokens]``.
        """
        sparse = self.prompt_encoder.embed_points(point_coords, point_labels)
        dense = self.prompt_encoder.embed_masks(mask_input, has_mask_input)
        masks, ious = self.mask_decoder(image_embeddings + dense, self.prompt_encoder.dense_pe(), sparse)
        return masks, ious
