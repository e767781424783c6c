"""SAM's mask decoder: prompt tokens and an image embedding to mask logits and predicted IoUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samedge.models.sam.configs import DecoderConfig
from samedge.models.sam.layers import MLP, LayerNorm2d
from samedge.models.sam.two_way import TwoWayTransformer


class MaskDecoder(nn.Module):
    """Predicts one mask per mask token: token 0 for clear prompts, the others for ambiguous ones."""

    def __init__(self, sizes: DecoderConfig) -> None:
        super().__init__()
        transformer_dim, num_mask_tokens = sizes.dim, sizes.num_mask_tokens
        self.num_mask_tokens = num_mask_tokens
        self.transformer_dim = transformer_dim
        self.transformer = TwoWayTransformer(sizes)
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(transformer_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3) for _ in range(num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            transformer_dim, sizes.iou_head_hidden_dim, num_mask_tokens, sizes.iou_head_depth
        )

    def forward(self, src: Tensor, image_pe: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits float32 ``[B, tokens, 4 * g, 4 * g]`` and predicted IoUs float32 ``[B, tokens]``.

        Args:
            src: float32 ``[B, C, g, g]``, image embedding plus dense prompt embedding.
            image_pe: float32 ``[1, C, g, g]``.
            sparse: float32 ``[B, P, C]``.
        """
        channels, grid = self.transformer_dim, image_pe.shape[-1]
        learned = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).unsqueeze(0)
        tokens = torch.cat([learned.expand(sparse.shape[0], -1, -1), sparse], dim=1)
        flat, flat_pe = (map_.reshape(-1, channels, grid * grid).transpose(1, 2) for map_ in (src, image_pe))
        tokens, image = self.transformer(flat, flat_pe, tokens)

        upscaled = self.output_upscaling(image.transpose(1, 2).reshape(-1, channels, grid, grid))
        upscaled = upscaled.reshape(-1, channels // 8, 16 * grid * grid)
        mask_tokens = tokens[:, 1 : 1 + self.num_mask_tokens]
        weights = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = (weights @ upscaled).reshape(-1, self.num_mask_tokens, 4 * grid, 4 * grid)
        return masks, self.iou_prediction_head(tokens[:, 0])
