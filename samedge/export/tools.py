"""Annotation tools that run SAM graphs: the sizes that they take, and the configuration that they read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samedge.bundle.manifest import GraphRecord
from samedge.storage.files import storage_errors
from samedge.types import IOScheme

if TYPE_CHECKING:
    from samedge.models.sam.sam import Sam

ANYLABELING: Final = ("samexporter",)
"""I/O schemes with a configuration file for AnyLabeling and X-AnyLabeling."""
CONFIG_NAME: Final = "anylabeling.yaml"

_MASK_SIDE: Final = 256


@dataclass(frozen=True, slots=True)
class _Tool:
    """Fixed sizes of the tools of an I/O scheme: side of the input, px, or None; and whether they normalise."""

    names: str
    image_size: int | None
    normalises: bool


_TOOLS: Final[Mapping[IOScheme, _Tool]] = {
    "samexporter": _Tool("samexporter, AnyLabeling and X-AnyLabeling", 1024, normalises=False),
    "osam": _Tool("osam and labelme", None, normalises=True),
}


def tool_misfit(io: IOScheme, sam: Sam) -> str:
    """Return a sentence on why the tools of an I/O scheme cannot run a model; empty if they can.

    Their code has constants: the input of the released SAMs, mask prompts of 256 x 256, and ImageNet's mean.
    """
    tool = _TOOLS.get(io)
    if tool is None:
        return ""
    reasons = []
    if tool.image_size not in (None, sam.image_size):
        reasons.append(f"an input of {tool.image_size} px, and this model's has {sam.image_size} px")
    if 4 * sam.embedding_size != _MASK_SIDE:
        reasons.append(f"mask prompts of {_MASK_SIDE} px, and this model's have {4 * sam.embedding_size} px")
    if tool.normalises and sam.normalisation.stretched:
        reasons.append("ImageNet's mean and deviation, and this model's images are stretched to their own range")
    return f"{tool.names} will not run this: they have {'; '.join(reasons)}" if reasons else ""


def write_anylabeling(folder: Path, model: str, graphs: Sequence[GraphRecord], image_size: int) -> Path:
    """Write the configuration with which AnyLabeling and X-AnyLabeling load the graphs beside it, and return its path.

    Raises:
        StorageError: The file cannot be written.
    """
    files = {graph.role: graph.graph.file for graph in graphs}
    values = {
        "type": "segment_anything",
        "name": f"{model}-samedge",
        "display_name": f"{model} (samedge)",
        "encoder_model_path": files["encoder"],
        "decoder_model_path": files["decoder_single"],
        "input_size": image_size,
        "max_width": image_size,
        "max_height": image_size * 2 // 3,
    }
    path = folder / CONFIG_NAME
    with storage_errors(path):
        path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items()))  # JSON is YAML
    return path
