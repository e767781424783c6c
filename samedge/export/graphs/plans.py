"""The graphs of SAM: torch modules to trace, and the names of their inputs and outputs, in four I/O schemes.

* ``native``: many prompts on one image, many points per prompt, all four masks at low resolution; the host resizes. The
decoder is written twice: whole, and split into three graphs of half the cost.
* ``meta``: the decoder of Meta's web demo and its descendants: one prompt, masks at image size.
* ``samexporter``: Meta's decoder, and an encoder for the resized image, HWC and 0..255.
* ``osam``: Meta's decoder, and an encoder whose input is called ``x``, for osam and labelme.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samedge.bundle.dialects import DIALECTS
from samedge.bundle.manifest import DEFAULT_VARIANT, GraphRole
from samedge.export.graphs.split_decoder import DecoderContext, DecoderMasks, DecoderPrompts
from samedge.families import resolve
from samedge.models.sam.configs import Normalisation
from samedge.models.sam.encoders.families import encoder_family
from samedge.models.sam.sam import Sam
from samedge.runtime.decoder.decoders import CONTEXT_INPUTS, CONTEXT_OUTPUTS, PROMPT_INPUTS, PROMPTS_OUTPUTS
from samedge.runtime.image.geometry import MOST_FLAT
from samedge.types import EncoderForm, IOScheme

DynamicAxes = dict[str, dict[int, str]]


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """The data for tracing one graph.

    Attributes:
        role: Role of the graph in the bundle.
        module: The module to trace.
        example: Inputs to trace with, in the order of `inputs`.
        inputs: Input names.
        outputs: Output names.
        dynamic_axes: For each input and output, the free axes and their names.
        output_shapes: Shapes of outputs that shape inference cannot determine.
        variant: Form of the graph, if there are several.
    """

    role: GraphRole
    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_axes: DynamicAxes = field(default_factory=dict)
    output_shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    variant: str = DEFAULT_VARIANT


def encoder_module(sam: Sam, form: EncoderForm) -> tuple[nn.Module, str]:
    """Return the image encoder to export, and the name of its variant.

    It maps ``image`` float32 ``[N, 3, S, S]``, normalised, to ``image_embeddings`` float32 ``[N, C, g, g]``.
    """
    encoder = sam.image_encoder
    family = encoder_family(str(encoder.family))
    if not family.form:
        return encoder, DEFAULT_VARIANT
    module, variant = cast("tuple[nn.Module, str]", resolve(family.form)(encoder, form))
    return module, variant


class RawImageEncoder(nn.Module):
    """``input_image`` float32 ``[H, W, 3]``, RGB 0..255, long side S, to ``image_embeddings`` ``[1, C, g, g]``.

    Normalisation and zero padding to S x S are part of the graph, as in samexporter's ``--use-preprocess``.
    """

    def __init__(self, encoder: nn.Module, image_size: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.encoder = encoder
        self.image_size = image_size
        self.stretched = normalisation.stretched
        self.register_buffer("mean", torch.tensor(normalisation.pixel_mean))
        self.register_buffer("std", torch.tensor(normalisation.pixel_std))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, input_image: Tensor) -> Tensor:
        """Normalise, pad and encode one image."""
        height, width = input_image.shape[0], input_image.shape[1]
        if self.stretched:
            least, most = input_image.min(), input_image.max()
            input_image = (input_image - least) * (255 / (most - least).clamp(min=MOST_FLAT))
        image = ((input_image - self.mean) / self.std).permute(2, 0, 1).unsqueeze(0)
        size = self.image_size
        padded = F.pad(image, (0, size - width, 0, size - height))
        embeddings: Tensor = self.encoder(padded.reshape(1, 3, size, size))
        return embeddings


class NativeDecoder(nn.Module):
    """B prompts of P points on one image to all low-resolution mask logits and predicted IoUs."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts; shapes as in `Sam.decode`."""
        return self.sam.decode(image_embeddings, point_coords, point_labels, mask_input, has_mask_input)


def resized_size(image_size: Tensor, long_side: int) -> Tensor:
    """Return int64 ``[2]`` (H, W) of an image resized to a long side, as ``floor(side * scale + 0.5)``.

    Computed with tensors throughout: as Python numbers, the crop of the traced image would be frozen into the graph,
    and masks of other aspect ratios would be wrong, as in segment-anything 1.0.
    """
    scale = long_side / image_size.max()
    return torch.floor(scale * image_size + 0.5).to(torch.int64)


