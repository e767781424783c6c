"""SAM's image encoder in the forms that are exported: one exact rewrite, and a choice of how attention is laid out.

In every form

* the softmax scale is in the query's weights, and in the tables of relative positions against it;
* keys and values have no bias. ``q . (W k + b)`` differs from ``q . W k`` by the same number for every key, which a
  softmax over keys ignores; and as its weights sum to one, the bias of the values is added to the output of every head
  once, which the bias of the projection takes in;
* linear layers see a matrix, not a batch of them: one Gemm with its bias.

The forms differ in global attention, whose logits for 64 x 64 tokens are 805 MB for the 12 heads of ViT-B:

* ``chunked``: one head and half of the queries at a time, 34 MB; and all that lies between two attentions for a
  quarter of the tokens at a time. For processors.
* ``mask``: the bias of relative positions is materialised and added once before the softmax. Compilers for GPUs fuse
  this into one kernel.
* ``concat``: the bias is in the product: queries are continued by their biases for each row and column, keys by the
  indicators of their own row and column, values by zeros to the same width. More arithmetic, no bias in memory.
"""

from __future__ import annotations

from typing import Final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.export.graphs.window_heads import window_rows
from samedge.models.sam.attention import RelPosAttention
from samedge.models.sam.encoders.vit import Block, ImageEncoderViT
from samedge.types import EncoderForm

ENCODER_FORMS: Final[tuple[EncoderForm, ...]] = get_args(EncoderForm)

CHUNK_QUERIES: Final = 2048
"""Queries of one head, at most, whose logits are computed at once: 34 MB. Fewer have a node more for every
step, which OpenVINO, which never holds all logits of a head, takes longer to compile, for nothing."""

CHUNK_TOKENS: Final = 1024
"""Tokens that go through the linear layers at once. A product of all 4096 rows goes through its result again and again,
and no cache holds it; a quarter of them takes an eighth less time. Fewer gain little, and have more nodes."""


