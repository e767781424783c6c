"""Content of Ultralytics' checkpoints: the model object among training options, as stand-ins.

Turned into what every other checkpoint is here: a flat state dict, and a few facts that the weights do not tell, such
as the names of the classes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from torch import Tensor

from samedge.errors import CheckpointError
from samedge.models.checkpoints.pickled import StandIn, mapping, module_state, named_modules

FOREIGN_ROOT: Final = "ultralytics."
"""Beginning of the names of the classes in these files."""

NAMES: Final = "names"
"""Names of the classes: JSON, from number (as text) to name."""
STRIDE: Final = "stride"
"""Strides of the levels, px: JSON list."""
TASK: Final = "task"
"""Such as "detect" or "segment"."""
IMAGE_SIZE: Final = "imgsz"
"""Size that the model was trained at, px."""
NORM_EPS: Final = "batch_norm_eps"
"""Epsilon of the batch norms."""
LAYERS: Final = "layers"
"""Classes of the layers in order: JSON list."""
SHORTCUTS: Final = "shortcut_layers"
"""Numbers of the layers whose bottlenecks have a way around them: JSON list."""
ACTIVATIONS: Final = "activations"
"""Classes of the activations: JSON list."""
PLAIN: Final = "plain_convolutions"
"""Names of the modules whose convolution has no activation: JSON list."""
ATTENTION: Final = "attention"
"""Heads and areas of each attention by the name of its module: JSON."""

LICENCE: Final = "license"
"""Licence stated in the file."""

_TASKS: Final = {
    "DetectionModel": "detect",
    "SegmentationModel": "segment",
    "ClassificationModel": "classify",
    "PoseModel": "pose",
    "OBBModel": "obb",
}


def unpack_model(content: object, where: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights and the facts of a checkpoint that holds a whole model.

    Args:
        content: What `read_pickled` returned: a model, or a dictionary with "ema" or "model" in it. As in Ultralytics'
            own loading, the averaged weights ("ema") come first.
        where: The file, for messages.

    Returns:
        Tensors by key as they are in the file, and the facts under this module's names.

    Raises:
        CheckpointError: There is no model in it.
    """
    options: object = None
    licence: object = None
    model: object = content
    if isinstance(content, dict):
        found = mapping(content)
        licence = found.get(LICENCE)
        options = found.get("train_args")
        model = next((found[name] for name in ("ema", "model") if isinstance(found.get(name), StandIn)), None)
    state = module_state(model) if isinstance(model, StandIn) else {}
    if not isinstance(model, StandIn) or not state:
        raise CheckpointError(
            "there is no model in this file",
            where=where,
            cure="Use the best.pt or last.pt of the training, or the file as it was published",
        )
    facts = _facts(model, where)
    size = _option(options, IMAGE_SIZE) or _option(model.attributes.get("args"), IMAGE_SIZE)
    if isinstance(size, int):
        facts[IMAGE_SIZE] = str(size)
    if isinstance(licence, str) and licence.strip():
        facts[LICENCE] = " ".join(licence.split())[:200]
    return state, facts


def _facts(model: StandIn, where: Path) -> dict[str, str]:
    facts: dict[str, str] = {}
    task = _TASKS.get(_class(model)) or model.attributes.get("task")
    if isinstance(task, str):
        facts[TASK] = task
    names = model.attributes.get("names")
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if isinstance(names, dict):
        facts[NAMES] = json.dumps({key: str(name) for key, name in mapping(names).items()}, ensure_ascii=False)
    stride = model.attributes.get("stride")
    if isinstance(stride, Tensor):
        facts[STRIDE] = json.dumps([float(pixels) for pixels in stride.reshape(-1)])
    modules = {prefix: (_class(part), part) for prefix, part in named_modules(model)}
    norms = {part.attributes.get("eps") for kind, part in modules.values() if kind == "BatchNorm2d"}
    if len(norms) > 1:
        raise CheckpointError(
            "the batch norms of this model have different epsilons",
            where=where,
            cure="Fuse the model where it was made, model.fuse(), and save it again",
        )
    eps = norms.pop() if norms else None
    if isinstance(eps, float):
        facts[NORM_EPS] = repr(eps)
    facts[LAYERS] = json.dumps([kind for prefix, (kind, _) in modules.items() if re.fullmatch(r"model\.\d+\.", prefix)])
    facts[ACTIVATIONS] = json.dumps(sorted({kind for prefix, (kind, _) in modules.items() if prefix.endswith(".act.")}))
    shortcuts = {
        int(prefix.split(".")[1])
        for prefix, (_, part) in modules.items()
        if part.attributes.get("add") is True and re.match(r"model\.\d+\.", prefix)
    }
    facts[SHORTCUTS] = json.dumps(sorted(shortcuts))
    ends = {prefix.removesuffix(".act."): kind for prefix, (kind, _) in modules.items() if prefix.endswith(".act.")}
    facts[PLAIN] = json.dumps(sorted(name for name, kind in ends.items() if kind == "Identity"))
    heads = {prefix.removesuffix("."): part.attributes for prefix, (_, part) in modules.items()}
    facts[ATTENTION] = json.dumps(
        {name: [told["num_heads"], told.get("area", 1)] for name, told in heads.items() if "num_heads" in told}
    )
    return facts


def _class(part: StandIn) -> str:
    return part.kind.rpartition(".")[2]


def _option(options: object, name: str) -> object:
    """Return one of the training options, which are a dictionary or the stand-in of a namespace."""
    if isinstance(options, StandIn):
        options = options.attributes
    return mapping(options).get(name)
