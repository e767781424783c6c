"""Graphs with the signatures of other exporters, traced from the small SAM of `support.bundles`."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.export.graphs.plans import GraphPlan, MetaDecoder, RawImageEncoder
from samedge.export.graphs.trace import trace
from samedge.models.sam.build import empty_sam
from samedge.models.sam.configs import IMAGENET, SMALL_VIT
from samedge.models.sam.sam import Sam
from samedge.models.sam.seeded import seeded_state
from support.shared import made_once

SIDE: Final = 128
GRID: Final = SIDE // 16
PROMPT_AXES: Final = {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}}
BATCH_AXES: Final = {name: {0: "batch_size", 1: "num_points"} for name in PROMPT_AXES}


def small_sam() -> Sam:
    """Return the model of `write_small_bundle`."""
    sam = empty_sam(SMALL_VIT)
    sam.load_state_dict(seeded_state(SMALL_VIT))
    return sam.eval()


class Wrapped(nn.Module):
    """A function of a SAM and tensors as a module."""

    def __init__(self, sam: Sam, function: Callable[..., object]) -> None:
        super().__init__()
        self.sam = sam
        self.function = function

    def forward(self, *tensors: Tensor) -> object:
        return self.function(self.sam, *tensors)


def _image(*size: int) -> tuple[Tensor, ...]:
    return (torch.zeros(*(size or (1, 3, SIDE, SIDE))),)


def encode(sam: Sam, image: Tensor) -> Tensor:
    return sam.encode(image)


def encode_hq(sam: Sam, image: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder subtracts the second from the first."""
    embedding = sam.encode(image)
    return 2 * embedding, embedding.permute(0, 2, 3, 1).unsqueeze(0)


def encode_with_positions(sam: Sam, image: Tensor) -> tuple[Tensor, Tensor]:
    return sam.encode(image), sam.prompt_encoder.dense_pe()


def encode_half(sam: Sam, image: Tensor) -> Tensor:
    return sam.encode(F.interpolate(image, scale_factor=2.0, mode="nearest"))


def encode_unit(sam: Sam, images: Tensor) -> Tensor:
    square = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) / 255 for values in (IMAGENET.pixel_mean, IMAGENET.pixel_std))
    return sam.encode((square - mean) / std)


