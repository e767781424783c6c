"""SAM's prompt encoder: prompts to tokens and a dense map (arXiv:2304.02643, appendix A).

A box is two points with labels 2 and 3, and label -1 is padding, so that one tensor of points and one of labels hold
every sparse prompt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samedge.models.sam.configs import DecoderConfig, EncoderConfig
from samedge.models.sam.layers import LayerNorm2d


class PositionEmbeddingRandom(nn.Module):
    """Positional encoding by random spatial frequencies (arXiv:2006.10739)."""

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_pos_feats))
        self.positional_encoding_gaussian_matrix: Tensor

    def forward(self, coords: Tensor) -> Tensor:
        """Encode (x, y), 0..1 of the square input: ``[..., 2]`` to ``[..., 2 * num_pos_feats]``."""
        centred, frequencies = 2 * coords - 1, self.positional_encoding_gaussian_matrix
        # A product with a matrix of two rows, written out: positions stay float32 in every precision, and TensorRT for
        # RTX has no float32 matrix products on compute capability 7.5.
        angle = 2 * math.pi * (centred[..., :1] * frequencies[0] + centred[..., 1:] * frequencies[1])
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


class PromptEncoder(nn.Module):
    """Embeds prompts for the mask decoder."""

    def __init__(self, encoder: EncoderConfig, sizes: DecoderConfig) -> None:
        super().__init__()
        embed_dim, mask_in_chans = sizes.dim, sizes.mask_in_chans
        self.embed_dim = embed_dim
        self.image_size = encoder.image_size
        self.grid = encoder.grid
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            nn.GELU(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            nn.GELU(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def dense_pe(self) -> Tensor:
        """Return the positional encoding of the image embedding's grid: ``[1, embed_dim, grid, grid]``."""
        device = self.no_mask_embed.weight.device
        centres = (torch.arange(self.grid, dtype=torch.float32, device=device) + 0.5) / self.grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        pe: Tensor = self.pe_layer(torch.stack([x, y], dim=-1))
        return pe.permute(2, 0, 1).unsqueeze(0)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed points and box corners as float32 ``[B, P, embed_dim]``.

        Args:
            coords: float32 ``[B, P, 2]``, (x, y) in px of the resized image.
            labels: ``[B, P]``, any numeric dtype: 1 foreground, 0 background, 2 and 3 box corners, -1 padding.
        """
        # Coordinates are of pixel corners; half a pixel on is the centre.
        position = self.pe_layer((coords + 0.5) / self.image_size)
        embeddings: list[Tensor] = [self.not_a_point_embed.weight]
        embeddings.extend(kind.get_parameter("weight") for kind in self.point_embeddings)
        kinds = torch.cat(embeddings)
        known = torch.arange(-1, 4, dtype=labels.dtype, device=labels.device)
        # A product with a one-hot row instead of a lookup: exact, and no label can index beyond the table.
        one_hot = (labels.unsqueeze(-1) == known).to(coords.dtype)
        is_point = (labels != -1).unsqueeze(-1).to(coords.dtype)
        embedded: Tensor = position * is_point + one_hot @ kinds
        return embedded

    def embed_masks(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        """Embed low-resolution masks, or their absence, as float32 ``[B, embed_dim, grid, grid]``.

        Args:
            mask_input: float32 ``[B, 1, 4 * grid, 4 * grid]``, logits.
            has_mask_input: float32 ``[B]``: 1 to use mask_input, 0 to ignore it.
        """
        # Clamped because some clients send -1 for "no mask", which Meta's graph multiplies by.
        has_mask = has_mask_input.clamp(0, 1).reshape(-1, 1, 1, 1)
        embedded: Tensor = self.mask_downscaling(mask_input)
        return has_mask * embedded + (1 - has_mask) * self.no_mask_embed.weight.reshape(1, -1, 1, 1)
