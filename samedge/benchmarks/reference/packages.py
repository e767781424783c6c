"""The reference packages, made importable beside a CPU build of torch, and their models in the sizes of a config.

They serve measurements and tests only: nothing is imported before one of the functions is called. All modules are
untyped, hence `Any`.

segment-anything and mobile_sam need torchvision. Its wheel on PyPI is compiled for a CUDA build of torch, so beside a
CPU build its compiled part cannot load and its import fails on a missing operator. Declaring the two operators makes
the genuine Python package work.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from samedge.benchmarks.measure.child import EXTRA
from samedge.errors import BenchmarkError, missing_extra
from samedge.families import resolve
from samedge.models.checkpoints.read import Checkpoint, read_checkpoint
from samedge.models.checkpoints.weights import SEEDED, find_checkpoint
from samedge.models.load import seeded_loader
from samedge.models.sam.configs import SamConfig, TinyViTConfig, ViTConfig
from samedge.models.sam.encoders.families import encoder_family
from samedge.models.sam.registry import Recognised, recognise
from samedge.models.sam.seeded import seeded_config, seeded_state

_torch: Any = torch  # its library functions are untyped
_libraries: list[Any] = []  # operators disappear when their library is garbage-collected


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices kept by torchvision's greedy non-maximum suppression of ``[N, 4]`` boxes, ``[N]`` scores."""
    order = scores.argsort(descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while order.numel():
        best, order = order[0], order[1:]
        kept.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[order, :2])
        size = (torch.minimum(boxes[best, 2:], boxes[order, 2:]) - corner).clamp(min=0)
        shared = size[:, 0] * size[:, 1]
        # Like the compiled operator: float32 IoUs, a float64 threshold, and boxes without area (NaN) are kept.
        order = order[~((shared / (area[best] + area[order] - shared)).double() > iou_threshold)]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


def _compiled_part_loads() -> bool:
    spec = find_spec("torchvision")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        for file in sorted(Path(folder).glob("_C.*")):
            try:
                _torch.ops.load_library(file)
            except (ImportError, OSError):
                return False
            return True
    return False


@cache
def torchvision() -> Any:
    """Return the module torchvision with working `torchvision.ops.nms`."""
    if _compiled_part_loads():
        return import_module("torchvision")
    library = _torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl(name, _nms, "CPU")
    _libraries.append(library)
    module = import_module("torchvision")
    # Only after the import: registrations made during it need operators that are not declared here.
    module.extension._has_ops = lambda: True  # noqa: SLF001
    return module


def quiet_import(name: str) -> Any:
    """Return a module that needs torchvision, without the warnings of its import."""
    try:
        torchvision()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated timm paths; five overwritten names in timm's registry
            return import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or name, EXTRA, f"Measuring against {name}") from error


@cache
def segment_anything() -> Any:
    """Return the module segment_anything."""
    return quiet_import("segment_anything")


@cache
def mobile_sam() -> Any:
    """Return the module mobile_sam."""
    return quiet_import("mobile_sam")


def _assemble(package: Any, image_encoder: Any, config: SamConfig, state: Mapping[str, Tensor]) -> Any:
    modeling, sizes, encoder = package.modeling, config.decoder, config.encoder
    sam = modeling.Sam(
        image_encoder=image_encoder,
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=sizes.dim,
            image_embedding_size=(encoder.grid, encoder.grid),
            input_image_size=(encoder.image_size, encoder.image_size),
            mask_in_chans=sizes.mask_in_chans,
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=sizes.num_mask_tokens - 1,
            transformer=modeling.TwoWayTransformer(
                depth=sizes.depth,
                embedding_dim=sizes.dim,
                mlp_dim=sizes.mlp_dim,
                num_heads=sizes.num_heads,
                attention_downsample_rate=sizes.dim // sizes.internal_dim,
            ),
            transformer_dim=sizes.dim,
            iou_head_depth=sizes.iou_head_depth,
            iou_head_hidden_dim=sizes.iou_head_hidden_dim,
        ),
    )
    sam.load_state_dict(dict(state))
    return sam.eval()


class ReferencePackage(Protocol):
    """The package that an image encoder comes from; `EncoderFamily.reference` names the class."""

    def package(self) -> Any:
        """Return the imported package.

        Raises:
            MissingExtraError: The package is not installed.
        """
        ...

    def build(self, state: Mapping[str, Tensor], config: SamConfig) -> Any:
        """Return the package's model with these sizes and weights, in evaluation mode."""
        ...

    def state(self, checkpoint: Checkpoint, found: Recognised) -> Mapping[str, Tensor]:
        """Return the weights of a checkpoint under the keys of the package."""
        ...

    def refuse(self, config: SamConfig, source: str) -> None:
        """Refuse sizes that the package's encoder does not support.

        Raises:
            BenchmarkError: The sizes are unsupported.
        """
        ...


