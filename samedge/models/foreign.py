"""Models that people have and samedge does not read, told by their keys, so that the message can name them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

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
    """Returns what a model that is not ours is, or None."""
    keys = list(keys)
    for name, pattern in FAMILIES:
        compiled = re.compile(pattern)
        if any(compiled.match(key) for key in keys):
            return name
    return None
