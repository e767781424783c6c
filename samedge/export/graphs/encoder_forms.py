"""SAM's image encoder in its exported forms: one exact rewrite, and a choice of layouts of attention.

In every form

* the softmax scale is folded into the query's weights, and divided out of the relative position tables;
* keys and values have no bias: ``q . (W k + b)`` differs from ``q . W k`` by the same number for every key, which
softmax ignores; and since its weights sum to one, the values' bias is added to the output of every head exactly once,
and can move into the bias of the projection;
* linear layers take a matrix, not a batch of matrices: one Gemm with its bias.

The forms differ in global attention, whose logits for 64 x 64 tokens are 805 MB for the 12 heads of ViT-B:

* ``chunked``: one head and half of the queries at a time, 34 MB; and everything between two attentions for a quarter of
the tokens at a time. For CPUs.
* ``mask``: the bias of relative positions is materialised and added once before the softmax, which GPU compilers fuse
into one kernel.
* ``concat``: the bias is part of the product: queries are extended by their biases for each row and column, keys by
indicators of their own row and column, and values by zeros to the same width. More arithmetic, but no bias in memory.
"""

from __future__ import annotations

from typing import Final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.models.sam.attention import RelPosAttention
from samedge.models.sam.encoders.vit import Block, ImageEncoderViT
from samedge.types import EncoderForm

ENCODER_FORMS: Final[tuple[EncoderForm, ...]] = get_args(EncoderForm)

CHUNK_QUERIES: Final = 2048
"""Maximum number of one head's queries whose logits are computed at once: 34 MB. Smaller chunks add nodes, and
compilation time in OpenVINO, which never materialises all logits of a head anyway."""

CHUNK_TOKENS: Final = 1024
"""Tokens that pass the linear layers at once. The product of all 4096 rows exceeds every cache; in quarters it takes an
eighth less time. Smaller chunks gain little, and add nodes."""


