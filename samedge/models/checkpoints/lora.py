"""LoRA merged into the weights that it adds to: ``W + scale * B A``, with nothing left of it at run time.

Two forms are read. PEFT's has a pair of matrices beside each weight, and the scale, ``lora_alpha / r``, in
``adapter_config.json``. That of SAMed, cellSAM and others has pairs for queries and values alone, either beside the
projection that they add to or as the lists ``w_a_000``, ``w_b_000`` of all blocks; it has no alpha, and the scale is 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from samedge.errors import CheckpointError
from samedge.models.checkpoints.hugging_face import read_json

ADAPTER_CONFIG: Final = "adapter_config.json"

_PEFT: Final = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.(?P<adapter>[^.]+))?\.weight")
_BESIDE: Final = re.compile(r"(?P<module>.+\.qkv)\.linear_(?P<side>[ab])_(?P<part>[qv])\.weight")
_LISTED: Final = re.compile(r"w_(?P<side>[ab])_(?P<place>\d+)")
_OTHER: Final = re.compile(r".*(lora_|\.linear_[ab]_[a-z]+\.|^w_[ab]_)")
_LONGEST: Final = 200
_REPEATED: Final = re.compile(r"\)[*+?{]|\\\d")
"""Groups that repeat, and references to groups."""
_MERGE_THERE: Final = "merge it where it was trained (PEFT: model.merge_and_unload()), and save its weights"


@dataclass(frozen=True, slots=True)
class _Scales:
    """Scale of each module's pair, from an option or a configuration of PEFT's."""

    fixed: float | None
    config: Mapping[str, Any]

    def of(self, module: str, rank: int) -> float | None:
        """Return the scale of a module's pair, or None if nothing tells it."""
        if self.fixed is not None:
            return self.fixed
        alpha = self._by_module("alpha_pattern", module, self.config.get("lora_alpha"))
        if not isinstance(alpha, (int, float)):
            return None
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") is True else rank)

    def _by_module(self, name: str, module: str, default: object) -> object:
        patterns = self.config.get(name)
        if not isinstance(patterns, dict):
            return default
        return next((value for key, value in patterns.items() if _names(str(key), module)), default)


def _names(pattern: str, module: str) -> bool:
    # Patterns come with the file. These take at most a square of a name's length to match.
    if len(pattern) > _LONGEST or _REPEATED.search(pattern) or len(re.findall(r"[*+{]", pattern)) > 1:
        raise CheckpointError(
            f"the pattern {pattern[:_LONGEST]!r} is too complicated",
            where=ADAPTER_CONFIG,
            cure=f"Write names, or {_MERGE_THERE}",
        )
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return False


def merge_lora(state: dict[str, Tensor], where: Path, scale: float | None = None) -> tuple[dict[str, Tensor], str]:
    """Return weights with every LoRA pair merged, and a sentence about it; the text is empty if there are none.

    Args:
        state: Weights under bare keys, float32.
        where: The file, for messages; PEFT's configuration is looked for beside it.
        scale: What the product of each pair is multiplied by; None for what the configuration or the form tells.

    Raises:
        CheckpointError: There are layers of LoRA that cannot be merged: the scale is not known, a weight that they
            add to is not there, or they are of another form.
    """
    if not any(_OTHER.match(key) for key in state):
        return state, ""
    merged = {key.replace(".base_layer.", ".").replace(".qkv.qkv.", ".qkv."): value for key, value in state.items()}
    scales = _Scales(scale, read_json(where.parent / ADAPTER_CONFIG))
    pairs = _peft_pairs(merged, scales, where) or _query_value_pairs(merged, 1.0 if scale is None else scale, where)
    left = next((key for key in merged if _OTHER.match(key)), None)
    if left is not None or not pairs:
        raise _refused(f"this has LoRA layers of a form that is not read ({left})", where)
    for pair in pairs:
        weight = merged[pair.key]
        if pair.delta.shape != weight[pair.rows].shape:
            raise _refused(f"the LoRA layers at {pair.key!r} do not fit its shape {tuple(weight.shape)}", where)
        changed = weight.clone()
        changed[pair.rows] = (weight[pair.rows].double() + pair.delta).float()
        merged[pair.key] = changed
    used = sorted({pair.scale for pair in pairs})
    said = ", ".join(f"{each:g}" for each in used)
    return merged, f"LoRA merged into {len({pair.key for pair in pairs})} weights, with a scale of {said}"