class MetaDecoder(nn.Module):
    """The decoder with Meta's names and shapes: one prompt, mask logits at image size.

    If `single`, it returns one mask instead of all four, chosen like Meta's graph by predicted IoU and number of
    points: token 0 for more than two points, otherwise the best of the others.
    """

    def __init__(self, sam: Sam, *, single: bool) -> None:
        super().__init__()
        self.sam = sam
        self.single = single

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks ``[1, M, H, W]`` (logits), iou_predictions ``[1, M]``, low_res_masks ``[1, M, 4g, 4g]``."""
        low_res, ious = self.sam.decode(image_embeddings, point_coords, point_labels, mask_input, has_mask_input)
        if self.single:
            # 1000 decides for or against token 0; 2.5 because a click comes with one padding point.
            tokens = self.sam.mask_decoder.num_mask_tokens
            bonus = torch.tensor([[1000.0, *[0.0] * (tokens - 1)]])
            best = torch.argmax(ious + (point_coords.shape[1] - 2.5) * bonus, dim=1)
            low_res, ious = low_res.index_select(1, best), ious.index_select(1, best)
        size = self.sam.image_size
        masks = F.interpolate(low_res, size=(size, size), mode="bilinear", align_corners=False)
        resized = resized_size(orig_im_size, size)
        masks = masks[..., : resized[0], : resized[1]]
        original = orig_im_size.to(torch.int64)
        masks = F.interpolate(masks, size=list(original), mode="bilinear", align_corners=False)
        return masks, ious, low_res


def _native_encoder(sam: Sam, form: EncoderForm, name: str = "image") -> GraphPlan:
    size = sam.image_size
    encoder, variant = encoder_module(sam, form)
    features = encoder_family(str(sam.image_encoder.family)).features
    return GraphPlan(
        role="encoder",
        module=encoder,
        variant=variant,
        example=(torch.zeros(1, 3, size, size),),
        inputs=(name,),
        outputs=features,
        dynamic_axes={each: {0: "batch"} for each in (name, *features)},
    )


def _raw_encoder(sam: Sam, form: EncoderForm) -> GraphPlan:
    size = sam.image_size
    encoder, variant = encoder_module(sam, form)
    return GraphPlan(
        role="encoder",
        module=RawImageEncoder(encoder, size, sam.normalisation),
        variant=variant,
        example=(torch.zeros(size // 2, size, 3),),
        inputs=("input_image",),
        outputs=("image_embeddings",),
        dynamic_axes={"input_image": {0: "height", 1: "width"}},
    )


def _example_prompts(sam: Sam, prompts: int, points: int, labels: torch.dtype) -> tuple[Tensor, ...]:
    grid = sam.embedding_size
    return (
        torch.zeros(1, sam.prompt_encoder.embed_dim, grid, grid),
        torch.full((prompts, points, 2), sam.image_size / 2),
        torch.ones(prompts, points, dtype=labels),
        torch.zeros(prompts, 1, 4 * grid, 4 * grid),
        torch.zeros(prompts),
    )


_POINT_AXES: Final[DynamicAxes] = {name: {0: "prompts", 1: "points"} for name in ("point_coords", "point_labels")}


def _native_decoder(sam: Sam) -> GraphPlan:
    return GraphPlan(
        role="decoder",
        module=NativeDecoder(sam),
        # Two prompts of three points: a size of 1 could become a constant.
        example=_example_prompts(sam, 2, 3, torch.int32),
        inputs=PROMPT_INPUTS,
        outputs=("low_res_masks", "iou_predictions"),
        dynamic_axes={
            **_POINT_AXES,
            **{name: {0: "prompts"} for name in ("mask_input", "has_mask_input", "low_res_masks", "iou_predictions")},
        },
    )


def _split_decoder(sam: Sam) -> tuple[GraphPlan, ...]:
    context, prompts, masks = DecoderContext(sam).eval(), DecoderPrompts(sam).eval(), DecoderMasks(sam).eval()
    embedding, coords, labels, mask_input, has_mask = _example_prompts(sam, 2, 3, torch.int32)
    with torch.no_grad():
        image = context(embedding, mask_input, has_mask)
        _, weights, attended = prompts(*image, coords, labels)
    per_context = {name: {0: "contexts"} for name in CONTEXT_OUTPUTS if name != "image_positions"}
    return (
        GraphPlan(
            role="decoder_context",
            module=context,
            example=(embedding, mask_input, has_mask),
            inputs=CONTEXT_INPUTS,
            outputs=CONTEXT_OUTPUTS,
            dynamic_axes={"mask_input": {0: "contexts"}, "has_mask_input": {0: "contexts"}, **per_context},
        ),
        GraphPlan(
            role="decoder_prompts",
            module=prompts,
            example=(*image, coords, labels),
            inputs=(*CONTEXT_OUTPUTS, "point_coords", "point_labels"),
            outputs=PROMPTS_OUTPUTS,
            dynamic_axes={**per_context, **_POINT_AXES, **{name: {0: "prompts"} for name in PROMPTS_OUTPUTS}},
        ),
        GraphPlan(
            role="decoder_masks",
            module=masks,
            example=(attended, weights),
            inputs=("attended_image", "mask_weights"),
            outputs=("low_res_masks",),
            dynamic_axes={name: {0: "prompts"} for name in ("attended_image", "mask_weights", "low_res_masks")},
        ),
    )


def _meta_decoder(sam: Sam, *, single: bool) -> GraphPlan:
    size = float(sam.image_size)
    return GraphPlan(
        role="decoder_single" if single else "decoder",
        module=MetaDecoder(sam, single=single),
        example=(*_example_prompts(sam, 1, 5, torch.float32), torch.tensor([size * 1.5, size])),
        inputs=(*PROMPT_INPUTS, "orig_im_size"),
        outputs=("masks", "iou_predictions", "low_res_masks"),
        dynamic_axes={
            "point_coords": {1: "num_points"},
            "point_labels": {1: "num_points"},
            "masks": {2: "height", 3: "width"},
        },
        output_shapes={"masks": (1, 1 if single else sam.mask_decoder.num_mask_tokens, "height", "width")},
    )


def plan_graphs(sam: Sam, io: IOScheme, form: EncoderForm = "chunked") -> tuple[GraphPlan, ...]:
    """Return the plans of a bundle's graphs, the encoder first, in an I/O scheme and form."""
    dialect = DIALECTS[io].encoder
    raw = dialect.layout == "hwc"
    encoder = _raw_encoder(sam, form) if raw else _native_encoder(sam, form, dialect.input)
    if io == "native":
        return (encoder, _native_decoder(sam), *_split_decoder(sam))
    return encoder, _meta_decoder(sam, single=False), _meta_decoder(sam, single=True)