class FoldedAttention(nn.Module):
    """`RelPosAttention` with scale and biases folded away.

    Args:
        attention: Source of the weights, which are copied where they change.
        form: Layout of global attention.
        windowed: The tokens are windows, which are never chunked.
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
            # [query's row, channel, key's row], with the scale of the queries divided out.
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
        # In shapes that broadcast to the bias, before the split: one node less per part.
        rows, columns = rows.reshape(-1, heads, tokens, side, 1), columns.reshape(-1, heads, tokens, 1, side)
        keys = k.transpose(-2, -1)
        if not self.chunked:
            return self._attend(q, keys, v, rows, columns)
        # Chunks of one head's queries become "heads" with fewer queries, all split at once.
        count = tokens // self.queries
        parts = [part.reshape(-1, heads * count, self.queries, *part.shape[3:]) for part in (q, rows, columns)]
        few = zip(*(torch.split(part, 1, 1) for part in parts), strict=True)
        whole = [
            pair for pair in zip(*(torch.split(part, 1, 1) for part in (keys, v)), strict=True) for _ in range(count)
        ]
        attended = [self._attend(q, *pair, *biases) for (q, *biases), pair in zip(few, whole, strict=True)]
        return torch.cat(attended, 1).reshape(-1, heads, tokens, self.head_dim)

    def _attend(self, q: Tensor, keys: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Attend R queries ``[B, H, R, d]`` to transposed keys ``[B, H, d, T]`` and values ``[B, H, T, d]``.

        `rows` and `columns` are each query's biases for rows and columns of keys: ``[B, H, R, side, 1]``, ``[B, H, R,
        1, side]``.
        """
        bias = (rows + columns).reshape(-1, q.shape[1], q.shape[2], self.tokens)
        return (q @ keys + bias).softmax(-1) @ v

    def _concatenated(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        long_q = torch.cat([q, rows, columns], -1)
        indicators = self.indicators.expand(k.shape[0], self.heads, -1, -1)
        long_k = torch.cat([k, indicators], -1)
        # Compilers fuse only if values are as wide as queries and keys.
        long_v = F.pad(v, (0, 2 * self.grid))
        out = (long_q @ long_k.transpose(-2, -1)).softmax(-1) @ long_v
        return out[..., : self.head_dim]

    def finish(self, out: Tensor) -> Tensor:
        """Map attended values ``[..., C]`` to ``[..., C]`` as a matrix."""
        return torch.addmm(self.proj_bias, out.reshape(-1, self.dim), self.proj_weight)


class WindowedModule(nn.Module):
    """A module with the gathers that cut heads of windows from projected tokens, and put tokens back together.

    Each row is one head of one token, so that cutting windows and bringing heads to the front is one copy.

    Attributes:
        query_rows: int64 ``[windows * heads * inside]``, among ``tokens * 3 * heads`` rows of queries, keys and values.
        key_rows: The same for keys.
        value_rows: The same for values.
        back_rows: int64 ``[tokens * heads]``, among ``windows * heads * inside`` rows of attended values.
    """

    query_rows: Tensor
    key_rows: Tensor
    value_rows: Tensor
    back_rows: Tensor

    def index_windows(self, cut: Tensor, place: Tensor, heads: int, inside: int) -> None:
        """Register the gathers for tokens projected to all queries, then all keys, then all values.

        Args:
            cut: As `samedge.models.sam.encoders.vit.window_index` returns it, like `place`.
            place: See `cut`.
            heads: Attention heads.
            inside: Tokens per window.
        """
        tokens = cut.reshape(-1, 1, inside)
        head = torch.arange(heads).reshape(1, heads, 1)
        for part, name in enumerate(("query_rows", "key_rows", "value_rows")):
            self.register_buffer(name, (tokens * (3 * heads) + part * heads + head).reshape(-1))
        window, within = place // inside, place % inside
        back = (window[:, None] * heads + torch.arange(heads)) * inside + within[:, None]
        self.register_buffer("back_rows", back.reshape(-1))


class FoldedBlock(WindowedModule):
    """`Block` in an exported form."""

    def __init__(self, block: Block, form: EncoderForm) -> None:
        super().__init__()
        self.block = block
        self.attention = FoldedAttention(block.attn, form, windowed=block.window > 0)
        # Transposed here, because the tracer copies a weight for each transposition in the graph.
        self.widening = nn.Parameter(block.mlp.lin1.weight.detach().t().contiguous())
        self.narrowing = nn.Parameter(block.mlp.lin2.weight.detach().t().contiguous())
        self.tokens = block.place.numel() if block.window else self.attention.tokens
        if block.window:
            self.index_windows(block.cut, block.place, self.attention.heads, block.window * block.window)

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        """Map parts of t tokens of every image, ``[N * t, C]``, to the same shapes."""
        attended = self._attend([self.block.norm1(part) for part in parts])
        few = [attended] if len(parts) == 1 else torch.split(attended, CHUNK_TOKENS, 1)
        return [self._after_attention(*pair) for pair in zip(parts, few, strict=True)]

    def _attend(self, normed: list[Tensor]) -> Tensor:
        """Map normed tokens, in parts as for `forward`, to attended values ``[N, tokens, C]``."""
        block, attention = self.block, self.attention
        sizes = _sizes(self.tokens, len(normed))
        if block.window and block.padded:
            # Without biases, the key and value of a padding token are zero.
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
        """Map tokens ``[N * t, C]`` and their attended values to the block's output."""
        x, mlp = x + self.attention.finish(attended), self.block.mlp
        hidden = mlp.act(torch.addmm(mlp.lin1.bias, self.block.norm2(x), self.widening))
        return x + torch.addmm(mlp.lin2.bias, hidden, self.narrowing)

    def _padding(self) -> int:
        """Return the number of rows in windows that are padding."""
        return self.query_rows.numel() - self.back_rows.numel()


class FoldedViT(nn.Module):
    """`ImageEncoderViT` in an exported form, sharing most weights."""

    def __init__(self, encoder: ImageEncoderViT, form: EncoderForm) -> None:
        super().__init__()
        self.encoder = encoder
        self.chunked = form == "chunked" and encoder.grid * encoder.grid > CHUNK_TOKENS
        self.blocks = nn.ModuleList(FoldedBlock(block, form) for block in encoder.blocks if isinstance(block, Block))

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[N, 3, S, S]``, normalised, to ``[N, out_chans, g, g]``."""
        x = self.encoder.embed(image)
        channels = self.encoder.embed_dim
        # Matrices from here on: outside attention, the tokens of all images are just rows.
        parts = [part.reshape(-1, channels) for part in (torch.split(x, CHUNK_TOKENS, 1) if self.chunked else [x])]
        for block in self.blocks:
            parts = block(parts)
        sizes = _sizes(self.encoder.grid * self.encoder.grid, len(parts))
        parts = [part.reshape(-1, size, channels) for part, size in zip(parts, sizes, strict=True)]
        return self.encoder.finish(torch.cat(parts, 1) if self.chunked else parts[0])


def vit_form(encoder: ImageEncoderViT, form: EncoderForm) -> tuple[nn.Module, str]:
    """Return Meta's ViT in a form, and the name of the variant."""
    return FoldedViT(encoder, form), form


def _sizes(tokens: int, parts: int) -> list[int]:
    """Return the number of an image's tokens in each part."""
    return [CHUNK_TOKENS] * (parts - 1) + [tokens - CHUNK_TOKENS * (parts - 1)]
