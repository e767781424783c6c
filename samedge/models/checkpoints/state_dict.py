"""From whatever a training script saved to plain weights: unwrapped, under bare key names, finite float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from samedge.errors import CheckpointError, UsageError
from samedge.models.checkpoints.pickled import StandIn, as_tensor, module_state
from samedge.models.checkpoints.roots import (
    ANYWHERE,
    FoundModel,
    RepeatedKeyError,
    alike,
    parts_of_models,
    tensors_in,
    whole_models,
)

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
_MOST_WRAPPERS: Final = 64


@dataclass(frozen=True, slots=True)
class Extracted:
    """The weights in the content of a checkpoint.

    Attributes:
        state: Tensors by key. Wrappers and prefixes are gone, floating point numbers are float32.
        left_out: Names of what lies beside the model and is no part of it.
    """

    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()


def extract_state(content: object, where: Path, weights_key: str | None = None) -> Extracted:
    """Return the weights in the content of a checkpoint.

    Args:
        content: What was read: a state dict, or containers that have one somewhere.
        where: The file, for messages.
        weights_key: Name of the model that counts, in a file of several.

    Raises:
        CheckpointError: There are no weights, two under one name, several models and no name that tells them apart, or
            some that cannot be used.
        UsageError: There is no model of this name.
    """
    found = tensors_in(content)
    try:
        models = whole_models(found)
    except RepeatedKeyError as error:
        raise _repeated(str(error), where) from error
    if models:
        model = _choose(models, where, weights_key)
        return Extracted(_all_usable(model.state, where), model.others)
    if weights_key is not None:
        start = f"{weights_key}."
        content = {path.removeprefix(start): value for path, value in found.items() if path.startswith(start)}
        if not content:
            raise _no_such_model(weights_key, sorted({path.partition(".")[0] for path in found}), where)
    kept = _find(content, set()) or parts_of(found, where)
    if not kept:
        raise CheckpointError(
            f"there are no weights in this file; it holds {_describe(content)}",
            where=where,
            cure="Save the weights with torch.save(model.state_dict(), path)",
        )
    state: dict[str, Tensor] = {}
    for key, value in kept.items():
        name = bare_name(key)
        if name in state:
            raise _repeated(name, where)
        state[name] = value
    return Extracted(_all_usable(state, where))


def extract_parts(content: object, where: Path) -> dict[str, Tensor]:
    """Return the tensors of any part of a SAM, under bare keys and as float32, whatever else is there.

    Args:
        content: As for `extract_state`.
        where: The file, for messages.

    Raises:
        CheckpointError: Two have one key, or some cannot be used.
    """
    return _all_usable(parts_of(tensors_in(content), where), where)


def parts_of(found: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """As `samedge.models.checkpoints.roots.parts_of_models`, with an error for users."""
    try:
        return parts_of_models(found)
    except RepeatedKeyError as error:
        raise _repeated(str(error), where) from error


def _choose(models: list[FoundModel], where: Path, weights_key: str | None) -> FoundModel:
    names = [model.name for model in models]
    if weights_key is not None:
        key = weights_key
        fitting = [model for model in models if model.name == key] or [
            model for model in models if model.prefix.startswith(f"{key}.") or model.prefix.endswith(f".{key}")
        ]
        if len(fitting) != 1:
            raise _no_such_model(key, names, where)
        return fitting[0]
    if len(models) > 1 and not alike(models):
        raise CheckpointError(
            f"there are {len(models)} models in this file: {', '.join(map(repr, names))}",
            where=where,
            cure=f"Choose one: samedge export --weights-key {names[0]}, or SAM(path).export(weights_key={names[0]!r})",
            models=tuple(names),
        )
    return models[0]


def _no_such_model(key: str, names: list[str], where: Path) -> UsageError:
    return UsageError(
        f"there is not one model named {key!r} in this file", where=where, cure=f"It has: {', '.join(names[:12])}"
    )


def _repeated(key: str, where: Path) -> CheckpointError:
    return CheckpointError(
        f"the file holds more than one model: {key!r} is there twice",
        where=where,
        cure="Save the weights of one model with torch.save(model.state_dict(), path)",
        key=key,
    )


def _all_usable(state: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    return {key: _usable(key, value, where) for key, value in state.items()}


def bare_name(key: str) -> str:
    """Return a key without the prefixes of wrappers; a key that is not of a SAM comes back as it is."""
    parts = key.split(".")
    start = next((i for i, part in enumerate(parts) if part in _ROOTS), None)
    if start is None or not _PREFIXES.issuperset(parts[:start]):
        return key
    return ".".join(part for part in parts[start:] if part not in ANYWHERE)


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
    tensors = {key: as_tensor(value) for key, value in content.items() if isinstance(key, str)}
    return {key: value for key, value in tensors.items() if value is not None}


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
