"""SAM's mask decoder in three parts of half the cost: an exact rewrite of `Sam.decode`.

Between tokens and image, Meta's form projects all 4096 image tokens to keys, values, queries and back, for every prompt
and layer. Three identities move that work to the context, once per image, or to the few tokens of the prompt:

* The first layer's keys, values and queries of the image are the same for all prompts.
* ``q . (W k + b)`` is ``(q W) . k`` plus a constant over the keys, which softmax ignores; and a weighted mean of ``W v
+ b`` is ``W`` times the weighted mean of ``v``, plus ``b``. So a prompt's T tokens attend to the image through ``heads
* T`` rows of C channels, and the image is not projected at all.
* Where the image attends to tokens, the output projection is applied to the ``heads * T`` values of the tokens instead
of to the result.

A transposed convolution of stride 2 and kernel 2 is a matrix product, so upscaling is two products with channels last,
where normalisation runs over contiguous numbers. The weights are the same, and so are the numbers except for the order
of sums. The cost grows with the number of tokens; from about 20 on, Meta's form is cheaper.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from samedge.models.sam.layers import LayerNorm2d
from samedge.models.sam.mask_decoder import MaskDecoder
from samedge.models.sam.prompt_encoder import PromptEncoder
from samedge.models.sam.sam import Sam
from samedge.models.sam.two_way import Attention, TwoWayAttentionBlock


def _flat(maps: Tensor, channels: int, tokens: int) -> Tensor:
    """Map ``[B, C, g, g]`` to ``[B, g * g, C]``."""
    return maps.reshape(-1, channels, tokens).transpose(1, 2)


class DecoderContext(nn.Module):
    """Computation shared by all prompts on an image; its modules are those of the model."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder: PromptEncoder = sam.prompt_encoder
        decoder = sam.mask_decoder
        first = decoder.transformer.layers[0]
        self.to_image = cast("Attention", first.cross_attn_token_to_image)
        self.from_image = cast("Attention", first.cross_attn_image_to_token)
        self.channels = decoder.transformer_dim
        self.tokens = sam.embedding_size**2
        self.register_buffer("pe", _flat(sam.prompt_encoder.dense_pe(), self.channels, self.tokens).contiguous())
        self.pe: Tensor

    def forward(
        self, image_embeddings: Tensor, mask_input: Tensor, has_mask_input: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Prepare an image for prompts.

        Args:
            image_embeddings: float32 ``[1, C, g, g]``.
            mask_input: float32 ``[B, 1, 4 * g, 4 * g]``, logits; B is 1 for all prompts without a mask.
            has_mask_input: float32 ``[B]``: 1 to use mask_input, 0 to ignore it.

        Returns:
            With N = g * g image tokens, h heads of d channels: ``image_tokens`` ``[B, N, C]``, ``image_positions``
                ``[1, N, C]``, ``image_keys`` ``[B, h, d, N]``, ``image_values`` ``[B, h, N, d]``, ``image_queries``
                ``[B, h, d, N]``, scaled.
        """
        dense = self.prompt_encoder.embed_masks(mask_input, has_mask_input)
        image = _flat(image_embeddings + dense, self.channels, self.tokens)
        placed = image + self.pe
        keys = self._heads(self.to_image.k_proj(placed), self.to_image).permute(0, 2, 3, 1)
        values = self._heads(self.to_image.v_proj(image), self.to_image).transpose(1, 2)
        queries = self._heads(self.from_image.q_proj(placed), self.from_image).permute(0, 2, 3, 1)
        # Added to zero, because some parsers reject an output that is a weight.
        positions = self.pe + torch.zeros_like(image[:1])
        return image, positions, keys, values, queries * self.from_image.head_dim**-0.5

    def _heads(self, x: Tensor, attention: Attention) -> Tensor:
        return x.reshape(-1, self.tokens, attention.num_heads, attention.head_dim)


class _TokenToImage(nn.Module):
    """`Attention` from T tokens to the image, without projecting the image."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.heads, self.dim = attention.num_heads, attention.head_dim
        width = attention.k_proj.in_features
        # [h, d, C] and [h, C, d]: the rows of a linear layer's weight are its outputs.
        self.register_buffer("key_weight", attention.k_proj.weight.detach().reshape(self.heads, self.dim, width))
        values = attention.v_proj.weight.detach().reshape(self.heads, self.dim, width)
        self.register_buffer("value_weight", values.transpose(1, 2).contiguous())
        self.key_weight: Tensor
        self.value_weight: Tensor

    def queries(self, tokens: Tensor) -> Tensor:
        """Map ``[B, T, C]`` to scaled queries ``[B, h, T, d]``."""
        q: Tensor = self.attention.q_proj(tokens) * self.dim**-0.5
        return q.reshape(tokens.shape[0], -1, self.heads, self.dim).transpose(1, 2)

    def project(self, mixed: Tensor) -> Tensor:
        """Map mixed values ``[B, h, T, d]`` to ``[B, T, C]``."""
        out: Tensor = self.attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def forward(self, tokens: Tensor, image: Tensor, placed: Tensor) -> Tensor:
        """Attend ``[B, T, C]`` to the image ``[B, N, C]``, without and with its positional encoding."""
        rows = (self.queries(tokens) @ self.key_weight).flatten(1, 2)
        weights = (rows @ placed.transpose(1, 2)).softmax(-1)
        mixed = (weights @ image).reshape(weights.shape[0], self.heads, -1, image.shape[-1])
        bias = self.attention.v_proj.bias.reshape(self.heads, 1, self.dim)
        return self.project(mixed @ self.value_weight + bias)


class _ImageToToken(nn.Module):
    """`Attention` from the image to T tokens, projecting only the tokens."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.heads, self.dim = attention.num_heads, attention.head_dim
        width = attention.q_proj.in_features
        self.register_buffer("query_weight", attention.q_proj.weight.detach().reshape(self.heads, self.dim, width))
        out = attention.out_proj.weight.detach().reshape(width, self.heads, self.dim)
        self.register_buffer("out_weight", out.permute(1, 2, 0).contiguous())
        # The weights of each head sum to one, so these shares in the values add up to the bias.
        self.register_buffer("out_bias", attention.out_proj.bias.detach() / self.heads)
        self.query_weight: Tensor
        self.out_weight: Tensor
        self.out_bias: Tensor

    def heads_of(self, projected: Tensor) -> Tensor:
        """Map ``[B, T, h * d]`` to ``[B, h, T, d]``."""
        return projected.reshape(projected.shape[0], -1, self.heads, self.dim).transpose(1, 2)

    def scores(self, keys: Tensor, placed: Tensor) -> Tensor:
        """Return ``[B, h, T, N]`` for tokens' keys ``[B, h, T, d]`` and the image with its positions."""
        scaled = keys * self.dim**-0.5
        rows = (scaled @ self.query_weight).flatten(1, 2)
        offset = scaled @ self.attention.q_proj.bias.reshape(self.heads, self.dim, 1)
        product = (rows @ placed.transpose(1, 2)).reshape(keys.shape[0], self.heads, -1, placed.shape[1])
        out: Tensor = product + offset
        return out

    def mix(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """Mix the values of tokens ``[B, T, C]`` by scores ``[B, h, T, N]``; return ``[B, N, C]``."""
        # Softmax over the third axis, written out: a softmax over seven contiguous numbers, with the copy that makes
        # them contiguous, takes longer than these four passes.
        raised = (scores - scores.amax(2, keepdim=True)).exp()
        weights = raised / raised.sum(2, keepdim=True)
        values = self.heads_of(self.attention.v_proj(tokens)) @ self.out_weight + self.out_bias
        return weights.flatten(1, 2).transpose(1, 2) @ values.flatten(1, 2)


class _Layer(nn.Module):
    """A layer of the two-way transformer with both attentions to the image rewritten."""

    def __init__(self, block: TwoWayAttentionBlock) -> None:
        super().__init__()
        self.block = block
        self.to_image = _TokenToImage(block.cross_attn_token_to_image)
        self.from_image = _ImageToToken(block.cross_attn_image_to_token)


class DecoderPrompts(nn.Module):
    """Prompts to predicted IoUs and inputs of `DecoderMasks`; its modules are those of the model."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder: PromptEncoder = sam.prompt_encoder
        self.decoder: MaskDecoder = sam.mask_decoder
        blocks = cast("list[TwoWayAttentionBlock]", list(self.decoder.transformer.layers))
        self.layers = nn.ModuleList(_Layer(block) for block in blocks)
        self.final = _TokenToImage(self.decoder.transformer.final_attn_token_to_image)

    def forward(
        self,
        image_tokens: Tensor,
        image_positions: Tensor,
        image_keys: Tensor,
        image_values: Tensor,
        image_queries: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode B prompts of P points on one context, or on one context each.

        Args:
            image_tokens: From `DecoderContext`, like the next four.
            image_positions: See `image_tokens`.
            image_keys: See `image_tokens`.
            image_values: See `image_tokens`.
            image_queries: See `image_tokens`.
            point_coords: float32 ``[B, P, 2]``, (x, y) in px of the resized image.
            point_labels: ``[B, P]``: 1 foreground, 0 background, 2 and 3 box corners, -1 padding.

        Returns:
            ``iou_predictions`` ``[B, M]``; for `DecoderMasks`, ``mask_weights`` ``[B, M, C / 8]`` and
                ``attended_image`` ``[B, N, C]``.
        """
        decoder = self.decoder
        sparse = self.prompt_encoder.embed_points(point_coords, point_labels)
        learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).unsqueeze(0)
        prompt = torch.cat([learned.expand(sparse.shape[0], -1, -1), sparse], dim=1)

        tokens, image, placed = prompt, image_tokens, image_tokens
        for layer in cast("list[_Layer]", list(self.layers)):
            block, to_image, from_image = layer.block, layer.to_image, layer.from_image
            if block.first:
                tokens = block.norm1(block.self_attn(tokens, tokens, tokens))
                weights = (to_image.queries(tokens + prompt) @ image_keys).softmax(-1)
                attended = to_image.project(weights @ image_values)
            else:
                own = tokens + prompt
                tokens = block.norm1(tokens + block.self_attn(own, own, tokens))
                attended = to_image(tokens + prompt, image, placed)
            tokens = block.norm2(tokens + attended)
            tokens = block.norm3(tokens + block.mlp(tokens))
            keys = from_image.heads_of(from_image.attention.k_proj(tokens + prompt))
            scores = keys @ image_queries if block.first else from_image.scores(keys, placed)
            image = block.norm4(image + from_image.mix(scores, tokens))
            placed = image + image_positions
        attended = self.final(tokens + prompt, image, placed)
        tokens = decoder.transformer.norm_final_attn(tokens + attended)

        weights = torch.stack(
            [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
        )
        return decoder.iou_prediction_head(tokens[:, 0]), weights, image


class DecoderMasks(nn.Module):
    """Decoded prompts to masks; its modules are those of the model."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        decoder = sam.mask_decoder
        self.grid, self.channels, self.masks = sam.embedding_size, decoder.transformer_dim, decoder.num_mask_tokens
        first, norm, _, second, _ = decoder.output_upscaling
        self.norm = cast("LayerNorm2d", norm)
        upscalings = cast("list[tuple[str, nn.ConvTranspose2d]]", [("first", first), ("second", second)])
        for name, layer in upscalings:
            # [in, out, dy, dx] to [(dy, dx, out), in].
            weight = layer.weight.detach().permute(2, 3, 1, 0).reshape(-1, layer.in_channels).contiguous()
            self.register_buffer(f"{name}_weight", weight)
            self.register_buffer(f"{name}_bias", cast("Tensor", layer.bias).detach().repeat(4))
        self.first_weight: Tensor
        self.first_bias: Tensor
        self.second_weight: Tensor
        self.second_bias: Tensor

    def forward(self, attended_image: Tensor, mask_weights: Tensor) -> Tensor:
        """Return ``low_res_masks`` ``[B, M, 4 * g, 4 * g]`` from outputs of `DecoderPrompts`."""
        grid, wide, narrow = self.grid, self.channels // 4, self.channels // 8
        # A matrix, because a linear layer on it is one Gemm with its bias.
        x = nn.functional.linear(attended_image.reshape(-1, self.channels), self.first_weight, self.first_bias)
        x = nn.functional.layer_norm(x.reshape(-1, wide), (wide,), self.norm.weight, self.norm.bias, self.norm.eps)
        x = nn.functional.linear(nn.functional.gelu(x), self.second_weight, self.second_bias)
        x = nn.functional.gelu(x.reshape(-1, 16 * grid * grid, narrow))
        masks = mask_weights @ x.transpose(1, 2)
        # Row, column, and two bits of each from each of the two upscalings.
        masks = masks.reshape(-1, grid, grid, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return masks.reshape(-1, self.masks, 4 * grid, 4 * grid)
