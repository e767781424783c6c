"""The model among all tensors of a file: the common prefix before the parts of a SAM tells where it begins.

Training scripts keep losses, metrics, optimizers and a second model beside the one that matters, under names of their
own choosing. The parts of a SAM have the same names everywhere, so the structure tells what the names do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from samedge.models.checkpoints.pickled import StandIn, as_tensor, module_state

PARTS: Final = frozenset({"image_encoder", "prompt_encoder", "mask_decoder"})
HUGGING_FACE_PARTS: Final = frozenset({"vision_encoder", "shared_image_embedding"})
"""Parts that only the layout of transformers has; it shares the other two with Meta's."""

ANYWHERE: Final = frozenset({"module", "_orig_mod"})
"""Prefixes inserted by DataParallel and torch.compile, also inside names if only a part was wrapped."""

TOP: Final = "."
"""Name of a model whose weights have no prefix."""

_ENCODERS: Final = ("image_encoder.", "vision_encoder.")
_SIGN: Final = "mask_decoder.iou_token.weight"
_FIRST: Final = PARTS | HUGGING_FACE_PARTS | {"pixel_mean", "pixel_std"}
_MOST_LEVELS: Final = 64
_LORA_LISTS: Final = ("w_a_", "w_b_")


class RepeatedKeyError(Exception):
    """Two tensors have one key; the text is the key. Never leaves this folder."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A SAM among the tensors of a file.

    Attributes:
        prefix: What all its keys begin with in the file, without the dot; empty for nothing.
        state: Its tensors under bare keys.
        others: Names of what is in the file and no part of it.
    """

    prefix: str
    state: dict[str, Tensor]
    others: tuple[str, ...]

    @property
    def name(self) -> str:
        """The prefix as messages and options call it."""
        return self.prefix or TOP


def tensors_in(content: object) -> dict[str, Tensor]:
    """Return every tensor in nested dictionaries, lists, tuples and stand-ins by its path, joined by dots."""
    return dict(_walk(content))


def _walk(content: object) -> Iterator[tuple[str, Tensor]]:
    # A pickle can hold itself, name one container many times, and be as deep as it is long.
    seen: set[int] = set()
    waiting: list[tuple[str, object, int]] = [("", content, 0)]
    while waiting:
        path, value, level = waiting.pop()
        tensor = as_tensor(value)
        if tensor is not None:
            yield path, tensor
            continue
        if id(value) in seen or level > _MOST_LEVELS:
            continue
        entries = _entries(value)
        if entries:
            seen.add(id(value))
            start = f"{path}." if path else ""
            waiting += [(f"{start}{name}", item, level + 1) for name, item in reversed(list(entries.items()))]


def _entries(value: object) -> Mapping[str, object]:
    if isinstance(value, StandIn):
        return module_state(value) or {str(name): item for name, item in value.attributes.items()}
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items() if isinstance(key, (str, int, float))}
    if isinstance(value, (list, tuple)):
        return {str(place): item for place, item in enumerate(value)}
    return {}


def whole_models(found: Mapping[str, Tensor]) -> list[FoundModel]:
    """Return every SAM that has an image encoder and a mask decoder, in the order of the file.

    Raises:
        RepeatedKeyError: One of them has two tensors under one key.
    """
    states: dict[str, dict[str, Tensor]] = {}
    lists: dict[str, Tensor] = {}
    for path, value in found.items():
        place = _place(path)
        if place is None:
            name = path.rpartition(".")[2]
            if name.startswith(_LORA_LISTS):
                lists[name] = value
            continue
        prefix, key = place
        state = states.setdefault(prefix, {})
        if key in state:
            raise RepeatedKeyError(key)
        state[key] = value
    whole = {
        prefix: state
        for prefix, state in states.items()
        if _SIGN in state and any(key.startswith(_ENCODERS) for key in state)
    }
    return [FoundModel(prefix, {**state, **lists}, _others(found, prefix)) for prefix, state in whole.items()]


def parts_of_models(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of any part of a SAM, and of LoRA's lists, under bare keys.

    Raises:
        RepeatedKeyError: Two tensors have one key.
    """
    state: dict[str, Tensor] = {}
    for path, value in found.items():
        place = _place(path)
        name = place[1] if place else path.rpartition(".")[2]
        if place is None and not name.startswith(_LORA_LISTS):
            continue
        if name in state:
            raise RepeatedKeyError(name)
        state[name] = value
    return state


def alike(models: list[FoundModel]) -> bool:
    """Return True if all models have the same weights."""
    first, *rest = (model.state for model in models)
    return all(
        state.keys() == first.keys() and all(torch.equal(value, first[key]) for key, value in state.items())
        for state in rest
    )


def _place(path: str) -> tuple[str, str] | None:
    """Return the prefix of a path and the bare key behind it; None for what is no part of a SAM."""
    parts = [part for part in path.split(".") if part not in ANYWHERE]
    start = next((place for place, part in enumerate(parts) if part in _FIRST), None)
    if start is None:
        return None
    key = parts[start:]
    if "original_module" in key:  # what PEFT trained a copy of, which counts
        return None
    if "modules_to_save" in key[:-1]:
        copy = key.index("modules_to_save")
        key = key[:copy] + key[copy + 2 :]  # with the adapter's name
    return ".".join(parts[:start]), ".".join(key)


def _others(found: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    """Return the shortest beginnings of paths that lead elsewhere than the prefix."""
    way = prefix.split(".") if prefix else []
    others: dict[str, None] = {}
    for path in found:
        parts = [part for part in path.split(".") if part not in ANYWHERE]
        shared = next((at for at, (own, part) in enumerate(zip(way, parts, strict=False)) if own != part), len(way))
        if shared == len(way) and (place := _place(path)) is not None and place[0] == prefix:
            continue
        if parts[-1].startswith(_LORA_LISTS) or "original_module" in parts:
            continue
        others[".".join(parts[: shared + 1])] = None
    return tuple(others)