class FoldedAttention(nn.Module):
    """`RelPosAttention` with scale and biases folded away.

    Args:
        attention: Whose weights are taken; they are copied where they change.
        form: How global attention is laid out.
        windowed: The tokens are windows, which are small: never chunked.
    """

    def __init__(self, attention: RelPosAttention, form: EncoderForm, *, windowed: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.grid = attention.num_heads, attention.head_dim, attention.grid
        self.dim = self.heads * self.head_dim
        self.tokens = self.grid * self.grid
        self.chunked = form == "chunked" and not windowed and self.tokens > CHUNK_QUERIES
        whole_rows = (side for side in range(self.grid, 0, -1) if self.grid % side == 0)
        self.queries = next(
            side * self.grid for side in whole_rows if side * self.grid <= max(CHUNK_QUERIES, self.grid)
        )
        self.concat = form == "concat" and not windowed
        with torch.no_grad():
            scale = torch.ones(3 * self.dim)
            scale[: self.dim] = attention.scale
            self.qkv_weight = nn.Parameter((attention.qkv.weight * scale[:, None]).t().contiguous())
            bias = torch.zeros(3 * self.dim)
            bias[: self.dim] = attention.qkv.bias[: self.dim] * attention.scale
            self.qkv_bias = nn.Parameter(bias)
            self.proj_weight = nn.Parameter(attention.proj.weight.t().contiguous())
            self.proj_bias = nn.Parameter(attention.proj.bias + attention.proj.weight @ attention.qkv.bias[-self.dim :])
            # [query's row, channel, key's row]; scaled queries meet them, so they are scaled back.
            rows, columns = attention.rel_pos_h[attention.index], attention.rel_pos_w[attention.index]
            self.rows = nn.Parameter((rows / attention.scale).transpose(1, 2).contiguous())
            self.columns = nn.Parameter((columns / attention.scale).transpose(1, 2).contiguous())
        if self.concat:
            own = torch.arange(self.tokens)
            indicators = torch.zeros(self.tokens, 2 * self.grid)
            indicators[own, own // self.grid] = 1
            indicators[own, self.grid + own % self.grid] = 1
            self.register_buffer("indicators", indicators)
            self.indicators: Tensor

    def project(self, x: Tensor, tokens: int) -> Tensor:
        """Map ``[B * tokens, C]`` to queries, keys and values ``[B, tokens, 3 * C]``."""
        return torch.addmm(self.qkv_bias, x, self.qkv_weight).reshape(-1, tokens, 3 * self.dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map queries, keys and values ``[B, h, T, d]`` to ``[B, h, T, d]``."""
        side, heads, tokens = self.grid, self.heads, self.tokens
        grid = q.reshape(-1, heads, side, side, self.head_dim)
        rows, columns = grid @ self.rows, (grid.transpose(2, 3) @ self.columns).transpose(2, 3)
        if self.concat:
            rows, columns = (part.reshape(-1, heads, tokens, side) for part in (rows, columns))
            return self._concatenated(q, k, v, rows, columns)
        # In the shapes in which their sum is the bias, before they are split: a node less for every part.
        rows, columns = rows.reshape(-1, heads, tokens, side, 1), columns.reshape(-1, heads, tokens, 1, side)
        keys = k.transpose(-2, -1)
        if not self.chunked:
            return self._attend(q, keys, v, rows, columns)
        # Some of the queries of one head at a time: "heads" with as many queries less, split all at once.
        count = tokens // self.queries
        parts = [part.reshape(-1, heads * count, self.queries, *part.shape[3:]) for part in (q, rows, columns)]
        few = zip(*(torch.split(part, 1, 1) for part in parts), strict=True)
        whole = [
            pair for pair in zip(*(torch.split(part, 1, 1) for part in (keys, v)), strict=True) for _ in range(count)
        ]
        attended = [self._attend(q, *pair, *biases) for (q, *biases), pair in zip(few, whole, strict=True)]
        return torch.cat(attended, 1).reshape(-1, heads, tokens, self.head_dim)

    def _attend(self, q: Tensor, keys: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Attend R queries of H heads.

        Args:
            q: ``[B, H, R, d]``.
            keys: ``[B, H, d, T]``.
            v: ``[B, H, T, d]``.
            rows: Bias of each query for each row of keys: ``[B, H, R, side, 1]``.
            columns: Likewise for columns: ``[B, H, R, 1, side]``.

        Returns:
            ``[B, H, R, d]``.
        """
        bias = (rows + columns).reshape(-1, q.shape[1], q.shape[2], self.tokens)
        return (q @ keys + bias).softmax(-1) @ v

    def _concatenated(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        long_q = torch.cat([q, rows, columns], -1)
        indicators = self.indicators.expand(k.shape[0], self.heads, -1, -1)
        long_k = torch.cat([k, indicators], -1)
        # Nothing fuses unless values are as wide as queries and keys.
        long_v = F.pad(v, (0, 2 * self.grid))
        out = (long_q @ long_k.transpose(-2, -1)).softmax(-1) @ long_v
        return out[..., : self.head_dim]

    def finish(self, out: Tensor) -> Tensor:
        """Map attended values ``[..., C]`` to ``[..., C]`` as a matrix."""
        return torch.addmm(self.proj_bias, out.reshape(-1, self.dim), self.proj_weight)


class FoldedBlock(nn.Module):
    """`Block` in an exported form."""

    def __init__(self, block: Block, form: EncoderForm) -> None:
        super().__init__()
        self.block = block
        self.attention = FoldedAttention(block.attn, form, windowed=block.window > 0)
        # As a product takes them: of a weight that is transposed in the graph, the tracer makes a copy for each use.
        self.widening = nn.Parameter(block.mlp.lin1.weight.detach().t().contiguous())
        self.narrowing = nn.Parameter(block.mlp.lin2.weight.detach().t().contiguous())
        self.tokens = block.place.numel() if block.window else self.attention.tokens
        if block.window:
            self._index_windows(block)

    def _index_windows(self, block: Block) -> None:
        """Make the gathers that take heads of windows from tokens, and tokens from heads of windows."""
        rows = window_rows(block.cut, block.place, self.attention.heads, block.window * block.window)
        self.register_buffer("query_rows", rows.query)
        self.register_buffer("key_rows", rows.key)
        self.register_buffer("value_rows", rows.value)
        self.register_buffer("back_rows", rows.back)
        self.query_rows: Tensor
        self.key_rows: Tensor
        self.value_rows: Tensor
        self.back_rows: Tensor

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        """Map tokens, in parts of t of the tokens of every image, ``[N * t, C]``, to the same shapes."""
        attended = self._attend([self.block.norm1(part) for part in parts])
        few = [attended] if len(parts) == 1 else torch.split(attended, CHUNK_TOKENS, 1)
        return [self._after_attention(*pair) for pair in zip(parts, few, strict=True)]

    def _attend(self, normed: list[Tensor]) -> Tensor:
        """Map normed tokens, in parts as for `forward`, to attended values ``[N, tokens, C]``."""
        block, attention = self.block, self.attention
        sizes = _sizes(self.tokens, len(normed))
        if block.window and block.padded:
            # A padding token's key and value are zero, as all else is without the biases.
            last = F.pad(normed[-1].reshape(-1, sizes[-1], attention.dim), (0, 0, 0, 1))
            normed, sizes = [*normed[:-1], last.reshape(-1, attention.dim)], [*sizes[:-1], sizes[-1] + 1]
        projected = [attention.project(part, size) for part, size in zip(normed, sizes, strict=True)]
        qkv = projected[0] if len(projected) == 1 else torch.cat(projected, 1)
        if block.window:
            rows = qkv.reshape(-1, qkv.shape[1] * 3 * attention.heads, attention.head_dim)
            shape = (-1, attention.heads, attention.tokens, attention.head_dim)
            q, k, v = (
                rows.index_select(1, index).reshape(shape)
                for index in (self.query_rows, self.key_rows, self.value_rows)
            )
            out = attention.attend(q, k, v).reshape(-1, self.back_rows.numel() + self._padding(), attention.head_dim)
            return out.index_select(1, self.back_rows).reshape(-1, self.tokens, attention.dim)
        q, k, v = (
            qkv.reshape(-1, attention.tokens, 3, attention.heads, attention.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        )
        return attention.attend(q, k, v).transpose(1, 2).reshape(-1, self.tokens, attention.dim)

    def _after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Map tokens ``[N * t, C]``, and what attention made of them, to the block's output for them."""
        x = x + self.attention.finish(attended)
        return x + self._feed_forward(self.block.norm2(x))

    def _padding(self) -> int:
        """Rows of windows that stand for no token."""
        return self.query_rows.numel() - self.back_rows.numel()

    def _feed_forward(self, x: Tensor) -> Tensor:
        mlp = self.block.mlp
        return torch.addmm(mlp.lin2.bias, mlp.act(torch.addmm(mlp.lin1.bias, x, self.widening)), self.narrowing)


class FoldedViT(nn.Module):
    """`ImageEncoderViT` in an exported form: the same input, the same output.

    Args:
        encoder: Whose weights are taken; most are shared.
        form: How global attention is laid out.
    """

    def __init__(self, encoder: ImageEncoderViT, form: EncoderForm) -> None:
        super().__init__()
        self.encoder = encoder
        self.chunked = form == "chunked" and encoder.grid * encoder.grid > CHUNK_TOKENS
        self.blocks = nn.ModuleList(FoldedBlock(block, form) for block in encoder.blocks if isinstance(block, Block))

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[N, 3, S, S]``, normalised, to ``[N, out_chans, g, g]``."""
        x = self.encoder.embed(image)
        channels = self.encoder.embed_dim
        # Matrices from here on: between two attentions all images' tokens are rows alike.
        parts = [part.reshape(-1, channels) for part in (torch.split(x, CHUNK_TOKENS, 1) if self.chunked else [x])]
        for block in self.blocks:
            parts = block(parts)
        sizes = _sizes(self.encoder.grid * self.encoder.grid, len(parts))
        parts = [part.reshape(-1, size, channels) for part, size in zip(parts, sizes, strict=True)]
        return self.encoder.finish(torch.cat(parts, 1) if self.chunked else parts[0])


def vit_form(encoder: ImageEncoderViT, form: EncoderForm) -> tuple[nn.Module, str]:
    """Return Meta's ViT as it is exported in a form, and the name of that variant."""
    return FoldedViT(encoder, form), form


def _sizes(tokens: int, parts: int) -> list[int]:
    """Return the number of an image's tokens in each part."""
    return [CHUNK_TOKENS] * (parts - 1) + [tokens - CHUNK_TOKENS * (parts - 1)]
