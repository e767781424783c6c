"""SAM as transformers' `SamModel` saves it, under Meta's names; and the files of a folder of ``save_pretrained``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samedge.errors import CheckpointError
from samedge.storage.files import storage_errors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG: Final = "config.json"
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
INDEXES: Final = tuple(f"{name}.index.json" for name in WEIGHTS)

_MOST_BYTES: Final = 1 << 24
_MODEL_TYPE: Final = "sam"
_GAUSSIAN: Final = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_GET_AGAIN: Final = "Get the folder again"
_NAMES: Final = (
    (r"^shared_image_embedding\.positional_embedding$", _GAUSSIAN),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$", _GAUSSIAN),
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.)layer_norm", r"\1norm"),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
)
"""Patterns of transformers' names, and Meta's. The first that matches counts."""

_HEAD: Final = re.compile(
    r"(?P<head>mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\."
    r"(?P<layer>proj_in|proj_out|layers\.(?P<place>\d+))\.(?P<end>\w+)"
)
_FIXED: Final[Mapping[tuple[str, str], tuple[object, ...]]] = {
    ("vision_config", "hidden_act"): ("gelu",),
    ("vision_config", "qkv_bias"): (True,),
    ("vision_config", "use_abs_pos"): (True,),
    ("prompt_encoder_config", "hidden_act"): ("gelu",),
    ("mask_decoder_config", "hidden_act"): ("relu",),
    ("mask_decoder_config", "num_attention_heads"): (8,),
}
"""Settings of a configuration that the weights do not show, and their values that are read."""


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Return True if keys are those of transformers' `SamModel`, or of a part of one."""
    return any(key.startswith(("vision_encoder.", "mask_decoder.upscale_conv1.")) for key in state)


def rename(state: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Return the weights under Meta's names; keys that are not known stay as they are.

    Args:
        state: Weights under bare keys.
        where: The file, for messages; ``config.json`` beside it is checked.

    Raises:
        CheckpointError: The configuration asks for what is not read.
    """
    _check(read_json(where.parent / CONFIG), where)
    depths: dict[str, int] = {}
    for key in state:
        match = _HEAD.fullmatch(key)
        if match and match["place"] is not None:
            depths[match["head"]] = max(depths.get(match["head"], 0), int(match["place"]) + 1)
    return {_name(key, depths): value for key, value in state.items()}


def _name(key: str, depths: Mapping[str, int]) -> str:
    match = _HEAD.fullmatch(key)
    if match:
        hidden = depths.get(match["head"], 0)
        at = {"proj_in": 0, "proj_out": hidden + 1}.get(match["layer"], int(match["place"] or 0) + 1)
        return f"{match['head']}.layers.{at}.{match['end']}"
    for pattern, name in _NAMES:
        renamed, count = re.subn(pattern, name, key)
        if count:
            return renamed
    return key


def _check(config: Mapping[str, Any], where: Path) -> None:
    kind = config.get("model_type", "sam")
    if kind != _MODEL_TYPE:
        raise CheckpointError(
            f"this is a model of the type {str(kind)!r} of transformers",
            where=where,
            cure="samedge reads its SamModel, of the type 'sam'",
        )
    for (part, name), values in _FIXED.items():
        of_part = config.get(part)
        value = of_part.get(name, values[0]) if isinstance(of_part, Mapping) else values[0]
        if value not in values:
            raise CheckpointError(
                f"its configuration has {part}.{name} = {value!r}, where samedge knows {values[0]!r} alone",
                where=where,
                cure="Export it with the tool that made it",
            )


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files with the weights of a folder of ``save_pretrained``; none if it is no such folder.

    Raises:
        CheckpointError: Its index names a file that is not there.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
    for name in INDEXES:
        if (folder / name).is_file():
            return shards(folder / name)
    return ()


def shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index of shards names.

    Raises:
        CheckpointError: It is no index, or names a file that is not beside it.
    """
    names = read_json(index).get("weight_map")
    files = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    if not files:
        raise CheckpointError("this is no index of weights", where=index, cure=_GET_AGAIN)
    for name in files:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"the shard {name[:80]!r} is not beside its index", where=index, cure=_GET_AGAIN)
    return tuple(index.parent / name for name in files)


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file; an empty one if there is no file.

    Raises:
        CheckpointError: The file is damaged, or larger than any configuration or index.
        StorageError: It cannot be read.
    """
    if not path.is_file():
        return {}
    with storage_errors(path, "read"), path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    try:
        content = json.loads(data.decode("utf-8-sig")) if len(data) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError("this is not the JSON that belongs here", where=path, cure=_GET_AGAIN)
    return content
