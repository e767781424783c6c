"""Every exported form of the ViT encoder gives the numbers of Meta's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support import reference

from samedge.export.graphs import encoder_forms
from samedge.export.graphs.encoder_forms import ENCODER_FORMS, FoldedViT
from samedge.export.graphs.plans import GraphPlan
from samedge.export.graphs.trace import trace
from samedge.models.sam.build import empty_sam
from samedge.models.sam.configs import SMALL_VIT, SamConfig, ViTConfig
from samedge.models.sam.encoders.vit import ImageEncoderViT
from samedge.models.sam.seeded import seeded_state
from samedge.types import EncoderForm


@pytest.fixture(scope="module")
def theirs() -> Any:
    return reference.reference_sam(seeded_state(SMALL_VIT), SMALL_VIT).requires_grad_(requires_grad=False)


def encoder_of(config: SamConfig) -> ImageEncoderViT:
    sam = empty_sam(config)
    sam.load_state_dict(seeded_state(config))
    encoder = sam.eval().requires_grad_(requires_grad=False).image_encoder
    assert isinstance(encoder, ImageEncoderViT)
    return encoder


@pytest.mark.parametrize("form", ENCODER_FORMS)
def test_the_numbers_are_meta_s(theirs: Any, form: EncoderForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_forms, "CHUNK_QUERIES", 16)  # of the 64 tokens that the small model has
    monkeypatch.setattr(encoder_forms, "CHUNK_TOKENS", 24)
    folded = FoldedViT(encoder_of(SMALL_VIT), form)
    images = torch.randn(3, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    want = theirs.image_encoder(images)
    assert want.std() > 0.05
    assert (folded(images) - want).abs().max() < 2e-5


def wide_and_shallow() -> ImageEncoderViT:
    """Attention at SAM's true 64 x 64 tokens, in one windowed and one global block of two heads."""
    assert isinstance(SMALL_VIT.encoder, ViTConfig)
    encoder = replace(
        SMALL_VIT.encoder, image_size=1024, embed_dim=64, depth=2, num_heads=2, mlp_dim=128, window_sizes=(14, 0)
    )
    return encoder_of(replace(SMALL_VIT, encoder=encoder))


def largest_intermediate(model: onnx.ModelProto) -> int:
    """Returns the bytes of the largest float tensor between nodes, for one image."""
    del model.graph.value_info[:]
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    sizes = []
    for value in inferred.graph.value_info:
        # Of concatenated attention the inference knows one image's indicators by their rank alone.
        shape = [axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim]
        sizes.append(4 * int(np.prod(shape)))
    return max(sizes)


@pytest.mark.parametrize(
    ("form", "largest", "nodes"),
    [("chunked", 2048 * 4096 * 4, 235), ("mask", 2 * 4096 * 4096 * 4, 103), ("concat", 2 * 4096 * 4096 * 4, 111)],
)
def test_what_a_form_needs_at_true_size(form: EncoderForm, largest: int, nodes: int, tmp_path: Path) -> None:
    plan = GraphPlan(
        role="encoder",
        module=FoldedViT(wide_and_shallow(), form),
        example=(torch.zeros(1, 3, 1024, 1024),),
        inputs=("image",),
        outputs=("image_embeddings",),
        dynamic_axes={"image": {0: "batch"}, "image_embeddings": {0: "batch"}},
    )
    model = trace(plan, 17)
    assert len(model.graph.node) <= nodes
    kinds = {node.op_type for node in model.graph.node}
    assert {"Einsum", "If", "Loop"}.isdisjoint(kinds)
    assert ("Shape" in kinds) == (form == "concat")  # the indicators are repeated for each image
    assert largest_intermediate(model) == largest
