"""The models that samedge knows, and the way from a checkpoint to one of them.

A model is one file with its module and one line in `MODELS`: the key that tells it, the function that reads its sizes
from the shapes, and the one that brings the weights into the form of its module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor

from samedge.errors import CheckpointError, UnknownArchitectureError
from samedge.models.checkpoints.batch_norm import fold_batch_norms
from samedge.models.checkpoints.read import Checkpoint
from samedge.models.checkpoints.shapes import MisfitError, State
from samedge.models.sam.build import empty_sam, weight_shapes
from samedge.models.sam.configs import KNOWN_CONFIGS, SamConfig, TinyViTConfig, ViTConfig
from samedge.models.sam.sam import PIXEL_MEAN, PIXEL_STD, Sam
from samedge.models.sam.shapes import decoder_sizes, tiny_vit_sizes, vit_sizes

_CURE: Final = "samedge reads SAM ViT-B, ViT-L, ViT-H, MobileSAM, YOLOv8, FastSAM and fine-tunes of them in any size"
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A family of models.

    Attributes:
        name: Name of those of its members that have none of their own.
        marker: A key that only this family has, after `prepare`.
        read: Returns the sizes of its image encoder, given the weights and the image size asked for.
        fit: Returns the weights as the module of these sizes takes them.
    """

    name: str
    marker: str
    read: Callable[[State, int | None], ViTConfig | TinyViTConfig]
    fit: Callable[[dict[str, Tensor], SamConfig], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Recognised:
    """The recognised architecture of a state dict.

    Attributes:
        name: Such as "sam_vit_b" or "mobile_sam"; the family's where the sizes are of no known member.
        config: Its sizes.
        state: Its weights, with exactly the keys and shapes of `empty_sam(config)`.
    """

    name: str
    config: SamConfig
    state: dict[str, Tensor]


def build_model(checkpoint: Checkpoint, image_size: int | None = None) -> Sam:
    """Return the model of a checkpoint, in evaluation mode.

    Args:
        checkpoint: What `read_checkpoint` returned.
        image_size: Side of the square input, px, for architectures whose weights do not tell it.

    Raises:
        UnknownArchitectureError: The keys and shapes are of no known model.
        UsageError: The image size does not fit the model.
    """
    return assemble(recognise(checkpoint, image_size))


def assemble(found: Recognised) -> Sam:
    """Return the model of recognised weights, in evaluation mode."""
    sam = empty_sam(found.config)
    sam.load_state_dict(found.state, strict=True)
    return sam.requires_grad_(requires_grad=False)


def recognise(checkpoint: Checkpoint, image_size: int | None = None) -> Recognised:
    """Return which model a checkpoint is of, from its keys and shapes alone.

    Args:
        checkpoint: What `read_checkpoint` returned.
        image_size: Side of the square input, px, for architectures whose weights do not tell it. The entry
            ``image_size`` in the metadata of a safetensors file says it too.

    Raises:
        UnknownArchitectureError: The keys and shapes are of no known model.
        UsageError: The image size does not fit the model.
    """
    state = _folded(checkpoint)
    spec = next((spec for spec in MODELS if spec.marker in state), None)
    if spec is None:
        raise _unknown(checkpoint, "it has the keys of no known model", unexpected=list(checkpoint.state))
    try:
        config = _sizes(spec, state, image_size if image_size is not None else _image_size_in(checkpoint))
    except MisfitError as error:
        raise _unknown(checkpoint, f"it begins like {spec.name}, but {error}") from error
    state = spec.fit(state, config)
    _check_shapes(checkpoint, state, config)
    return Recognised(model_name(config, spec.name), config, state)


def _sizes(spec: ModelSpec, state: State, image_size: int | None) -> SamConfig:
    config = SamConfig(spec.read(state, image_size), decoder_sizes(state))
    if config.encoder.out_chans != config.decoder.dim:
        raise MisfitError(
            f"its encoder gives {config.encoder.out_chans} channels and its decoder wants {config.decoder.dim}"
        )
    return config


def model_name(config: SamConfig, family: str) -> str:
    """Return the name of the model that has these sizes, or its family's."""
    return next((name for name, known in KNOWN_CONFIGS.items() if known == config), family)


def _fit_vit(state: dict[str, Tensor], config: SamConfig) -> dict[str, Tensor]:
    """Interpolate the relative positions of global attention that a fine-tune kept from another image size."""
    encoder = config.encoder
    if not isinstance(encoder, ViTConfig):
        raise TypeError("not the sizes of a ViT")
    fitted, rows = dict(state), 2 * encoder.grid - 1
    for i, window in enumerate(encoder.window_sizes):
        high, wide = (f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for axis in "hw")
        # Only tables of one shape: anything else is an odd one, which the check of shapes names.
        if window == 0 and len(state[high]) != rows and wide in state and state[wide].shape == state[high].shape:
            for key in (high, wide):
                fitted[key] = fit_relative_positions(state[key], rows)
    return fitted


def fit_relative_positions(table: Tensor, rows: int) -> Tensor:
    """Return a table of relative positions ``[R, d]`` interpolated to ``[rows, d]``, as Meta's code does."""
    columns = torch.nn.functional.interpolate(table.T.unsqueeze(0), size=rows, mode="linear")
    return columns[0].T.contiguous()


def _fit_tiny_vit(state: dict[str, Tensor], _config: SamConfig) -> dict[str, Tensor]:
    """Leave out the classifier that TinyViT was trained with, and tables that some forks save."""
    unused = ("image_encoder.norm_head.", "image_encoder.head.")
    derived = (".attention_bias_idxs", ".attn.ab")
    return {key: value for key, value in state.items() if not key.startswith(unused) and not key.endswith(derived)}


MODELS: Final = (
    ModelSpec("sam_vit", "image_encoder.patch_embed.proj.weight", vit_sizes, _fit_vit),
    ModelSpec("tiny_vit_sam", "image_encoder.patch_embed.seq.0.weight", tiny_vit_sizes, _fit_tiny_vit),
)


def _folded(checkpoint: Checkpoint) -> dict[str, Tensor]:
    state = fold_batch_norms(_without_normalisation(checkpoint))
    for key, value in state.items():
        if key not in checkpoint.state and not torch.isfinite(value).all():
            raise CheckpointError(
                f"the batch norm at {key.rpartition('.')[0]!r} divides by zero or by the root of a negative variance",
                where=checkpoint.path,
                cure="The training diverged or the file is damaged: use another checkpoint",
            )
    return state


def _without_normalisation(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Leave out the normalisation that some versions save, if it is SAM's."""
    state = dict(checkpoint.state)
    for key, known in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
        value = state.pop(key, None)
        if value is not None and not (value.numel() == 3 and torch.allclose(value.flatten(), torch.tensor(known))):
            raise _unknown(checkpoint, f"it normalises images in its own way: its {key!r} is not SAM's")
    return state


def _image_size_in(checkpoint: Checkpoint) -> int | None:
    text = checkpoint.metadata.get("image_size")
    if text is None:
        return None
    if not text.isdecimal():
        raise CheckpointError(
            f"its metadata says image_size = {text!r}, which is not a size",
            where=checkpoint.path,
            cure="Give image_size",
        )
    return int(text)


def _check_shapes(checkpoint: Checkpoint, state: State, config: SamConfig) -> None:
    expected = weight_shapes(config)
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        raise _unknown(checkpoint, "its keys differ from those of a SAM", missing=missing, unexpected=unexpected)
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise _unknown(checkpoint, f"{key!r} has the shape {tuple(state[key].shape)} where {shape} would fit")


def _unknown(
    checkpoint: Checkpoint, why: str, *, missing: list[str] | None = None, unexpected: list[str] | None = None
) -> UnknownArchitectureError:
    family = foreign_family(checkpoint.state)
    looks = f"this looks like {family}, which samedge does not read" if family else "this model is not known"
    parts = [f"{looks}: {why}"]
    for word, keys in (("missing", missing or []), ("not expected", unexpected or [])):
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            parts.append(f"{word}: {', '.join(islice(keys, _SHOWN))}{more}")
    return UnknownArchitectureError(
        "; ".join(parts),
        where=checkpoint.path,
        cure=_CURE,
        family=family,
        missing=tuple(missing or ()),
        unexpected=tuple(unexpected or ()),
    )


FAMILIES: Final = (
    ("SAM-HQ", r"mask_decoder\.(hf_token|embedding_maskfeature|compress_vit_feat)\b"),
    ("SAM 2", r"(sam_mask_decoder|memory_attention|image_encoder\.trunk)\."),
    ("EfficientSAM", r"mask_decoder\.final_output_upscaling_layers\."),
    ("a SAM with adapter layers", r"image_encoder\..*([Aa]dapter|prompt_generator)"),
    ("a SAM with LoRA layers", r".*(lora_|\.linear_[ab]_[qv]\.|^w_[ab]_\d+)"),
    ("SAM as Hugging Face's transformers saves it", r"(shared_image_embedding\.|vision_encoder\.layers\.)"),
    ("a YOLO model", r"(model\.)*\d+\.(conv|cv\d|m)\."),
    ("a vision transformer without SAM's decoder", r"(cls_token$|pos_embed$|blocks\.\d+\.(attn|norm1)\.)"),
    ("the image encoder of a SAM alone", r"neck\.0\.weight$"),
)
"""Name and pattern at the start of a key. The first that matches counts."""


def foreign_family(keys: Iterable[str]) -> str | None:
    """Return what a model that is not ours is, or None."""
    keys = list(keys)
    for name, pattern in FAMILIES:
        compiled = re.compile(pattern)
        if any(compiled.match(key) for key in keys):
            return name
    return None