def no_mask(sam: Sam, embedding: Tensor, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    side = 4 * GRID
    return sam.decode(embedding, coords, labels, torch.zeros(1, 1, side, side), torch.zeros(1))


def decode_edgesam(sam: Sam, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    masks, scores = no_mask(sam, *tensors)
    return scores, masks


def decode_optimum(
    sam: Sam, positions: Tensor, embedding: Tensor, points: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """As transformers does: it appends the padding point, and knows labels 0 and 1."""
    coords, kinds = points[0], labels[0]
    coords = torch.cat([coords, torch.zeros_like(coords[:, :1])], 1)
    kinds = torch.cat([kinds, -torch.ones_like(kinds[:, :1])], 1)
    sparse = sam.prompt_encoder.embed_points(coords, kinds)
    dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    masks, scores = sam.mask_decoder((embedding + dense).expand(coords.shape[0], -1, -1, -1), positions, sparse)
    return scores[None, :, 1:], masks[None, :, 1:]


def decode_efficientsam(
    sam: Sam, embedding: Tensor, points: Tensor, labels: Tensor, size: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As EfficientSAM does: points in px of the image, filled up to six."""
    scaled = torch.stack([points[..., 0] * SIDE / size[1], points[..., 1] * SIDE / size[0]], -1)[0]
    count = scaled.shape[1]
    coords = F.pad(scaled, (0, 0, 0, 6 - count), value=-1.0)
    kinds = F.pad(labels[0], (0, 6 - count), value=-1.0)
    masks, scores = no_mask(sam, embedding, coords, kinds)
    drawn = F.interpolate(masks[:, 1:], [size[0], size[1]], mode="bilinear")  # type: ignore[list-item]
    return drawn[None], scores[None, :, 1:], masks[:, 1:]


class Hq(nn.Module):
    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.meta = MetaDecoder(sam, single=False)

    def forward(self, embedding: Tensor, features: Tensor, *prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        masks, scores, low = self.meta(embedding - features[0].permute(0, 3, 1, 2), *prompts)
        return masks[:, :1], scores[:, :1], low[:, :1]


class Cvat(MetaDecoder):
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        masks, scores, low = super().forward(*tensors)
        inside = (masks[0, 0] > 0).to(torch.int64)
        columns, rows = inside.amax(0), inside.amax(1)
        xtl, ytl = columns.argmax(), rows.argmax()
        return masks, scores, low, xtl, ytl, xtl + columns.sum(), ytl + rows.sum()


class MasksOnly(MetaDecoder):
    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        masks, scores, _ = super().forward(*tensors)
        return masks, scores


def _prompts(labels: torch.dtype = torch.float32, count: int = 1) -> tuple[Tensor, ...]:
    return torch.full((count, 3, 2), 30.0), torch.ones(count, 3, dtype=labels)


def _embedding() -> Tensor:
    return torch.zeros(1, small_sam().prompt_encoder.embed_dim, GRID, GRID)


def _meta_example() -> tuple[Tensor, ...]:
    side = 4 * GRID
    return _embedding(), *_prompts(), torch.zeros(1, 1, side, side), torch.zeros(1), torch.tensor([150.0, 100.0])


META: Final = "image_embeddings point_coords point_labels mask_input has_mask_input orig_im_size"
THREE: Final = "image_embeddings point_coords point_labels"


def plan(name: str) -> GraphPlan:
    """Return the plan of one of the graphs: encoders and decoders by the names of their dialects."""
    sam = small_sam()
    features = torch.zeros(1, 1, GRID, GRID, sam.prompt_encoder.embed_dim)
    embedding = _embedding()
    plans: dict[str, tuple[nn.Module, tuple[Tensor, ...], str, str, dict[str, dict[int, str]]]] = {
        "image": (Wrapped(sam, encode), _image(), "image", "image_embeddings", {"image": {0: "batch"}}),
        "input_image": (Wrapped(sam, encode), _image(), "input_image", "image_embeddings", {}),
        "half": (Wrapped(sam, encode_half), _image(1, 3, SIDE // 2, SIDE // 2), "input_image", "image_embeddings", {}),
        "x": (Wrapped(sam, encode), _image(), "x", "out_4011", {}),
        "hq": (Wrapped(sam, encode_hq), _image(), "image", "image_embeddings interm_embeddings", {}),
        "pixel_values": (
            Wrapped(sam, encode_with_positions), _image(), "pixel_values",
            "image_embeddings image_positional_embeddings", {"pixel_values": {0: "batch_size"}},
        ),
        "input_image_hwc": (
            RawImageEncoder(sam.image_encoder, SIDE, IMAGENET), _image(SIDE // 2, SIDE, 3), "input_image",
            "image_embeddings",
            {"input_image": {0: "image_height", 1: "image_width"}},
        ),
        "batched_images": (
            Wrapped(sam, encode_unit), _image(1, 3, 90, 70), "batched_images", "image_embeddings",
            {"batched_images": {0: "batch", 2: "height", 3: "width"}},
        ),
        "meta": (
            MetaDecoder(sam, single=False), _meta_example(), META, "masks iou_predictions low_res_masks", PROMPT_AXES,
        ),
        "meta_single": (
            MetaDecoder(sam, single=True), _meta_example(), META, "masks iou_predictions low_res_masks", PROMPT_AXES,
        ),
        "cvat": (
            Cvat(sam, single=False), _meta_example(), META,
            "masks iou_predictions low_res_masks xtl ytl xbr ybr", PROMPT_AXES,
        ),
        "meta_masks": (MasksOnly(sam, single=False), _meta_example(), META, "masks iou_predictions", PROMPT_AXES),
        "nanosam": (
            Wrapped(sam, lambda sam, *tensors: sam.decode(*tensors)[::-1]), _meta_example()[:5],
            META.removesuffix(" orig_im_size"), "iou_predictions low_res_masks", PROMPT_AXES,
        ),
        "edgesam": (Wrapped(sam, decode_edgesam), (embedding, *_prompts()), THREE, "scores masks", PROMPT_AXES),
        "efficientvit": (
            Wrapped(sam, no_mask), (embedding, *_prompts(count=2)), THREE, "masks iou_predictions", BATCH_AXES,
        ),
        "hq_decoder": (
            Hq(sam), (embedding, features, *_meta_example()[1:]), f"image_embeddings interm_embeddings {META[17:]}",
            "masks iou_predictions low_res_masks", PROMPT_AXES,
        ),
        "optimum": (
            Wrapped(sam, decode_optimum),
            (sam.prompt_encoder.dense_pe(), embedding, _prompts()[0].expand(2, -1, -1)[None],
             torch.ones(1, 2, 3, dtype=torch.int64)),
            "image_positional_embeddings image_embeddings input_points input_labels", "iou_scores pred_masks",
            {name: {1: "point_batch_size", 2: "nb_points_per_image"} for name in ("input_points", "input_labels")},
        ),
        "efficientsam": (
            Wrapped(sam, decode_efficientsam),
            (embedding, _prompts()[0][None], _prompts()[1][None], torch.tensor([90, 70])),
            "image_embeddings batched_point_coords batched_point_labels orig_im_size",
            "output_masks iou_predictions onnx_1830",
            {name: {2: "num_points"} for name in ("batched_point_coords", "batched_point_labels")},
        ),
    }  # fmt: skip
    module, example, inputs, outputs, axes = plans[name]
    return GraphPlan(name, module, example, tuple(inputs.split()), tuple(outputs.split()), axes)


def write_graph(name: str, path: Path) -> Path:
    """Write one of the graphs; traced once in a run."""
    made = made_once(f"foreign-{name}.onnx", lambda file: onnx.save(trace(plan(name), 17), str(file)))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made, path)
    return path


def write_pair(encoder: str, decoder: str, folder: Path) -> Path:
    """Write a pair of graphs into a folder, as their tools call them, and return the folder."""
    write_graph(encoder, folder / "toy_encoder.onnx")
    write_graph(decoder, folder / "toy_decoder.onnx")
    return folder


def write_metas_own(path: Path, package: str = "segment_anything", *, single: bool = False) -> Path:
    """Write the decoder as Meta's or MobileSAM's exporting script does, with the class of the installed package."""
    made = made_once(f"foreign-{package}-{single}.onnx", lambda file: _trace_metas_own(file, package, single))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made, path)
    return path


def _trace_metas_own(path: Path, package: str, single: bool) -> None:
    from support import reference

    getattr(reference, package)()
    model = import_module(f"{package}.utils.onnx").SamOnnxModel(
        reference.reference_sam(seeded_state(SMALL_VIT), SMALL_VIT).eval(), return_single_mask=single
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, _meta_example(), str(path), opset_version=17, dynamo=False, input_names=META.split(),
            output_names=["masks", "iou_predictions", "low_res_masks"], dynamic_axes=PROMPT_AXES,
        )  # fmt: skip
