"""Meta's ViT among the image encoders: sizes from the shapes of weights, and the module from sizes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from samedge.errors import UsageError
from samedge.models.checkpoints.shapes import MisfitError, State, count_entries, shape_of
from samedge.models.sam.configs import VIT_CONFIGS, ViTConfig
from samedge.models.sam.encoders.families import Shapes
from samedge.models.sam.encoders.vit import ImageEncoderViT


class ViTModel:
    """The `samedge.models.sam.encoders.families.EncoderModel` of Meta's ViT."""

    def sizes(self, state: State, image_size: int | None) -> ViTConfig:
        """Read the sizes; to an image size other than that of the weights, positions are resized."""
        at = "image_encoder"
        embed_dim, _, patch_size, _ = shape_of(state, f"{at}.patch_embed.proj.weight", 4)
        _, grid, width, _ = shape_of(state, f"{at}.pos_embed", 4)
        if grid != width:
            raise MisfitError(f"its images are not square: {grid} x {width} tokens")
        size = grid * patch_size if image_size is None else image_size
        if size <= 0 or size % patch_size:
            cure = f"Omit it for the size of the weights, {grid * patch_size} px, or choose a multiple of {patch_size}"
            raise UsageError(f"an image size of {size} px is not possible for this model", cure=cure)
        depth = count_entries(state, f"{at}.blocks")
        if _has_no_positions(state):
            return _without_positions(state, embed_dim, depth, size, patch_size)
        rel_pos = [shape_of(state, f"{at}.blocks.{i}.attn.rel_pos_h", 2) for i in range(depth)]
        if not rel_pos or embed_dim % rel_pos[0][1]:
            raise MisfitError("its attention has no whole number of heads")
        return ViTConfig(
            image_size=size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=embed_dim // rel_pos[0][1],
            mlp_dim=shape_of(state, f"{at}.blocks.0.mlp.lin1.weight", 2)[0],
            window_sizes=window_sizes([length for length, _ in rel_pos], grid),
            out_chans=shape_of(state, f"{at}.neck.0.weight", 4)[0],
        )

    def fit(self, state: dict[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
        """Interpolate positions that are of another image size, as Meta's code and SAMed's do.

        A model without relative positions gets tables of zeros, which change nothing.
        """
        fitted, rows = dict(state), 2 * config.grid - 1
        positions = state["image_encoder.pos_embed"]
        if positions.shape[1] != config.grid:
            fitted["image_encoder.pos_embed"] = resize_positions(positions, config.grid)
        if _has_no_positions(state):
            for i, window in enumerate(config.window_sizes):
                for axis in "hw":
                    table = torch.zeros(2 * (window or config.grid) - 1, config.embed_dim // config.num_heads)
                    fitted[f"image_encoder.blocks.{i}.attn.rel_pos_{axis}"] = table
            return fitted
        for i, window in enumerate(config.window_sizes):
            high, wide = (f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for axis in "hw")
            # Only tables of one shape: the check of shapes reports any other.
            if window == 0 and len(state[high]) != rows and wide in state and state[wide].shape == state[high].shape:
                for key in (high, wide):
                    fitted[key] = fit_relative_positions(state[key], rows)
        return fitted

    def assumptions(self, state: State, image_size: int | None) -> tuple[str, ...]:
        """Return a note if positions are resized, or do not determine heads and windows."""
        notes = []
        _, grid, _, _ = shape_of(state, "image_encoder.pos_embed", 4)
        trained = grid * shape_of(state, "image_encoder.patch_embed.proj.weight", 4)[2]
        if image_size not in (None, trained):
            notes.append(f"positions resized from {trained} px to {image_size} px, as SAMed does")
        if _has_no_positions(state):
            notes.append(
                "heads and windows assumed as in the SAM of this width and depth: there are no relative positions"
            )
        return tuple(notes)

    def build(self, config: ViTConfig) -> nn.Module:
        """Return the encoder."""
        return ImageEncoderViT(config)

    def seeded_shapes(self, shapes: Shapes, config: ViTConfig) -> Shapes:
        """Return the module's shapes."""
        return shapes


def _has_no_positions(state: State) -> bool:
    return not any(key.startswith("image_encoder.") and ".rel_pos_" in key for key in state)


def _without_positions(state: State, embed_dim: int, depth: int, image_size: int, patch_size: int) -> ViTConfig:
    """Return the sizes of a ViT with ``use_rel_pos=False``; heads and windows are those of the SAM of its sizes."""
    known = (config.encoder for config in VIT_CONFIGS.values() if isinstance(config.encoder, ViTConfig))
    like = next((each for each in known if (each.embed_dim, each.depth) == (embed_dim, depth)), None)
    if like is None:
        raise MisfitError(
            "it has no relative positions, which determine heads and windows, and the sizes of no known SAM"
        )
    return replace(
        like,
        image_size=image_size,
        patch_size=patch_size,
        mlp_dim=shape_of(state, "image_encoder.blocks.0.mlp.lin1.weight", 2)[0],
        out_chans=shape_of(state, "image_encoder.neck.0.weight", 4)[0],
    )


def window_sizes(lengths: list[int], grid: int) -> tuple[int, ...]:
    """Return the window of each block, 0 for global attention, from the lengths of its relative position tables.

    A table for a side of n tokens has 2 n - 1 rows. A fine-tune at another image size may have kept the original tables
    of global attention, which Meta's code interpolates: then the longest tables are the global ones.
    """
    whole = 2 * grid - 1
    if whole not in lengths and len(set(lengths)) > 1:
        whole = max(lengths)
    return tuple(0 if length == whole else (length + 1) // 2 for length in lengths)


def resize_positions(positions: Tensor, grid: int) -> Tensor:
    """Resize absolute positions ``[1, g, g, d]`` to ``[1, grid, grid, d]``, bilinearly, as SAMed's ``load_from``."""
    maps = torch.nn.functional.interpolate(positions.permute(0, 3, 1, 2), (grid, grid), mode="bilinear")
    return maps.permute(0, 2, 3, 1).contiguous()


def fit_relative_positions(table: Tensor, rows: int) -> Tensor:
    """Interpolate a table of relative positions ``[R, d]`` to ``[rows, d]``, as Meta's code does."""
    columns = torch.nn.functional.interpolate(table.T.unsqueeze(0), size=rows, mode="linear")
    return columns[0].T.contiguous()
