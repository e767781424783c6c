"""Recognition of SAMs by the keys and shapes of their weights; `encoders/families.py` has the table of encoders."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
from samedge.models.sam.configs import IMAGENET, SamConfig
from samedge.models.sam.encoders.families import EncoderFamily, encoder_families, known_configs
from samedge.models.sam.sam import Sam
from samedge.models.sam.shapes import decoder_sizes

_CURE: Final = (
    "samedge reads SAM ViT-B, ViT-L, ViT-H, MobileSAM, LiteMedSAM, YOLO, FastSAM and fine-tunes of them in any size"
)
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Recognised:
    """A recognised state dict.

    Attributes:
        name: Such as "sam_vit_b" or "mobile_sam"; the encoder family's for unknown sizes.
        config: Its sizes.
        state: Its weights, with exactly the keys and shapes of `empty_sam(config)`.
        notes: Sentences about what was assumed.
    """

    name: str
    config: SamConfig
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def build_model(checkpoint: Checkpoint, image_size: int | None = None) -> Sam:
    """Return the model of a checkpoint, in evaluation mode; as `recognise`."""
    return assemble(recognise(checkpoint, image_size))


def assemble(found: Recognised) -> Sam:
    """Return the model of recognised weights, in evaluation mode."""
    sam = empty_sam(found.config)
    sam.load_state_dict(found.state, strict=True)
    return sam.requires_grad_(requires_grad=False)


def recognise(checkpoint: Checkpoint, image_size: int | None = None) -> Recognised:
    """Recognise a model by its keys and shapes alone.

    Args:
        checkpoint: A checkpoint.
        image_size: Side of the square input, px, for architectures whose weights do not determine it; by default the
            entry ``image_size`` in a safetensors file's metadata.

    Raises:
        UnknownArchitectureError: The keys and shapes are those of no known model.
        UsageError: The image size does not fit the model.
    """
    state = _folded(checkpoint)
    family = next((family for family in encoder_families() if family.marker in state), None)
    if family is None:
        raise _unknown(checkpoint, "it has the keys of no known model", unexpected=list(checkpoint.state))
    size = image_size if image_size is not None else _image_size_in(checkpoint)
    try:
        config = _sizes(family, state, size)
    except MisfitError as error:
        raise _unknown(checkpoint, f"it resembles {family.name}, but {error}") from error
    model = family.model()
    assumptions = getattr(model, "assumptions", None)  # absent in plug-ins' encoders
    notes = () if assumptions is None else assumptions(state, size)
    state = model.fit(state, config.encoder)
    _check_shapes(checkpoint, state, config)
    name = next((name for name, known in known_configs().items() if known == config), family.name)
    return Recognised(name, config, state, notes)


def _sizes(family: EncoderFamily, state: State, image_size: int | None) -> SamConfig:
    config = SamConfig(family.model().sizes(state, image_size), decoder_sizes(state))
    if config.encoder.out_chans != config.decoder.dim:
        raise MisfitError(
            f"its encoder returns {config.encoder.out_chans} channels but its decoder takes {config.decoder.dim}"
        )
    return config


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
    """Drop the normalisation that some versions save, if it is SAM's."""
    state = dict(checkpoint.state)
    for key, known in (("pixel_mean", IMAGENET.pixel_mean), ("pixel_std", IMAGENET.pixel_std)):
        value = state.pop(key, None)
        if value is not None and not (value.numel() == 3 and torch.allclose(value.flatten(), torch.tensor(known))):
            raise _unknown(checkpoint, f"its {key!r} is not SAM's")
    return state


def _image_size_in(checkpoint: Checkpoint) -> int | None:
    text = checkpoint.metadata.get("image_size")
    if text is None:
        return None
    if not text.isdecimal():
        raise CheckpointError(
            f"invalid image_size {text!r} in the metadata", where=checkpoint.path, cure="Give image_size"
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
            raise _unknown(checkpoint, f"{key!r} has the shape {tuple(state[key].shape)} instead of {shape}")


def _unknown(
    checkpoint: Checkpoint, why: str, *, missing: list[str] | None = None, unexpected: list[str] | None = None
) -> UnknownArchitectureError:
    family = foreign_family(checkpoint.state)
    looks = f"this looks like {family}, which samedge does not read" if family else "unknown model"
    cure = _CURES.get(family or "", _CURE)
    if _has_no_encoder(checkpoint.state):
        family, cure = DECODER_ALONE, _BASE_CURE
        looks = f"this looks like {family}"
    parts = [f"{looks}: {why}"]
    for word, keys in (("missing", missing or []), ("unexpected", unexpected or [])):
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            parts.append(f"{word}: {', '.join(islice(keys, _SHOWN))}{more}")
    return UnknownArchitectureError(
        "; ".join(parts),
        where=checkpoint.path,
        cure=cure,
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
    ("the image encoder of a SAM alone", r"neck\.0\.weight$"),
    ("a vision transformer without SAM's decoder", r"(cls_token$|pos_embed$|blocks\.\d+\.(attn|norm1)\.)"),
)
"""Name, and pattern at the start of a key. The first match counts."""


DECODER_ALONE: Final = "the mask decoder of a SAM without its image encoder"
_BASE_CURE: Final = "Export it with the checkpoint that it was trained from: samedge export FILE --base CHECKPOINT"
_CURES: Final = {
    "the image encoder of a SAM alone": "Save the whole model: torch.save(sam.state_dict(), path)",
    "a SAM with adapter layers": "Such layers are code of their own: fine-tune with LoRA, or the mask decoder alone",
    "a SAM with LoRA layers": "Merge them where they were trained, and save the weights",
}
"""Cures, by the kind of file that cannot be read."""


def _has_no_encoder(state: State) -> bool:
    parts = {part for key in state for part in key.split(".")}
    return "mask_decoder" in parts and not parts & {"image_encoder", "vision_encoder"}


def foreign_family(keys: Iterable[str]) -> str | None:
    """Return the name of a kind of model that samedge does not read, or None."""
    keys = list(keys)
    for name, pattern in FAMILIES:
        compiled = re.compile(pattern)
        if any(compiled.match(key) for key in keys):
            return name
    return None