class SegmentAnything:
    """Meta's package, for ViT encoders."""

    def package(self) -> Any:
        """See `ReferencePackage`."""
        return segment_anything()

    def build(self, state: Mapping[str, Tensor], config: SamConfig) -> Any:
        """Return a `segment_anything.modeling.Sam`, whose image encoder is a ViT."""
        package, encoder = segment_anything(), cast("ViTConfig", config.encoder)
        windows = {size for size in encoder.window_sizes if size} or {0}
        if len(windows) > 1:
            raise ValueError("Meta's encoder supports a single window size")
        image_encoder = package.modeling.ImageEncoderViT(
            img_size=encoder.image_size,
            patch_size=encoder.patch_size,
            embed_dim=encoder.embed_dim,
            depth=encoder.depth,
            num_heads=encoder.num_heads,
            mlp_ratio=encoder.mlp_dim / encoder.embed_dim,
            out_chans=encoder.out_chans,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            window_size=windows.pop(),
            global_attn_indexes=[i for i, size in enumerate(encoder.window_sizes) if size == 0],
        )
        return _assemble(package, image_encoder, config, state)

    def state(self, checkpoint: Checkpoint, found: Recognised) -> Mapping[str, Tensor]:
        """See `ReferencePackage`."""
        return found.state

    def refuse(self, config: SamConfig, source: str) -> None:
        """See `ReferencePackage`: the encoder runs at any size."""


class MobileSam:
    """MobileSAM's package, for TinyViT encoders."""

    def package(self) -> Any:
        """See `ReferencePackage`."""
        return mobile_sam()

    def build(self, state: Mapping[str, Tensor], config: SamConfig) -> Any:
        """Return a `mobile_sam.modeling.Sam`; its TinyViT ends in ``view(B, 64, 64, C)``: it runs at 1024 px only."""
        package, encoder = mobile_sam(), cast("TinyViTConfig", config.encoder)
        image_encoder = package.modeling.TinyViT(
            img_size=encoder.image_size,
            num_classes=1000,
            embed_dims=list(encoder.embed_dims),
            depths=list(encoder.depths),
            num_heads=list(encoder.num_heads),
            window_sizes=list(encoder.window_sizes),
            mlp_ratio=encoder.mlp_dims[-1] / encoder.embed_dims[-1],
            mbconv_expand_ratio=encoder.mlp_dims[0] / encoder.embed_dims[0],
            local_conv_size=encoder.local_conv_size,
            drop_path_rate=0.0,
        )
        return _assemble(package, image_encoder, config, state)

    def state(self, checkpoint: Checkpoint, found: Recognised) -> Mapping[str, Tensor]:
        """See `ReferencePackage`: the package has the batch norms that samedge folds."""
        return checkpoint.state

    def refuse(self, config: SamConfig, source: str) -> None:
        """See `ReferencePackage`."""
        if config.encoder.grid != 64:
            raise BenchmarkError(
                "the reference package's TinyViT runs at 1024 px only", where=source, cure="Measure mobile_sam"
            )


def reference_package(config: SamConfig) -> ReferencePackage:
    """Return the package of a config's image encoder; raise BenchmarkError if there is none."""
    family = encoder_family(config.encoder.family)
    if not family.reference:
        raise BenchmarkError(f"no reference package has the encoder {family.name!r}", cure="Measure it without --peers")
    return cast("ReferencePackage", resolve(family.reference)())


def reference_of(source: str) -> tuple[Any, SamConfig]:
    """Return the reference model of a checkpoint, in evaluation mode, and its configuration."""
    if source.startswith(SEEDED):
        config = seeded_config(source.removeprefix(SEEDED))
        package, state = reference_package(config), dict[str, Tensor](seeded_state(config))
    else:
        checkpoint = read_checkpoint(find_checkpoint(source))
        found = recognise(checkpoint)
        config, package = found.config, reference_package(found.config)
        state = dict(package.state(checkpoint, found))
    return package.build(state, config).requires_grad_(requires_grad=False), config


def write_seeded_state(name: str, file: str, folder: str) -> None:
    """Write random weights as a state dict for torch."""
    torch.save(dict(seeded_loader(name).seeded_state(name)), Path(folder) / file)


def use_threads(threads: int | None) -> None:
    """Set the number of torch's CPU threads; None leaves it unchanged."""
    if threads is not None:
        torch.set_num_threads(threads)
