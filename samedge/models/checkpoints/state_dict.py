"""From whatever a training script saved to plain weights: unwrapped, under bare key names, finite float32."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from samedge.errors import CheckpointError
from samedge.models.checkpoints.pickled import StandIn, module_state

WRAPPERS: Final = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "sam",
    "sam_model",
    "weights",
)
"""Names under which training scripts keep the weights beside optimizer, epoch and the like. The first that holds
tensors counts."""

_ROOTS: Final = frozenset({"image_encoder", "prompt_encoder", "mask_decoder", "pixel_mean", "pixel_std"})
_PREFIXES: Final = frozenset({"module", "_orig_mod", "model", "net", "network", "sam", "sam_model"})
_ANYWHERE: Final = frozenset({"module", "_orig_mod"})
"""Prefixes inserted by DataParallel and torch.compile, also inside names if only a part was wrapped."""

_MOST_WRAPPERS: Final = 64


def extract_state(content: object, where: Path) -> dict[str, Tensor]:
    """Return the weights in the content of a checkpoint.

    Args:
        content: What was read: a state dict, or a dictionary that has one somewhere.
        where: The file, for messages.

    Returns:
        Tensors by key. Wrappers and prefixes are gone, floating point numbers are float32.

    Raises:
        CheckpointError: There are no weights, two under one name, or some that cannot be used.
    """
    found = _find(content, set())
    if not found:
        raise CheckpointError(
            f"there are no weights in this file; it holds {_describe(content)}",
            where=where,
            cure="Save the weights with torch.save(model.state_dict(), path)",
        )
    state: dict[str, Tensor] = {}
    for key, value in found.items():
        name = bare_name(key)
        if name in state:
            raise CheckpointError(
                f"the file holds more than one model: {name!r} is there twice",
                where=where,
                cure="Save the weights of one model with torch.save(model.state_dict(), path)",
                key=name,
            )
        state[name] = _usable(name, value, where)
    return state


def bare_name(key: str) -> str:
    """Return a key without the prefixes of wrappers; a key that is not of a SAM comes back as it is."""
    parts = key.split(".")
    start = next((i for i, part in enumerate(parts) if part in _ROOTS), None)
    if start is None or not _PREFIXES.issuperset(parts[:start]):
        return key
    return ".".join(part for part in parts[start:] if part not in _ANYWHERE)


def _find(content: object, seen: set[int]) -> dict[str, Tensor]:
    if isinstance(content, StandIn):
        return module_state(content)
    # A pickle can hold itself, and be as deep as it is long.
    if not isinstance(content, dict) or id(content) in seen or len(seen) == _MOST_WRAPPERS:
        return {}
    seen.add(id(content))
    for name in WRAPPERS:
        found = _find(content.get(name), seen)
        if found:
            return found
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _describe(content: object) -> str:
    if isinstance(content, dict):
        names = [repr(key) for key in list(content)[:6]]
        more = ", …" if len(content) > len(names) else ""
        return f"a dictionary with {', '.join(names)}{more}" if names else "an empty dictionary"
    return repr(content) if isinstance(content, StandIn) else f"an object of type {type(content).__name__!r}"


def _usable(key: str, value: Tensor, where: Path) -> Tensor:
    tensor = value.detach()
    reason = None
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        reason = "is quantised, sparse, complex or without values"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        reason = "claims more values than the file holds"
    elif tensor.is_floating_point():
        tensor = tensor.float()
        if not torch.isfinite(tensor).all():
            reason = "has values that are not finite (NaN or infinity)"
    if reason is not None:
        raise CheckpointError(
            f"the weight {key!r} {reason}",
            where=where,
            cure="The training diverged or the file is damaged: use another checkpoint",
            key=key,
        )
    return tensor.as_subclass(Tensor)