@dataclass(frozen=True, slots=True)
class _Pair:
    """A change of some rows of a weight: float64, the scale included."""

    key: str
    rows: slice
    delta: Tensor
    scale: float


def _peft_pairs(state: dict[str, Tensor], scales: _Scales, where: Path) -> list[_Pair]:
    """Take PEFT's pairs out of the weights."""
    sides: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key in list(state):
        match = _PEFT.fullmatch(key)
        if match:
            at = (match["module"], match["adapter"] or "")
            sides.setdefault(at, {})[match["side"]] = state.pop(key)
    adapters = {adapter for _, adapter in sides}
    if len(adapters) > 1:
        raise _refused(f"this has several LoRA adapters: {', '.join(sorted(adapters))}", where)
    if scales.config.get("use_dora") is True or scales.config.get("fan_in_fan_out") is True:
        raise _refused("these LoRA layers are of a form that is not read (DoRA, or transposed weights)", where)
    pairs = []
    for (module, _), side in sides.items():
        down, up = side.get("A"), side.get("B")
        key = f"{module}.weight"
        if down is None or up is None or down.ndim != up.ndim or down.ndim not in (2, 4):
            raise _refused(f"the LoRA layers at {module!r} are not a pair", where)
        _require(state, key, where)
        scale = scales.of(module, len(down))
        if scale is None:
            raise _refused(
                f"the scale of these LoRA layers is not known: there is no {ADAPTER_CONFIG} beside the file",
                where,
                "Put that file beside it, or give lora_alpha divided by r: samedge export FILE --lora-scale SCALE",
            )
        pairs.append(_Pair(key, slice(None), _product(down, up) * scale, scale))
    return pairs


def _product(down: Tensor, up: Tensor) -> Tensor:
    down, up = down.double(), up.double()
    return up @ down if down.ndim == 2 else torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)


def _query_value_pairs(state: dict[str, Tensor], scale: float, where: Path) -> list[_Pair]:
    """Take pairs for queries and values out of the weights."""
    sides: dict[tuple[str, str], dict[str, Tensor]] = {}
    listed: dict[tuple[str, str], dict[str, Tensor]] = {}
    depth = len({key.split(".")[2] for key in state if re.match(r"image_encoder\.blocks\.\d+\.", key)})
    for key in list(state):
        match = _BESIDE.fullmatch(key)
        if match:
            sides.setdefault((match["module"], match["part"]), {})[match["side"]] = state.pop(key)
        match = _LISTED.fullmatch(key)
        if match:
            block, turn = divmod(int(match["place"]), 2)  # queries and values of each block in turn
            at = f"image_encoder.blocks.{block}.attn.qkv"
            listed.setdefault((at, "qv"[turn]), {})[match["side"]] = state.pop(key)
    if not sides and listed and depth and len(listed) != 2 * depth:
        raise _refused(
            f"there are LoRA layers for {len(listed)} of {2 * depth} projections, without their blocks", where
        )
    pairs = []
    for (module, part), side in (sides or listed).items():
        down, up = side.get("a"), side.get("b")
        key = f"{module}.weight"
        if down is None or up is None or down.ndim != 2 or up.ndim != 2:
            raise _refused(f"the LoRA layers at {module!r} are not a pair", where)
        _require(state, key, where)
        width = len(state[key]) // 3
        rows = slice(0, width) if part == "q" else slice(2 * width, 3 * width)
        pairs.append(_Pair(key, rows, up.double() @ down.double() * scale, scale))
    return pairs


def _require(state: Mapping[str, Tensor], key: str, where: Path) -> None:
    if key not in state:
        raise _refused(
            f"these are LoRA layers without the model that they add to: {key!r} is missing",
            where,
            "Export it with the checkpoint that it was trained from: samedge export FILE --base CHECKPOINT",
        )


def _refused(what: str, where: Path, cure: str = "") -> CheckpointError:
    other = f"{cure}; or {_MERGE_THERE}" if cure else f"{_MERGE_THERE[0].upper()}{_MERGE_THERE[1:]}"
    return CheckpointError(what, where=where, cure=other)
